import { ASKS, type IncomingGrant } from "./control.js";
import { MAX_CREDIT, MAX_ITEMS, MAX_UNTAKEN_BYTES } from "./names.js";

/** The items of a message have at most so many bytes together, unless there is only one. */
const MAX_MESSAGE_BYTES = 256 * 1024;

/** A message with items, or without. */
export interface ItemMessage {
  readonly first: number;
  readonly items: readonly Buffer[];
  /** The number of all items, if the stream has ended. */
  readonly end: number | null;
}

/** Decides which items a call sends. Items are kept until the method has taken them. Pure. */
export class ItemSender {
  /** The items from the number `taken` on. */
  #kept: Buffer[] = [];
  #keptBytes = 0;
  /** How many items the caller's stream has yielded. */
  #count = 0;
  #taken = 0;
  /** The number of the next item to send. */
  #next = 0;
  #credit = 0;
  #hasEnded = false;
  #isEndSent = false;
  #isDone = false;

  /** Whether one more item may be taken from the caller's stream. */
  get mayPull(): boolean {
    const hasRoom = this.#count < this.#credit && this.#keptBytes < MAX_UNTAKEN_BYTES;
    return hasRoom && !this.#hasEnded && !this.#isDone;
  }

  /** Whether the worker wants no more items. */
  get isDone(): boolean {
    return this.#isDone;
  }

  push(item: Buffer): void {
    this.#kept.push(item);
    this.#keptBytes += item.length;
    this.#count++;
  }

  /** There are no further items. */
  end(): void {
    this.#hasEnded = true;
  }

  /** Takes a grant, even a late one. Returns whether the method has taken further items. */
  grant({ credit, taken, asks }: IncomingGrant): boolean {
    if (taken > this.#count) throw new Error("the method took items that were not sent");
    const hasTakenMore = taken > this.#taken;
    const freed = this.#kept.splice(0, Math.max(0, taken - this.#taken));
    for (const item of freed) this.#keptBytes -= item.length;
    this.#taken = Math.max(this.#taken, taken);
    this.#next = Math.max(this.#next, this.#taken);
    this.#credit = Math.max(this.#credit, Math.min(credit, this.#taken + MAX_CREDIT));
    // To the first item that is still kept.
    if (asks === ASKS.again) this.goBack(0);
    if (asks === ASKS.enough) {
      this.#isDone = true;
      this.#kept = [];
    }
    return hasTakenMore;
  }

  /** Items from this number on may not have reached the worker: those still kept are sent again. */
  goBack(first: number): void {
    this.#next = Math.max(Math.min(this.#next, first), this.#taken);
    this.#isEndSent = false;
  }

  /** Takes the next message with items, or with the end. `null`: there is nothing to send. */
  next(): ItemMessage | null {
    if (this.#isDone) return null;
    const first = this.#next;
    const items: Buffer[] = [];
    let bytes = 0;
    for (let i = first - this.#taken; i < this.#kept.length; i++) {
      const item = this.#kept[i]!;
      bytes += item.length;
      if (items.length >= MAX_ITEMS || (bytes > MAX_MESSAGE_BYTES && items.length > 0)) break;
      items.push(item);
    }
    this.#next += items.length;
    if (items.length > 0) return { first, items, end: null };
    if (!this.#hasEnded || this.#isEndSent) return null;
    this.#isEndSent = true;
    return this.keepAlive();
  }

  /** A message without items, which shows that the caller is there. Repeats the end once sent. */
  keepAlive(): ItemMessage {
    return { first: this.#next, items: [], end: this.#isEndSent ? this.#count : null };
  }
}
