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

/** A caller that has sent nothing for so long is gone, and its method is cancelled. */
const GONE_MS = 32_000;
const CHECK_MS = 1_000;
const SEND_LIMIT_MS = 16_000;

/** What the worker answers a stream with. */
export interface IncomingParts {
  readonly replies: ReplySender;
  readonly replyTo: ReplyTo;
  readonly codec: Codec;
  readonly method: AnyMethod;
  readonly workerHeader: string;
  /** Whether the caller cannot be heard, because the worker's queue for items is lost. */
  readonly isDeaf: () => boolean;
  /** The broker has confirmed the first message. */
  readonly begun: () => void;
}

/** The stream of items that a caller sends to a method. The method iterates over it. */
export class IncomingStream implements AsyncIterableIterator<unknown> {
  readonly #parts: IncomingParts;
  readonly #running: RunningMethod;
  readonly #inbox = new IncomingInbox();
  readonly #timer: NodeJS.Timeout;
  #heardAt = performance.now();
  #toldAt = -Infinity;
  #reader: (() => void) | null = null;
  #isTelling = false;
  #isOver = false;

  constructor(parts: IncomingParts, running: RunningMethod) {
    this.#parts = parts;
    this.#running = running;
    this.#timer = setInterval(() => this.#check(), CHECK_MS);
    this.#tell();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<unknown>> {
    for (;;) {
      const taken = this.#inbox.take();
      if (taken === null) {
        await new Promise<void>((resolve) => {
          // Whoever asks for several items at once waits for each of them.
          const earlier = this.#reader;
          this.#reader = () => (earlier?.(), resolve());
        });
        continue;
      }
      this.#tellIfNews();
      if (!("item" in taken)) {
        if (taken.error !== null) throw new IncomingFailed(taken.error);
        return { done: true, value: undefined };
      }
      return { done: false, value: this.#decode(taken.item) };
    }
  }

  async return(): Promise<IteratorResult<unknown>> {
    this.#inbox.close();
    this.#wake();
    this.#tellIfNews();
    return { done: true, value: undefined };
  }

  /** Items arrived, or a message without items. */
  receive(first: number, items: readonly Uint8Array[], count: number | null): void {
    this.#heardAt = performance.now();
    this.#inbox.receive(first, items, count);
    this.#wake();
    this.#tellIfNews();
  }

  /** The caller broke the protocol. */
  fail(error: string): void {
    this.#inbox.fail(error);
    this.#wake();
    this.#tellIfNews();
  }

  /** The worker has declared its queue again: items may have been lost. */
  resume(): void {
    this.#heardAt = performance.now();
    this.#inbox.askAgain();
    this.#tellIfNews();
  }

  /** The method has ended. */
  end(): void {
    this.#isOver = true;
    clearInterval(this.#timer);
    this.#inbox.breakOff("the method has ended");
    this.#wake();
  }

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

  #check(): void {
    if (this.#isOver) return;
    const now = performance.now();
    if (this.#parts.isDeaf()) this.#heardAt = now;
    if (now - this.#heardAt >= GONE_MS) {
      this.#running.end("cancelled");
      return;
    }
    if (now - this.#heardAt >= MAX_SILENCE_MS) this.fail("the caller is gone");
    if (this.#inbox.hasProgress || now - this.#toldAt >= KEEP_ALIVE_MS) this.#tell();
  }

  /** Tells the caller soon, together with other news of this moment. */
  #tellIfNews(): void {
    if (!this.#inbox.hasNews || this.#isTelling || this.#isOver) return;
    this.#isTelling = true;
    setImmediate(() => {
      this.#isTelling = false;
      if (this.#inbox.hasNews) this.#tell();
    });
  }

  #tell(): void {
    if (this.#isOver) return;
    const { replies, replyTo, workerHeader, begun } = this.#parts;
    this.#toldAt = performance.now();
    const headers = { [WORKER_HEADER]: workerHeader, [COPY_HEADER]: newCopyToken() };
    const body = encodeIncomingGrant(this.#inbox.grant());
    const outgoing = replies.outgoing(replyTo, { type: CREDIT_TYPE, headers, body }, true);
    void replies.send(outgoing, SEND_LIMIT_MS).then(({ kind }) => {
      if (kind === "confirmed") begun();
      // The caller's reply queue does not exist: nobody waits for the method.
      else if (kind === "returned") this.#running.end("cancelled");
      // Credit is absolute: the next message says it again.
      else if (!this.#isOver) this.#toldAt = -Infinity;
    });
  }
}
