import { codecOf, isPlainEncoding, type Codec } from "../codec/content-type.js";
import * as json from "../codec/json.js";
import { decodePlain, readText } from "../codec/values.js";
import { Fault } from "../errors.js";
import { header, numberHeader, type Incoming } from "../transport/message.js";
import { isMap, valueOf } from "../types/maps.js";
import { ValueError } from "../types/type.js";
import { RETRY_AFTER_HEADER, WORKER_HEADER } from "./names.js";
import { readRun, type StreamRun } from "./stream-run.js";
import { isUuid } from "./uuid.js";

/** The kinds of replies. */
export type ReplyKind = "result" | "error" | "fault";

/** A reply whose kind and codec are known. */
export interface Reply {
  readonly kind: ReplyKind;
  readonly codec: Codec;
  readonly body: Buffer;
  readonly message: Incoming;
}

/**
 * Reads a reply. `requested` is the codec of the request, which counts if the reply names none.
 * Throws a {@link ValueError} if the reply is malformed or its encoding is not supported.
 */
export function readReply(message: Incoming, requested: Codec): Reply {
  const { type, contentType, contentEncoding } = message.properties;
  if (message.malformed !== null) throw new ValueError(message.malformed);
  if (!isPlainEncoding(contentEncoding)) {
    throw new ValueError("the content encoding is not supported");
  }
  const named = codecOf(contentType);
  if (named === "unknown") throw new ValueError("the content type is not supported");
  const codec = named === "none" ? requested : named;
  const kind = type === "error" || type === "fault" ? type : "result";
  return { kind, codec, body: message.body, message };
}

/** Reads the fault of a reply. */
export function readFault({ codec, body, message }: Reply): Fault {
  const retryAfterMs = numberHeader(message.properties.headers, RETRY_AFTER_HEADER);
  if (codec === "text") {
    const [code = "", ...rest] = readText(body).split(": ");
    return new Fault(code.trim(), rest.join(": "), retryAfterMs);
  }
  const plain = decodePlain(codec, body);
  if (!isMap(plain)) throw new ValueError("the fault is no map");
  const code = valueOf(plain, "code");
  const text = valueOf(plain, "message");
  if (typeof code !== "string") throw new ValueError("the fault has no code");
  return new Fault(code, typeof text === "string" ? text : "", retryAfterMs);
}

/** What a worker says about itself. Entries that are missing are empty or 0. */
export interface WorkerInfo {
  /** A random UUID, new at each start of a server. */
  readonly id: string;
  readonly name: string;
  readonly host: string;
  readonly pid: number;
  readonly appId: string;
  readonly version: string;
  readonly runtimeVersion: string;
  readonly uptimeMs: number;
}

/** Reads what a worker says about itself, or returns `null` if that has no id. */
export function readWorker(plain: unknown): WorkerInfo | null {
  if (!isMap(plain)) return null;
  const text = (key: string) => {
    const value = valueOf(plain, key);
    return typeof value === "string" ? value : "";
  };
  const number = (key: string) => Number(valueOf(plain, key) ?? 0) || 0;
  if (text("id") === "") return null;
  return {
    id: text("id"),
    name: text("name"),
    host: text("host"),
    pid: number("pid"),
    appId: text("app_id"),
    version: text("version"),
    runtimeVersion: text("runtime_version"),
    uptimeMs: number("uptime_ms"),
  };
}

/** The worker that a message comes from, or `null`. */
export function workerOf(message: Incoming): WorkerInfo | null {
  return readWorker(workerHeaderOf(message));
}

/** The id of the worker that a message of a stream comes from, if it can be used as an address. */
export function workerIdOf(message: Incoming): string | null {
  const id = workerOf(message)?.id;
  return isUuid(id) ? id : null;
}

/** The run of a method that a message of a stream comes from, or `null`. */
export function runOf(message: Incoming): StreamRun | null {
  return readRun(workerHeaderOf(message));
}

/** The header that says which worker sent a message, decoded. `null` if it cannot be read. */
function workerHeaderOf(message: Incoming): unknown {
  const text = header(message.properties.headers, WORKER_HEADER);
  if (text === undefined || text.length > 4096) return null;
  try {
    return json.decode(text);
  } catch {
    return null;
  }
}
