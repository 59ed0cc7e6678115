import { CONTENT_TYPES, codecOf, isPlainEncoding, type Codec } from "../codec/content-type.js";
import { encodePlain } from "../codec/values.js";
import type { AnyMethod } from "../method.js";
import { header, numberHeader, type Incoming } from "../transport/message.js";
import { COPY_HEADER } from "../transport/publisher.js";
import type { Credit } from "./control.js";
import { deathsOf, type Deaths } from "./deaths.js";
import {
  CREDIT_BYTES_HEADER,
  CREDIT_HEADER,
  INCOMING_HEADER,
  MAX_CREDIT,
  REDELIVERIES_HEADER,
  RESENT_HEADER,
} from "./names.js";
import { isReplyAddress } from "./reply-address.js";
import { isUuid } from "./uuid.js";

/** A fault that a worker answers with. */
export interface FaultReply {
  readonly code: string;
  readonly message: string;
}

/** Where and how a request is answered. */
export interface ReplyTo {
  readonly address: string;
  readonly correlationId: string | undefined;
  readonly contentType: string;
}

/** The streams of a request, in either direction. */
export interface StreamRequest {
  /**
   * What the caller accepts at first. `null`: it wants all items in one reply, or the method
   * returns no stream.
   */
  readonly credit: Credit | null;
  readonly sendsItems: boolean;
}

/** An entry of a table of methods. Workers keep with it what runs the method. */
export interface Entry {
  readonly method: AnyMethod;
}

/** What a worker decides about a request. */
export type Decision<E extends Entry> =
  /** Its `reply_to` is no reply address. */
  | { readonly kind: "forbidden" }
  | {
      readonly kind: "refuse";
      readonly fault: FaultReply;
      readonly codec: Codec;
      readonly replyTo: ReplyTo | null;
    }
  | {
      readonly kind: "run";
      readonly entry: E;
      readonly codec: Codec;
      readonly replyTo: ReplyTo | null;
      /** The request's `expiration`, which counts from its arrival. `null`: there is no limit. */
      readonly limitMs: number | null;
      readonly stream: StreamRequest | null;
      /** Whether an earlier delivery or copy of the request may have run. */
      readonly mayHaveRun: boolean;
    };

/** The limits of a worker. */
export interface Rules {
  readonly maxAcceptedBytes: number;
  /** After so many deliveries, a request is not run again. */
  readonly maxDeliveries: number;
  /** Whether the queue counts deliveries. */
  readonly isQuorum: boolean;
  readonly allowedReplyPrefixes: readonly string[];
}

/** The methods on a queue. */
export interface MethodTable<E extends Entry> {
  readonly byName: ReadonlyMap<string, E>;
  readonly byDefault: E | null;
}

/** Decides about a request. Pure: no I/O and no clock. */
export function decide<E extends Entry>(
  message: Incoming,
  table: MethodTable<E>,
  rules: Rules,
): Decision<E> {
  const { properties } = message;
  const replyTo = replyToOf(message);
  if (replyTo !== null && !isReplyAddress(replyTo.address, rules.allowedReplyPrefixes)) {
    return { kind: "forbidden" };
  }
  const entry = find(properties.type, table);
  const deaths = historyOf(message, entry?.method);
  const wasDelivered = message.redelivered || deaths !== null;
  const mayHaveRun = wasDelivered || header(properties.headers, RESENT_HEADER) !== undefined;
  const named = codecOf(properties.contentType);
  // A request that names no codec is read, and answered, as plain text. One that names an unknown
  // codec is refused in plain text.
  const codec = named === "unknown" || named === "none" ? "text" : named;
  const refuse = (code: string, reason: string): Decision<E> => ({
    kind: "refuse",
    fault: orInterrupted({ code, message: reason }, mayHaveRun),
    codec,
    replyTo,
  });

  if (message.malformed !== null) {
    return refuse("bad_request", `the request cannot be read: ${message.malformed}`);
  }
  if (named === "unknown") {
    const names = "use application/msgpack, application/json or text/plain in UTF-8";
    return refuse("unsupported_content_type", `unsupported content type: ${names}`);
  }
  if (!isPlainEncoding(properties.contentEncoding)) {
    return refuse(
      "unsupported_content_type",
      "unsupported content encoding: send the body as it is",
    );
  }
  const size = message.body.length;
  if (size > rules.maxAcceptedBytes) {
    return refuse("too_large", tooLarge(size, rules.maxAcceptedBytes));
  }
  if (entry === null) return refuse("unknown_method", unknownMethod(properties.type));
  // A one-way request without an expiration of its own has expired because of the queue's time to
  // live, as a delayed one does on purpose.
  if (deaths?.hasExpired && (deaths.hadExpiration || replyTo !== null)) {
    return refuse("expired", "it expired in a queue and was dead-lettered");
  }
  const whyNotAgain = wasDelivered ? rerunRefusal(message, entry.method, rules) : null;
  if (whyNotAgain !== null) {
    return { kind: "refuse", fault: interrupted(whyNotAgain), codec, replyTo };
  }
  const limitMs = properties.expiration === undefined ? null : Number(properties.expiration);
  if (limitMs !== null && !(limitMs > 0)) {
    return refuse("expired", "the caller's time was up before the method could start");
  }
  const stream = streamOf(message, entry.method);
  if (typeof stream === "string") return refuse("bad_request", stream);
  return { kind: "run", entry, codec, replyTo, limitMs, stream, mayHaveRun };
}

/** Where a request is answered, or `null` if it wants no reply. */
function replyToOf({ properties }: Incoming): ReplyTo | null {
  if (properties.replyTo === undefined || properties.replyTo === "") return null;
  const named = codecOf(properties.contentType);
  const contentType =
    named === "unknown" || named === "none" ? CONTENT_TYPES.text : properties.contentType!;
  return { address: properties.replyTo, correlationId: properties.correlationId, contentType };
}

/** The entry for a request's `type`, or for the default method if it has none, or `null`. */
export function find<E extends Entry>(name: string | undefined, table: MethodTable<E>): E | null {
  if (name === undefined || name === "") return table.byDefault;
  return table.byName.get(name) ?? null;
}

/** The message of `too_large`. */
export function tooLarge(size: number, limit: number): string {
  return `the request has ${size} bytes, and at most ${limit} are accepted`;
}

/** The message of `unknown_method`. */
export function unknownMethod(name: string | undefined): string {
  if (name === undefined || name === "") return "the service has no default method";
  return `the service has no method ${JSON.stringify(name)}`;
}

/**
 * The history of a message. A copy of a job that has only waited in a retry queue has none: a
 * worker put it there to expire.
 */
function historyOf({ properties }: Incoming, method: AnyMethod | undefined): Deaths | null {
  const deaths = deathsOf(properties.headers);
  const isJob = method !== undefined && isJobMethod(method) && !properties.replyTo;
  const wasMoved = header(properties.headers, COPY_HEADER) !== undefined;
  const hasOnlyWaited = isJob && wasMoved && deaths?.others === 0;
  return hasOnlyWaited ? null : deaths;
}

/** Whether one-way requests for a method are jobs. */
export function isJobMethod(method: AnyMethod): boolean {
  return method.oneway && method.idempotent;
}

/** Why a request that was delivered before does not run again, or `null`. */
function rerunRefusal(message: Incoming, method: AnyMethod, rules: Rules): string | null {
  if (!method.idempotent) return "the method is not idempotent";
  const { headers, expiration } = message.properties;
  const deaths = historyOf(message, method);
  const count = rules.isQuorum ? deliveryCount(message) : null;
  const isJob = isJobMethod(method);
  // A quorum queue drops a message beyond its limit, so a job is given up at half of it: then there
  // are deliveries left until it is in the dead-letter queue.
  const limit = count !== null && isJob ? Math.ceil(rules.maxDeliveries / 2) : rules.maxDeliveries;
  const tooOften = "it was delivered too often";
  if ((count ?? 0) + (deaths?.others ?? 0) >= limit) return tooOften;
  const expires = expiration !== undefined && deaths === null;
  if (!message.redelivered || count !== null || expires) return null;
  // Without a count or an expiration, it would come back for ever.
  const isCountedByWorkers = (numberHeader(headers, REDELIVERIES_HEADER) ?? 0) > 0;
  if (isCountedByWorkers) return tooOften;
  return "it has no expiration, and its queue does not count its deliveries";
}

/** How often the queue has counted a delivery of the message. `null`: it does not count them. */
export function deliveryCount({ properties }: Incoming): number | null {
  const counts = ["x-delivery-count", "x-acquired-count"].flatMap(
    (name) => numberHeader(properties.headers, name) ?? [],
  );
  return counts.length === 0 ? null : Math.max(...counts);
}

/** The streams of a request, `null` if it has none, or why it cannot have them. */
function streamOf(message: Incoming, method: AnyMethod): StreamRequest | null | string {
  const { headers, correlationId } = message.properties;
  const sendsItems = header(headers, INCOMING_HEADER) === "1";
  if (sendsItems && method.incoming === null) {
    const reason = "the method receives no stream, and its caller sends one";
    return `${reason}: their versions of the service differ`;
  }
  if (!sendsItems && method.incoming !== null) {
    return "the method receives a stream, and its caller sends none";
  }
  const credit = method.stream ? creditOf(message) : null;
  if (typeof credit === "string") return credit;
  if (credit === null && !sendsItems) return null;
  if (!isUuid(correlationId)) {
    return "the correlation_id is no UUID, and the caller of a stream must send one";
  }
  return { credit, sendsItems };
}

/** The credit of a request, `null` if it has none, or why it cannot be read. */
function creditOf({ properties }: Incoming): Credit | null | string {
  const { headers } = properties;
  if (header(headers, CREDIT_HEADER) === undefined) return null;
  const items = numberHeader(headers, CREDIT_HEADER);
  const bytes = numberHeader(headers, CREDIT_BYTES_HEADER);
  const hasBytes = header(headers, CREDIT_BYTES_HEADER) !== undefined;
  if (items === undefined || (hasBytes && bytes === undefined)) {
    return "the credit of the stream is no number";
  }
  return { items: Math.min(items, MAX_CREDIT), bytes: bytes ?? null };
}

/** The faults that say that the method did not run. */
const NOT_RUN = new Set([
  "unknown_method",
  "bad_request",
  "unsupported_content_type",
  "expired",
  "too_large",
  "unauthorized",
  "rejected",
]);

/** The fault, or `interrupted` if it would deny that an earlier delivery may have run. */
export function orInterrupted(fault: FaultReply, mayHaveRun: boolean): FaultReply {
  if (!mayHaveRun || !NOT_RUN.has(fault.code)) return fault;
  return interrupted(`${fault.code}: ${fault.message}`);
}

function interrupted(reason: string): FaultReply {
  const before = "the method may have run for an earlier delivery of this request";
  return { code: "interrupted", message: `${before}, and this one is refused: ${reason}` };
}

/** Encodes a fault. */
export function encodeFault(codec: Codec, { code, message }: FaultReply): Buffer {
  if (codec === "text") return Buffer.from(message === "" ? code : `${code}: ${message}`);
  return encodePlain(codec, { code, message });
}
