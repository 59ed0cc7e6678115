import { ASKS, detached, type IncomingGrant } from "./control.js";
import { MAX_UNTAKEN_BYTES } from "./names.js";

/** How many items a caller may send beyond those that the method has taken. */
const WINDOW = 1024;

/** How a stream from a caller ended. `error` is `null` if it did not break off. */
export type IncomingEnd = { readonly error: string | null };

/** The items of a caller that have arrived and that the method has not taken. Pure. */
export class IncomingInbox {
  #ready: Uint8Array[] = [];
  #readyBytes = 0;
  #taken = 0;
  /** How many bytes were taken since the last grant. */
  #takenBytes = 0;
  /** How many items the caller may send in total. */
  #granted = 0;
  /** What the last grant said about `#taken`. */
  #toldTaken = 0;
  #end: IncomingEnd | null = null;
  /** Whether the method wants no more. */
  #isClosed = false;
  /** What the next grant asks for, if it must be sent at once. */
  #asks: number | null = null;
  /** The first item that was missing when the caller was last asked to send again. */
  #askedFrom: number | null = null;

  /** The number of the next item that is missing. */
  get #next(): number {
    return this.#taken + this.#ready.length;
  }

  get #isOver(): boolean {
    return this.#isClosed || this.#end !== null;
  }

  /** Items arrived, or a message without items. `count`: the number of all items, at the end. */
  receive(first: number, items: readonly Uint8Array[], count: number | null): void {
    if (this.#isOver) {
      // Items may have been on their way before the caller heard that no more is wanted. A message
      // without items shows that it has not heard that.
      if (items.length === 0) this.#asks = ASKS.enough;
      return;
    }
    const afterLast = first + items.length;
    if (afterLast > this.#granted || (count !== null && count !== afterLast)) {
      this.fail("there are more items than were granted, or than their end counts");
      return;
    }
    if (first > this.#next) {
      // Each message after a gap shows the gap, but the caller is asked only once for it. A message
      // without items shows that the caller has nothing else to send: then it is asked again.
      if (items.length === 0 || this.#askedFrom !== this.#next) this.askAgain();
      return;
    }
    // The items before the missing one have arrived before.
    const newItems = items.slice(this.#next - first);
    for (const item of newItems) {
      if (this.#readyBytes >= MAX_UNTAKEN_BYTES) {
        this.fail("there are more bytes than the method has room for");
        return;
      }
      this.#ready.push(detached(item));
      this.#readyBytes += item.length;
    }
    if (count === null) return;
    if (count === this.#next) this.#endWith({ error: null });
    else this.fail("there are items after the end");
  }

  /** The stream breaks off. */
  fail(error: string): void {
    this.#endWith({ error });
  }

  /**
   * The method has ended. What it has not taken is dropped. Code of it that still reads the stream
   * gets the error, unless it had read everything or had closed the stream. The reply tells the
   * caller, so no grant does.
   */
  endMethod(error: string): void {
    const isComplete = this.#isClosed || (this.#end?.error === null && this.#ready.length === 0);
    if (!isComplete) this.#end = { error };
    this.#ready = [];
    this.#readyBytes = 0;
    this.#isClosed = true;
  }

  /** Items may have been lost: the next grant asks for all that are not taken. */
  askAgain(): void {
    if (this.#isOver) return;
    this.#asks = ASKS.again;
    this.#askedFrom = this.#next;
  }

  /** The method wants no more items. */
  close(): void {
    this.#isClosed = true;
    this.#ready = [];
    this.#readyBytes = 0;
    this.#asks = ASKS.enough;
  }

  /** The next item, the end, or `null` if there is nothing yet. */
  take(): { readonly item: Uint8Array } | IncomingEnd | null {
    const item = this.#ready.shift();
    if (item !== undefined) {
      this.#taken++;
      this.#readyBytes -= item.length;
      this.#takenBytes += item.length;
      return { item };
    }
    return this.#end ?? (this.#isClosed ? { error: null } : null);
  }

  /** Whether the caller should be told at once: it needs credit, or is asked for something. */
  get hasNews(): boolean {
    const isHalfUsed =
      this.#granted - this.#taken <= WINDOW / 2 || this.#takenBytes >= MAX_UNTAKEN_BYTES / 2;
    return this.#asks !== null || (isHalfUsed && !this.#isOver);
  }

  /** Whether the caller was not told of items that were taken. */
  get hasProgress(): boolean {
    return this.#taken > this.#toldTaken;
  }

  /** Makes the grant to send now. From then on, the caller counts as told. */
  grant(): IncomingGrant {
    this.#granted = this.#taken + WINDOW;
    this.#toldTaken = this.#taken;
    this.#takenBytes = 0;
    const asks = this.#isOver ? ASKS.enough : (this.#asks ?? ASKS.nothing);
    this.#asks = null;
    return { credit: this.#granted, taken: this.#taken, asks };
  }

  #endWith(end: IncomingEnd): void {
    if (this.#isOver) return;
    this.#end = end;
    this.#asks = ASKS.enough;
  }
}
