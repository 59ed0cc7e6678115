import { decodePlain, decodeValue } from "../codec/values.js";
import { BadReply, BrokerFailed, Fault, RpcError, TimedOut } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { decodeItems, encodeGrant, type Credit } from "../protocol/control.js";
import {
  CONTROL_EXCHANGE,
  CREDIT_BYTES_HEADER,
  CREDIT_HEADER,
  CREDIT_TYPE,
  ITEMS_HEADER,
  ITEMS_TYPE,
  MAX_CREDIT,
  MAX_SILENCE_MS,
} from "../protocol/names.js";
import type { Reply } from "../protocol/reply.js";
import { runOf, workerIdOf } from "../protocol/reply.js";
import { StreamReceiver, type Received, type Window } from "../protocol/stream-receiver.js";
import { BEGAN_AGAIN, NO_RUN, type StreamRun } from "../protocol/stream-run.js";
import { numberHeader, type Incoming } from "../transport/message.js";
import { COPY_HEADER, newCopyToken } from "../transport/publisher.js";
import { currentContext } from "../worker/context.js";
import type { CallParts } from "./call-parts.js";
import type { CallPlan } from "./call-plan.js";
import type { RunningCall } from "./running-call.js";
import { readResult, replyOf } from "./method-call.js";
import type { CodecName, StreamOptions } from "./options.js";
import type { Upload } from "./upload.js";

/** The items of a stream. Leaving the loop, or `return()`, cancels the stream on the worker. */
export type ItemStream<T> = AsyncIterableIterator<T>;

const DEFAULT_CREDIT_BYTES = 2 * 1024 * 1024;
const MAX_CREDIT_BYTES = 2 ** 40;

/** How much may be on its way or wait for the reader. */
export function windowOf(options: StreamOptions): Window {
  return {
    items: Math.min(Math.max(1, Math.floor(options.credit ?? MAX_CREDIT)), MAX_CREDIT),
    bytes: Math.min(
      Math.max(1, Math.floor(options.creditBytes ?? DEFAULT_CREDIT_BYTES)),
      MAX_CREDIT_BYTES,
    ),
  };
}

/** The headers of a request that accepts a stream. */
export function creditHeaders(window: Window): Readonly<Record<string, string>> {
  return {
    [CREDIT_HEADER]: String(window.items),
    [CREDIT_BYTES_HEADER]: String(window.bytes),
  };
}

/** A call whose reply is a stream. Nothing is sent before it is first read. */
export class StreamingCall implements ItemStream<unknown> {
  readonly #parts: CallParts;
  readonly #method: AnyMethod;
  readonly #plan: () => CallPlan & { readonly codec: CodecName };
  readonly #upload: Upload | null;
  readonly #receiver: StreamReceiver<Reply>;
  readonly #contextEndsAt: number;
  #codec: CodecName = "msgpack";
  #limitMs = 0;
  #call: RunningCall | null = null;
  /** The items that remain to be read, if the worker has sent all of them in its reply. */
  #replyItems: unknown[] | null = null;
  /**
   * How the stream ends, once its reader has got the items that have arrived. Without an error: at
   * its end.
   */
  #end: { readonly error: RpcError | null } | null = null;
  /** Wakes the reader. */
  #arrived: (() => void) | null = null;
  /** Since when the reader has waited for an item. `null`: it does not wait. */
  #waitsSince: number | null = null;
  /** Since when the worker has been silent. */
  #heardAt = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Whether the reader has got the end, or has left. */
  #isFinished = false;

  constructor(
    parts: CallParts,
    method: AnyMethod,
    plan: () => CallPlan & { readonly codec: CodecName },
    window: Window,
    upload: Upload | null = null,
  ) {
    this.#parts = parts;
    this.#method = method;
    this.#plan = plan;
    this.#upload = upload;
    this.#receiver = new StreamReceiver(window, { mayBeginAnew: upload === null });
    // In a handler, the stream ends at the handler's deadline.
    this.#contextEndsAt = performance.now() + (currentContext()?.timeLeftMs ?? Infinity);
  }

  /** Whether a worker has begun the stream. */
  get hasBegun(): boolean {
    return this.#receiver.run !== null;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown>> {
    const isFirstRead = this.#call === null && this.#end === null;
    if (isFirstRead) {
      try {
        this.#begin();
      } catch (error) {
        this.#abandon();
        throw error;
      }
    }
    for (;;) {
      if (this.#isFinished) return { done: true, value: undefined };
      const item = this.#take();
      if (item !== undefined) {
        this.#waitsSince = null;
        return { done: false, value: item.value };
      }
      if (this.#end !== null) {
        this.#isFinished = true;
        if (this.#end.error !== null) throw this.#end.error;
        return { done: true, value: undefined };
      }
      await this.#waitForArrival();
    }
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.#abandon();
    return { done: true, value: undefined };
  }

  async throw(error: unknown): Promise<IteratorResult<unknown>> {
    await this.return();
    throw error;
  }

  /** Makes the call. */
  #begin(): void {
    const plan = this.#plan();
    this.#codec = plan.codec;
    this.#limitMs = plan.limitMs;
    this.#call = this.#parts.caller.start(plan, {
      message: (message) => this.#receive(message),
      failed: (error) => this.#stop({ error }),
    });
  }

  /**
   * Takes the next item that has arrived, and grants credit for others. If the item cannot be read,
   * ends the stream and throws.
   */
  #take(): { readonly value: unknown } | undefined {
    if (this.#replyItems !== null) {
      return this.#replyItems.length > 0 ? { value: this.#replyItems.shift() } : undefined;
    }
    const bytes = this.#receiver.take();
    if (bytes === undefined) return undefined;
    const granted = this.#receiver.grant();
    if (granted !== null && this.#end === null) this.#grant(granted);
    try {
      return { value: decodeValue(this.#codec, this.#method.result, bytes) };
    } catch (error) {
      this.#abandon();
      throw new BadReply(error, "yes");
    }
  }

  /** Ends the stream at once, without the items that are not read. */
  #abandon(): void {
    this.#isFinished = true;
    this.#call?.abandon();
    this.#stop({ error: null });
  }

  /** Waits until an item or the end has arrived. */
  #waitForArrival(): Promise<void> {
    return new Promise((resolve) => {
      // Wakes an earlier `next` too, whose promise its caller has not awaited.
      const earlier = this.#arrived;
      this.#arrived = () => (earlier?.(), resolve());
      this.#waitsSince ??= performance.now();
      this.#watch();
    });
  }

  /** Takes a message of a worker. */
  #receive(message: Incoming): void {
    const call = this.#call!;
    const run = runOf(message);
    const earlierRun = this.#receiver.run;
    switch (this.#receiver.chooseRun(run)) {
      case "foreign":
        return this.#endForeign(message);
      case "late":
        return;
      case "interrupted":
        return call.fail(new Fault("interrupted", BEGAN_AGAIN));
    }
    try {
      const received = this.#read(run, message);
      // The first message of a run always counts: its request may have waited for a worker.
      if (this.#receiver.run !== earlierRun) this.#heardAt = performance.now();
      // The request is not sent again, and from now on `#watch` watches the time.
      if (!call.hasEnded && this.hasBegun) call.beginStream();
      if (received.kind === "ends") this.#finish(received.end);
    } catch (error) {
      call.abandon();
      this.#stop({ error: error instanceof RpcError ? error : new BadReply(error, "maybe") });
      return;
    }
    this.#watch();
    this.#wake();
  }

  /** Reads a message: a grant for the caller's own items, items, or the end. */
  #read(run: StreamRun | null, message: Incoming): Received<Reply> {
    const upload = this.#upload;
    if (upload !== null && upload.isGrant(message)) {
      if (run === null) throw new Error(NO_RUN);
      this.#receiver.begin(run);
      upload.grant(this.#call!, run.worker, message);
      return { kind: "continues" };
    }
    if (message.properties.type !== ITEMS_TYPE) return this.#readEnd(run, message);
    if (run === null) throw new Error(NO_RUN);
    const { first, items } = decodeItems(message.body);
    const received = this.#receiver.receive(run, first, items);
    // Items that are missing may be lost with the broker, and never come. Then the worker counts
    // as silent, although its later messages arrive.
    if (!this.#receiver.missesBefore(first + items.length)) this.#heardAt = performance.now();
    // With a message without items, the worker asks whether its caller is still there.
    if (received.kind === "continues" && items.length === 0) this.#grant(this.#receiver.granted);
    return received;
  }

  /** Reads the reply, which ends the stream. Throws if it must count the items and does not. */
  #readEnd(run: StreamRun | null, message: Incoming): Received<Reply> {
    const { headers } = message.properties;
    const reply = replyOf(message, this.#codec);
    const count = numberHeader(headers, ITEMS_HEADER);
    // The only message of a worker that knows no streams holds all items, and need not count them.
    const isOnlyMessage = !this.hasBegun && !Object.hasOwn(headers, ITEMS_HEADER);
    const mustCount = reply.kind !== "fault" && !isOnlyMessage;
    if (mustCount && count === undefined) throw new Error("the end does not count the items");
    this.#heardAt = performance.now();
    return this.#receiver.receiveEnd(run, count, reply);
  }

  /** The end has arrived, with all items before it, or a reply that does not count them. */
  #finish(reply: Reply): void {
    const call = this.#call!;
    call.finish();
    try {
      const isArray =
        reply.kind === "result" && reply.message.properties.headers[ITEMS_HEADER] === undefined;
      // A request whose stream has begun is not sent again, so a fault means what it says.
      readResult(reply, this.#method, this.hasBegun ? null : call, () => {
        // A worker that knows no streams sends all items at once.
        if (isArray) this.#replyItems = this.#readArray(reply);
      });
      this.#stop({ error: null });
    } catch (error) {
      this.#stop({ error: error as RpcError });
    }
  }

  #readArray(reply: Reply): unknown[] {
    if (reply.codec === "text") throw new Error("the items are text");
    const items = decodePlain(reply.codec, reply.body);
    if (!Array.isArray(items)) throw new Error("the items are no array");
    return items.map((item) => this.#method.result.fromPlain(item));
  }

  /** Sends the worker credit, again until the broker has confirmed it or more is granted. */
  #grant(credit: Credit): void {
    const worker = this.#receiver.run?.worker;
    if (worker === undefined) return;
    const call = this.#call!;
    const outgoing = {
      exchange: CONTROL_EXCHANGE,
      routingKey: worker,
      mandatory: true,
      properties: { type: CREDIT_TYPE, headers: { [COPY_HEADER]: newCopyToken() } },
      body: encodeGrant(call.id, credit),
    };
    void this.#parts.control.send(outgoing, MAX_SILENCE_MS).then(({ kind }) => {
      // A worker that is just connecting again has no queue for a moment.
      if (kind === "confirmed" || call.hasEnded) return;
      setTimeout(() => {
        if (!call.hasEnded && this.#receiver.granted === credit) this.#grant(credit);
      }, 500).unref();
    });
  }

  /** Ends the stream of another worker, which runs the same request a second time. */
  #endForeign(message: Incoming): void {
    const worker = workerIdOf(message);
    const isStream =
      message.properties.type === ITEMS_TYPE || message.properties.type === CREDIT_TYPE;
    // Never the stream that is read, whose worker may have sent an invalid header.
    const isOther = worker !== null && worker !== this.#receiver.run?.worker;
    if (isOther && isStream) {
      this.#parts.cancellations.cancel(worker, { id: this.#call!.id, leftMs: 0 });
    }
  }

  /** The call has ended: nothing arrives any more. */
  #stop(end: { readonly error: RpcError | null }): void {
    this.#end ??= end;
    clearTimeout(this.#timer);
    this.#upload?.stop();
    this.#wake();
  }

  #wake(): void {
    this.#arrived?.();
    this.#arrived = null;
  }

  /** Watches the worker's silence, the reader's wait for an item, and the handler's deadline. */
  #watch(): void {
    clearTimeout(this.#timer);
    if (this.#end !== null || !this.hasBegun) return;
    const endsAt = Math.min(this.#timeUpAt, this.#heardAt + MAX_SILENCE_MS);
    this.#timer = setTimeout(() => this.#checkTimes(), Math.max(0, endsAt - performance.now()));
  }

  /** When the reader has waited for too long, or the handler's deadline passes. */
  get #timeUpAt(): number {
    return Math.min((this.#waitsSince ?? Infinity) + this.#limitMs, this.#contextEndsAt);
  }

  /** Fails the call if one of the times that `#watch` watches has passed. */
  #checkTimes(): void {
    const now = performance.now();
    const call = this.#call!;
    if (this.#timeUpAt <= now) call.fail(new TimedOut(this.#limitMs, "maybe"));
    else if (this.#heardAt + MAX_SILENCE_MS <= now) {
      call.fail(new Fault("interrupted", "the worker of the stream is gone"));
    } else this.#watch();
  }
}

/**
 * Whether a stream that ended with this error may be resumed: if it was interrupted after it had
 * begun. While one is resumed, it need not have begun, and errors that may pass count too.
 */
export function mayResume(error: unknown, hasBegun: boolean, isResuming: boolean): boolean {
  const isInterruption =
    error instanceof BrokerFailed || (error instanceof Fault && error.code === "interrupted");
  if (isInterruption) return hasBegun || isResuming;
  return isResuming && error instanceof RpcError && error.isRetryable;
}
