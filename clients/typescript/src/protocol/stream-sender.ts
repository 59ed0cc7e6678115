import { sizeOf, type Credit, type ItemsBody } from "./control.js";
import { MAX_ITEMS, MAX_UNANSWERED } from "./names.js";

/** The items of a message have at most this many bytes, unless it has only one. */
const MAX_MESSAGE_BYTES = 256 * 1024;

/** Numbers the items of a stream, and decides when the method may make another one. Pure. */
export class StreamSender {
  #credit: Credit;
  /** How many items the method has made. */
  #made = 0;
  #madeBytes = 0;
  /** Items that are made and not sent. */
  #ready: Buffer[] = [];
  #readyBytes = 0;
  /** The number of the next item to send. */
  #sent = 0;
  #unanswered = 0;

  constructor(credit: Credit) {
    this.#credit = credit;
  }

  /** How many items the method has made so far. */
  get count(): number {
    return this.#made;
  }

  /** Whether the credit allows one more item. The last one may exceed its bytes. */
  get mayMake(): boolean {
    const { items, bytes } = this.#credit;
    return this.#made < items && (bytes === null || this.#madeBytes < bytes);
  }

  /** Whether the ready items are enough for a message, so that it need not wait for more. */
  get isFull(): boolean {
    return this.#ready.length >= MAX_ITEMS || this.#readyBytes >= MAX_MESSAGE_BYTES / 2;
  }

  push(item: Buffer): void {
    this.#ready.push(item);
    this.#readyBytes += sizeOf(item);
    this.#made++;
    this.#madeBytes += sizeOf(item);
  }

  /** Takes ready items for the next message. Returns `null` if there are none. */
  next(): ItemsBody | null {
    if (this.#ready.length === 0) return null;
    let count = 0;
    let bytes = 0;
    for (const item of this.#ready) {
      bytes += sizeOf(item);
      if (count > 0 && (count === MAX_ITEMS || bytes > MAX_MESSAGE_BYTES)) break;
      count++;
    }
    const items = this.#ready.splice(0, count);
    for (const item of items) this.#readyBytes -= sizeOf(item);
    const first = this.#sent;
    this.#sent += items.length;
    return { first, items, credit: this.#credit };
  }

  /** A message without items, or `null` if the caller has granted nothing since twelve of them. */
  keepAlive(): ItemsBody | null {
    if (++this.#unanswered > MAX_UNANSWERED) return null;
    return { first: this.#sent, items: [], credit: this.#credit };
  }

  /** The caller grants credit. Grants may arrive late: credit never shrinks. */
  grant({ items, bytes }: Credit): void {
    this.#unanswered = 0;
    const known = this.#credit;
    const limit = known.bytes === null || bytes === null ? null : Math.max(known.bytes, bytes);
    this.#credit = { items: Math.max(known.items, items), bytes: limit };
  }
}
