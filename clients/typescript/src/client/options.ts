/** A codec for values. */
export type CodecName = "msgpack" | "json";

/** Options of a call. */
export interface CallOptions {
  /**
   * How long the call may take, in milliseconds; of a stream, how long its reader waits for one
   * item; of a call that sends a stream, how long it waits for the worker each time; of a
   * broadcast, how long answers are gathered. By default the method's `timeout`, or 30 seconds. In
   * a handler, the time that its own request has left is a limit too.
   */
  readonly timeoutMs?: number;
  /**
   * Ends the call when the signal is aborted, and tells the workers, which cancel its method if
   * that may be cancelled. Workers are not told about one-way calls and broadcasts.
   */
  readonly signal?: AbortSignal;
  /** Headers of the request, such as `traceparent`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The priority, from 0 to 255, on queues that have priorities. Broadcasts have none. */
  readonly priority?: number;
  /** How arguments and results are encoded. By default MessagePack. */
  readonly codec?: CodecName;
  /**
   * Waits for a queue that does not exist, instead of failing with `NoServer`. A broadcast waits
   * for workers, instead of failing with `NoWorkers`.
   */
  readonly waitForServer?: boolean;
}

/** Options of a call that returns a stream. */
export interface StreamOptions extends CallOptions {
  /** How many items may be on their way or wait here. By default, and at most, 1,048,576. */
  readonly credit?: number;
  /** How many bytes of items may be on their way or wait here. By default 2 MiB. */
  readonly creditBytes?: number;
}

/** Options of a one-way call. */
export interface SendOptions extends CallOptions {
  /** How long a job waits before it runs, in milliseconds, at most 30 days. */
  readonly delayMs?: number;
}

/** Options of a broadcast. */
export interface BroadcastOptions extends CallOptions {
  /** Ends with this many answers. */
  readonly expectWorkers?: number;
  /**
   * Ends this many milliseconds after the last answer: by default half a second, unless a number of
   * workers is expected.
   */
  readonly quietMs?: number;
}

/** Options of a client, for all its calls. Those of a call take precedence. */
export interface ClientOptions extends StreamOptions, SendOptions, BroadcastOptions {
  /** The request queue, if it is not the service's. */
  readonly queue?: string;
}
