import { encodeValue } from "../codec/values.js";
import type { Codec } from "../codec/content-type.js";
import { messageOf } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { encodeItems, type Credit, type ItemsBody } from "../protocol/control.js";
import type { FaultReply, ReplyTo } from "../protocol/dispatch.js";
import { ITEM_FRAME, ITEMS_TYPE, KEEP_ALIVE_MS, WORKER_HEADER } from "../protocol/names.js";
import { StreamSender } from "../protocol/stream-sender.js";
import { closeIterator, iteratorOf, type Items } from "../service.js";
import { COPY_HEADER, newCopyToken } from "../transport/publisher.js";
import { fault, faultReply, resultReply, type MethodReply } from "./invocation.js";
import type { ReplySender } from "./reply-sender.js";
import type { RunningMethod } from "./running.js";

const MAX_UNCONFIRMED = 16;
/** A message that the broker does not take for so long ends the stream. */
const SEND_LIMIT_MS = 60_000;
const RESEND_PAUSE_MS = 100;
/** So many items are taken from a method before others have their turn. */
const MAX_TURN = 256;

/** What a stream is sent with. */
export interface StreamParts {
  readonly replies: ReplySender;
  readonly replyTo: ReplyTo;
  readonly codec: Codec;
  readonly method: AnyMethod;
  readonly runHeader: string;
  readonly maxBytes: number;
  /** Called for each message of items that the broker has confirmed. */
  readonly settleEarly: () => void;
  /** What the caller is answered if the method throws. */
  readonly replyToThrown: (error: unknown) => MethodReply;
}

/** The stream of items that a method returns, on its way to the caller. */
export class OutgoingStream {
  readonly #parts: StreamParts;
  readonly #running: RunningMethod;
  readonly #sender: StreamSender;
  #unconfirmed = 0;
  /** When the last message was sent. */
  #sentAt = performance.now();
  /** Wakes what waits in `#until`. */
  #changed: (() => void) | null = null;
  #isScheduled = false;
  /** How the caller was lost: its queue takes no message, or it grants nothing any more. */
  #lost: "gone" | "abandoned" | null = null;

  constructor(parts: StreamParts, running: RunningMethod, credit: Credit) {
    this.#parts = parts;
    this.#running = running;
    this.#sender = new StreamSender(credit);
  }

  /** How many items the method has made so far. */
  get count(): number {
    return this.#sender.count;
  }

  /** The caller grants credit. */
  grant(credit: Credit): void {
    this.#sender.grant(credit);
    this.#wake();
  }

  /** Sends all items. Returns the end of the stream, or `null` if nobody reads it. */
  async send(items: Items<unknown>): Promise<MethodReply | null> {
    const { codec, replyToThrown } = this.#parts;
    const iterator = iteratorOf(items);
    const timer = setInterval(() => this.#keepAlive(), 1_000);
    /** Whether the iterator has ended by itself, so that it need not be closed. */
    let isDone = false;
    try {
      for (let turn = 1; ; turn++) {
        await this.#until(() => this.#sender.mayMake && this.#unconfirmed < MAX_UNCONFIRMED);
        if (this.#hasEnded) break;
        const step = await this.#running.race(Promise.resolve(iterator.next()));
        // A string is the reason why the method was ended.
        if (typeof step === "string" || this.#lost !== null) break;
        if (step.value.done) {
          isDone = true;
          break;
        }
        const problem = this.#push(step.value.value);
        if (problem !== null) {
          // From here on, a caller that does not answer must not replace the end.
          clearInterval(timer);
          return await this.#endWith(faultReply(codec, problem));
        }
        if (this.#sender.isFull) this.#flush();
        else this.#flushSoon();
        if (turn % MAX_TURN === 0) await new Promise(setImmediate);
      }
    } catch (error) {
      isDone = true;
      clearInterval(timer);
      return await this.#endWith(replyToThrown(error));
    } finally {
      clearInterval(timer);
      if (!isDone) closeIterator(iterator);
    }
    if (this.#lost !== null) return this.#lostEnd();
    switch (this.#running.ended) {
      case null:
        return await this.#endWith({ kind: "result", body: Buffer.alloc(0), fault: null });
      case "cancelled":
        return null;
      case "abandoned":
        return faultReply(codec, fault("abandoned", "the worker gave up on the method"));
      case "stopped":
        return faultReply(codec, fault("interrupted", "the worker stops"));
    }
  }

  get #hasEnded(): boolean {
    return this.#running.ended !== null || this.#lost !== null;
  }

  /** The reply to a caller that was lost, or `null` if its queue takes no message. */
  #lostEnd(): MethodReply | null {
    if (this.#lost !== "abandoned") return null;
    return faultReply(this.#parts.codec, fault("abandoned", "the caller grants no credit"));
  }

  /** Encodes an item for the next message. Returns what is wrong with it, or `null`. */
  #push(item: unknown): FaultReply | null {
    const { codec, method, maxBytes } = this.#parts;
    let encoded: Buffer;
    try {
      encoded = encodeValue(codec, method.result, item);
    } catch (error) {
      return unanswerable(error);
    }
    if (encoded.length > maxBytes - ITEM_FRAME) {
      return fault("reply_too_large", `an item has ${encoded.length} bytes`);
    }
    this.#sender.push(encoded);
    return null;
  }

  /**
   * Waits until the broker has all items, or the method is ended. Returns the reply that ends the
   * stream, or `null` if nobody reads it.
   */
  async #endWith(reply: MethodReply): Promise<MethodReply | null> {
    this.#flush();
    await this.#until(() => this.#unconfirmed === 0);
    if (this.#lost !== null) return this.#lostEnd();
    return this.#running.ended === "cancelled" ? null : reply;
  }

  /** Waits until the condition holds, the method is ended, or the caller is lost. */
  async #until(condition: () => boolean): Promise<void> {
    while (!condition() && !this.#hasEnded) {
      const changed = new Promise<void>((resolve) => (this.#changed = resolve));
      await this.#running.race(changed);
    }
  }

  #wake(): void {
    this.#changed?.();
    this.#changed = null;
  }

  /** Sends later, so that items that are ready at the same time share a message. */
  #flushSoon(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#flush();
    });
  }

  /** Sends all items that are ready. */
  #flush(): void {
    for (;;) {
      const message = this.#sender.next();
      if (message === null) return;
      void this.#publish(message);
    }
  }

  /** Publishes a message until the broker has it, the caller is lost, or the method is ended. */
  async #publish(message: ItemsBody): Promise<void> {
    const { replies, replyTo, runHeader, settleEarly } = this.#parts;
    const headers = { [WORKER_HEADER]: runHeader, [COPY_HEADER]: newCopyToken() };
    const reply = { type: ITEMS_TYPE, headers, body: encodeItems(message) };
    const outgoing = replies.outgoing(replyTo, reply, "mandatory");
    const until = performance.now() + SEND_LIMIT_MS;
    this.#sentAt = performance.now();
    this.#unconfirmed++;
    try {
      while (!this.#hasEnded) {
        const { kind } = await replies.send(outgoing, until - performance.now());
        if (kind === "confirmed") {
          settleEarly();
          return;
        }
        if (kind === "returned" || performance.now() >= until) {
          this.#lost ??= "gone";
          return;
        }
        // The broker may have it. A caller discards items that come twice.
        await new Promise((resolve) => setTimeout(resolve, RESEND_PAUSE_MS));
      }
    } finally {
      this.#unconfirmed--;
      this.#wake();
      if (this.#lost !== null) this.#running.end("cancelled");
    }
  }

  /** Asks the caller for a grant if nothing was sent for a while. Ends a stream without answers. */
  #keepAlive(): void {
    if (performance.now() - this.#sentAt < KEEP_ALIVE_MS || this.#hasEnded) return;
    const message = this.#sender.keepAlive();
    if (message === null) {
      this.#lost = "abandoned";
      this.#running.end("abandoned");
      this.#wake();
    } else void this.#publish(message);
  }
}

/** What the items of a stream are collected with. */
export type CollectParts = Pick<StreamParts, "method" | "codec" | "maxBytes" | "replyToThrown">;

/** Puts all items into one reply, for callers that grant no credit. `null`: it was cancelled. */
export async function collect(
  items: Items<unknown>,
  { method, codec, maxBytes, replyToThrown }: CollectParts,
  running: RunningMethod,
): Promise<MethodReply | null> {
  const iterator = iteratorOf(items);
  const values: unknown[] = [];
  let size = 0;
  let isDone = false;
  try {
    for (let turn = 1; ; turn++) {
      if (turn % MAX_TURN === 0) await new Promise(setImmediate);
      const step = await running.race(Promise.resolve(iterator.next()));
      if (typeof step === "string") {
        if (step === "cancelled") return null;
        const code = step === "stopped" ? "interrupted" : "abandoned";
        return faultReply(codec, fault(code, "the worker gave up on the method"));
      }
      if (step.value.done) break;
      try {
        size += encodeValue(codec, method.result, step.value.value).length + 1;
      } catch (error) {
        return faultReply(codec, unanswerable(error));
      }
      if (size > maxBytes) {
        return faultReply(codec, fault("reply_too_large", `the items have over ${maxBytes} bytes`));
      }
      values.push(step.value.value);
    }
    isDone = true;
  } catch (error) {
    isDone = true;
    return replyToThrown(error);
  } finally {
    if (!isDone) closeIterator(iterator);
  }
  if (codec !== "text")
    return resultReply({ ...method, result: listOf(method) }, codec, values, maxBytes);
  const lines = values.map((value) => encodeValue(codec, method.result, value).toString());
  return { kind: "result", body: Buffer.from(lines.join("\n")), fault: null };
}

/** The fault if an item cannot be encoded. */
function unanswerable(error: unknown): FaultReply {
  return fault("unanswerable", `an item cannot be sent: ${messageOf(error)}`);
}

function listOf({ result }: AnyMethod) {
  return {
    toPlain: (values: unknown[]) => values.map((value) => result.toPlain(value)),
    fromPlain: (plain: unknown) => plain,
  };
}
