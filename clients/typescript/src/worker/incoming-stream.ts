import type { Codec } from "../codec/content-type.js";
import { decodeValue } from "../codec/values.js";
import { IncomingFailed, messageOf } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { encodeIncomingGrant } from "../protocol/control.js";
import type { ReplyTo } from "../protocol/dispatch.js";
import { IncomingInbox } from "../protocol/incoming-inbox.js";
import { CREDIT_TYPE, KEEP_ALIVE_MS, MAX_SILENCE_MS, WORKER_HEADER } from "../protocol/names.js";
import { COPY_HEADER, newCopyToken } from "../transport/publisher.js";
import type { ReplySender } from "./reply-sender.js";
import type { RunningMethod } from "./running.js";

/** The method of a caller that was silent this long is cancelled. Its stream breaks off before. */
const GONE_MS = 32_000;
const CHECK_MS = 1_000;
const SEND_LIMIT_MS = 16_000;

/** What the worker answers the caller of a stream with. */
export interface IncomingParts {
  readonly replies: ReplySender;
  readonly replyTo: ReplyTo;
  readonly codec: Codec;
  readonly method: AnyMethod;
  readonly runHeader: string;
  /** Whether the caller's items cannot arrive, because the worker's queue for them is lost. */
  readonly isItemsQueueLost: () => boolean;
  /** Called for each message to the caller that the broker has confirmed. */
  readonly settleEarly: () => void;
}

/** The stream of items that a caller sends to a method. The method iterates over it. */
export class IncomingStream implements AsyncIterableIterator<unknown> {
  readonly #parts: IncomingParts;
  readonly #running: RunningMethod;
  readonly #inbox = new IncomingInbox();
  readonly #timer: NodeJS.Timeout;
  /** Since when the caller has been silent. */
  #heardAt = performance.now();
  /** When the last grant was sent. `-Infinity`: the next check sends one. */
  #toldAt = -Infinity;
  /** Wakes the method. */
  #reader: (() => void) | null = null;
  /** Whether a grant is about to be sent. */
  #isScheduled = false;
  #isOver = false;

  constructor(parts: IncomingParts, running: RunningMethod) {
    this.#parts = parts;
    this.#running = running;
    this.#timer = setInterval(() => this.#checkTimes(), CHECK_MS);
    this.#grant();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown>> {
    for (;;) {
      const taken = this.#inbox.take();
      if (taken === null) {
        await new Promise<void>((resolve) => {
          // Wakes an earlier `next` too, whose promise its caller has not awaited.
          const earlier = this.#reader;
          this.#reader = () => (earlier?.(), resolve());
        });
        continue;
      }
      this.#grantIfNews();
      if ("item" in taken) return { done: false, value: this.#decode(taken.item) };
      if (taken.error !== null) throw new IncomingFailed(taken.error);
      return { done: true, value: undefined };
    }
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.#inbox.close();
    this.#wake();
    this.#grantIfNews();
    return { done: true, value: undefined };
  }

  /** Items arrived, or a message without items. */
  receive(first: number, items: readonly Uint8Array[], count: number | null): void {
    this.#heardAt = performance.now();
    this.#inbox.receive(first, items, count);
    this.#wake();
    this.#grantIfNews();
  }

  /** Breaks the stream off: the method gets this error after the items that have arrived. */
  fail(error: string): void {
    this.#inbox.fail(error);
    this.#wake();
    this.#grantIfNews();
  }

  /** The worker has declared its queue again: items may have been lost. */
  resume(): void {
    this.#heardAt = performance.now();
    this.#inbox.askAgain();
    this.#grantIfNews();
  }

  /** The method has ended. */
  end(): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#inbox.endMethod("the method has ended");
    this.#wake();
  }

  /** Decodes an item. The stream breaks off at one that cannot be read. */
  #decode(item: Uint8Array): unknown {
    try {
      return decodeValue(this.#parts.codec, this.#parts.method.incoming!, item);
    } catch (error) {
      this.fail("an item cannot be read");
      throw new IncomingFailed(`an item cannot be read: ${messageOf(error)}`);
    }
  }

  #wake(): void {
    this.#reader?.();
    this.#reader = null;
  }

  /** Breaks off the stream of a silent caller, ends its method later, and sends due grants. */
  #checkTimes(): void {
    if (this.#isOver) return;
    const now = performance.now();
    if (this.#parts.isItemsQueueLost()) this.#heardAt = now;
    if (now - this.#heardAt >= GONE_MS) {
      this.#running.end("cancelled");
      return;
    }
    if (now - this.#heardAt >= MAX_SILENCE_MS) this.fail("the caller is gone");
    if (this.#inbox.hasProgress || now - this.#toldAt >= KEEP_ALIVE_MS) this.#grant();
  }

  /** Sends a grant soon, with all that changes in this moment, if the caller must be told. */
  #grantIfNews(): void {
    if (!this.#inbox.hasNews || this.#isScheduled || this.#isOver) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (this.#inbox.hasNews) this.#grant();
    });
  }

  /** Tells the caller how many items it may send, and how many the method has taken. */
  #grant(): void {
    if (this.#isOver) return;
    const { replies, replyTo, runHeader, settleEarly } = this.#parts;
    this.#toldAt = performance.now();
    const headers = { [WORKER_HEADER]: runHeader, [COPY_HEADER]: newCopyToken() };
    const body = encodeIncomingGrant(this.#inbox.grant());
    const outgoing = replies.outgoing(replyTo, { type: CREDIT_TYPE, headers, body }, "mandatory");
    void replies.send(outgoing, SEND_LIMIT_MS).then(({ kind }) => {
      if (kind === "confirmed") settleEarly();
      // The caller's reply queue does not exist: nobody waits for the method.
      else if (kind === "returned") this.#running.end("cancelled");
      // Not confirmed. The next grant says all of it again.
      else if (!this.#isOver) this.#toldAt = -Infinity;
    });
  }
}
