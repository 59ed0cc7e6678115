import { setMaxListeners } from "node:events";

import { encodePlain, decodeValue } from "../codec/values.js";
import { BadReply, EncodeFailed, MethodError, RpcError, type Executed } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { readFault, readReply, type Reply } from "../protocol/reply.js";
import type { Incoming } from "../transport/message.js";
import { MAX_TIMER_MS } from "../transport/time.js";
import { currentContext } from "../worker/context.js";
import type { CallPlan } from "./call-plan.js";
import type { RunningCall } from "./running-call.js";
import type { ClientOptions, CodecName } from "./options.js";

const DEFAULT_LIMIT_MS = 30_000;
const MAX_HEADER_BYTES = 4096;

/**
 * Makes the plan of a call. `headers` are those of the protocol, which `options` cannot set. Throws
 * an {@link EncodeFailed} if the arguments or the options are invalid.
 */
export function planCall(
  method: AnyMethod,
  queue: string,
  args: unknown,
  options: ClientOptions,
  headers: Readonly<Record<string, string>> = {},
): CallPlan & { readonly codec: CodecName } {
  const codec = options.codec ?? "msgpack";
  // Many calls may share a signal. Without this, Node.js warns of a leak.
  if (options.signal !== undefined) setMaxListeners(0, options.signal);
  return {
    queue,
    method: method.name,
    codec,
    body: encodeArguments(method, args, codec),
    headers: { ...checkHeaders(options.headers ?? {}), ...headers },
    priority: checkPriority(options.priority),
    isIdempotent: method.idempotent,
    waitsForServer: options.waitForServer ?? false,
    limitMs: limitOf(method, options),
    signal: options.signal,
  };
}

/** Encodes the arguments of a method. */
export function encodeArguments(method: AnyMethod, args: unknown, codec: CodecName): Buffer {
  try {
    return encodePlain(codec, method.args.toPlain(args));
  } catch (error) {
    throw new EncodeFailed(error);
  }
}

/** How long a call may take. In a handler, no longer than the handler's own caller waits. */
export function limitOf(method: AnyMethod, options: ClientOptions): number {
  const limit = options.timeoutMs ?? method.timeoutMs ?? DEFAULT_LIMIT_MS;
  if (!(limit > 0)) throw new EncodeFailed("it must be above 0", "the timeout is invalid");
  return Math.min(limit, currentContext()?.timeLeftMs ?? Infinity, MAX_TIMER_MS);
}

function checkPriority(priority: number | undefined): number | undefined {
  const isValid =
    priority === undefined || (Number.isInteger(priority) && priority >= 0 && priority <= 255);
  if (!isValid) throw new EncodeFailed("expected 0 to 255", "the priority is invalid");
  return priority;
}

/** Headers of the protocol, and those that RabbitMQ writes or routes by. */
const RESERVED =
  /^(rpc-|x-death$|x-first-death|x-last-death|x-delivery-count$|x-acquired-count$|cc$|bcc$)/i;

function checkHeaders(headers: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  let size = 0;
  for (const [name, value] of Object.entries(headers)) {
    const fail = (problem: string): never => {
      throw new EncodeFailed(problem, `the header ${JSON.stringify(name)} is invalid`);
    };
    if (typeof value !== "string") fail("its value is no string");
    if (RESERVED.test(name)) fail("the name is reserved");
    const length = Buffer.byteLength(name);
    if (length === 0 || length > 255) fail("a name has 1 to 255 bytes");
    size += length + Buffer.byteLength(value);
  }
  if (size > MAX_HEADER_BYTES) {
    throw new EncodeFailed(
      `they have ${size} bytes, and at most ${MAX_HEADER_BYTES} may be sent`,
      "the headers are invalid",
    );
  }
  return headers;
}

/**
 * Reads a reply as a result. Throws the method's error or the fault that it holds, or a
 * {@link BadReply}. `call` is given if its request may have been sent twice: its `errorOf` decides
 * what a fault means then. `null`: a fault means what it says.
 */
export function readResult<T>(
  reply: Reply,
  method: AnyMethod,
  call: RunningCall | null,
  read: (reply: Reply) => T,
): T {
  if (reply.kind === "fault") {
    const fault = orBadReply("maybe", () => readFault(reply));
    throw call === null ? fault : call.errorOf(fault);
  }
  if (reply.kind === "error") throw readError(reply, method);
  return orBadReply("yes", () => read(reply));
}

/** Reads the method's error that a reply holds. Throws a {@link BadReply}. */
function readError(reply: Reply, method: AnyMethod): MethodError {
  return orBadReply("yes", () => {
    const ErrorType = method.error;
    if (ErrorType === null) throw new Error("the method has no error of its own");
    return new ErrorType(decodeValue(reply.codec, ErrorType.type, reply.body));
  });
}

/** Reads a message as a reply to a request in this codec. Throws a {@link BadReply}. */
export function replyOf(message: Incoming, codec: CodecName): Reply {
  return orBadReply("maybe", () => readReply(message, codec));
}

/** Returns what `read` returns. Throws its {@link RpcError}, or any other as a {@link BadReply}. */
function orBadReply<T>(executed: Executed, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw error instanceof RpcError ? error : new BadReply(error, executed);
  }
}
