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
  /**
   * How long the call may take. With a stream: how long a worker may take to begin, and then how
   * long the call may wait for it each time. Of a broadcast: how long answers are gathered.
   */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** What a call in flight tells the code that has begun it. */
export interface CallEvents {
  /** A message of a worker arrived: the reply, or one of a stream. */
  message(message: Incoming): void;
  /** The call has failed without a reply. Not called if it was abandoned. */
  failed(error: RpcError): void;
}
