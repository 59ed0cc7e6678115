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

/** What a call in flight tells the code that has begun it. */
export interface CallEvents {
  /** A message of a worker arrived: the reply, or one of a stream. */
  message(message: Incoming): void;
  /** The call has ended without a reply. */
  failed(error: RpcError): void;
}
