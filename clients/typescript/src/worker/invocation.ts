import type { Codec } from "../codec/content-type.js";
import { decodePlain, encodeValue, readText } from "../codec/values.js";
import { messageOf, MethodError } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { encodeFault, type FaultReply } from "../protocol/dispatch.js";
import { shortened } from "../protocol/jobs.js";
import { ValueError } from "../types/type.js";

/** How a method, or the runtime in its place, answers. */
export interface MethodReply {
  readonly kind: "result" | "error" | "fault";
  readonly body: Buffer;
  /** `null` unless the kind is `fault`. */
  readonly fault: FaultReply | null;
}

/** A fault as a reply. */
export function faultReply(codec: Codec, fault: FaultReply): MethodReply {
  return { kind: "fault", body: encodeFault(codec, fault), fault };
}

/** A fault with a reason of at most 1 KiB. */
export function fault(code: string, reason: unknown): FaultReply {
  return { code, message: shortened(messageOf(reason), 1024) };
}

/** Reads the arguments of a request. Throws a {@link ValueError}. */
export function readArguments(method: AnyMethod, codec: Codec, body: Buffer): unknown {
  if (codec !== "text") {
    // An empty body is an empty map.
    return method.args.fromPlain(body.length === 0 ? {} : decodePlain(codec, body));
  }
  const [name, ...others] = method.argNames;
  if (name === undefined) return method.args.fromPlain({});
  if (others.length > 0) throw new ValueError("plain text holds a single argument");
  const type = method.argTypes[name]!;
  if (type.text !== undefined) {
    const value = type.text.parse(readText(body)) as unknown;
    return { [name]: value };
  }
  try {
    return { [name]: type.fromPlain(body) };
  } catch {
    throw new ValueError("the argument is structured: use JSON or MessagePack");
  }
}

/** Encodes what a method returned, or a fault if that cannot be sent. */
export function resultReply(
  method: AnyMethod,
  codec: Codec,
  value: unknown,
  maxBytes: number,
): MethodReply {
  let body: Buffer;
  try {
    // A one-way method whose request wants a reply is answered with the empty value.
    body = method.oneway
      ? encodeValue(codec, { toPlain: () => null, fromPlain: () => null }, null)
      : encodeValue(codec, method.result, value);
  } catch (error) {
    const reason = `the result cannot be sent: ${messageOf(error)}`;
    return faultReply(codec, fault("unanswerable", reason));
  }
  return limited({ kind: "result", body, fault: null }, codec, maxBytes);
}

/** Encodes what a method threw: its own error if that can be sent, or else a fault. */
export function thrownReply(
  method: AnyMethod,
  codec: Codec,
  error: unknown,
  maxBytes: number,
): MethodReply {
  const ErrorType = method.error;
  if (ErrorType === null || !(error instanceof ErrorType)) {
    return faultReply(codec, fault("panicked", `the method ${JSON.stringify(method.name)} threw`));
  }
  try {
    const { value } = error as MethodError;
    const body = encodeValue(codec, ErrorType.type, value);
    return limited({ kind: "error", body, fault: null }, codec, maxBytes);
  } catch (failure) {
    const reason = `the error cannot be sent: ${messageOf(failure)}`;
    return faultReply(codec, fault("unanswerable", reason));
  }
}

/** Replaces a reply that is too large by a fault. */
function limited(reply: MethodReply, codec: Codec, maxBytes: number): MethodReply {
  const size = reply.body.length;
  if (size <= maxBytes) return reply;
  const problem = `its reply of ${size} bytes is larger than the ${maxBytes} that may be sent`;
  return faultReply(codec, fault("reply_too_large", `the method ran, and ${problem}`));
}
