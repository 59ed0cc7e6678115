import type { Codec } from "../codec/content-type.js";
import type { RpcError } from "../errors.js";
import type { Incoming } from "../transport/message.js";

/** What is sent for a call, and how. */
export interface CallPlan {
  readonly queue: string;
  readonly method: string;
  readonly codec: Codec;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
  readonly priority: number | undefined;
  readonly isIdempotent: boolean;
  readonly waitsForServer: boolean;
  /** How long the first message of the worker may take. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** What becomes of a call. One of these ends it, except `message`. */
export interface CallEvents {
  /** A message of the worker: the reply, or one of a stream. */
  message(message: Incoming): void;
  failed(error: RpcError): void;
}
