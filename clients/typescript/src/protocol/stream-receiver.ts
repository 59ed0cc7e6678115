import { detached, sizeOf, type Credit } from "./control.js";
import { MAX_CREDIT } from "./names.js";
import { compareRuns, type StreamRun } from "./stream-run.js";

/** Messages that cannot be a stream. */
export class BadStream extends Error {
  override readonly name = "BadStream";
}

/** Whether a stream goes on after one of its messages. */
export type Received<R> =
  | { readonly kind: "continues" }
  /** All items before the end have arrived, or the end does not count them. */
  | { readonly kind: "ends"; readonly end: R };

/** Why a message of a stream is not read. */
export type Unread =
  /** It is from another worker, or an unknown one, whose stream nobody reads. */
  | "foreign"
  /** It is late, from a run that has ended. */
  | "late"
  /** The stream cannot go on, because its worker runs the method again. */
  | "interrupted";

/** How many items and bytes may be on their way or wait for their reader. */
export interface Window {
  readonly items: number;
  readonly bytes: number;
}

/** Puts the items of a stream into order, and decides how many more may be sent. Pure: no I/O. */
export class StreamReceiver<R> {
  readonly #window: Window;
  readonly #mayBeginAnew: boolean;
  /** Items in order, of which the reader has taken the first `#read`. */
  readonly #ready: Uint8Array[] = [];
  #read = 0;
  /** The number of the next item that is missing. */
  #next = 0;
  /** Items after a gap, by their numbers. */
  readonly #early = new Map<number, Uint8Array>();
  #granted: Credit & { readonly bytes: number };
  #arrivedBytes = 0;
  #consumed = { items: 0, bytes: 0 };
  /** The size of the largest message: a worker may exceed its credit by one message. */
  #largest = 0;
  #run: StreamRun | null = null;
  /** The number of all items, and the reply that counts them, once that has arrived. */
  #announcedEnd: { readonly count: number; readonly end: R } | null = null;

  /** `mayBeginAnew` is `false` if the caller sends items too, because it has them only once. */
  constructor(window: Window, { mayBeginAnew = true } = {}) {
    this.#mayBeginAnew = mayBeginAnew;
    const items = Math.min(Math.max(1, window.items), MAX_CREDIT);
    this.#window = { items, bytes: Math.max(1, window.bytes) };
    this.#granted = { ...this.#window };
  }

  /** The credit that was granted to the worker, by the request or later. */
  get granted(): Credit & { readonly bytes: number } {
    return this.#granted;
  }

  /** The run that sends the stream. Stays `null` if the first message ends the stream. */
  get run(): StreamRun | null {
    return this.#run;
  }

  /** Whether items before this number are missing. */
  missesBefore(number: number): boolean {
    return this.#next < number;
  }

  /**
   * Decides whether to read a message of this run. Returns `null` if so.
   *
   * The first message decides which run sends the stream. A later run of the same worker replaces
   * it: the stream begins anew, without the items that have arrived. If the reader has taken one of
   * them, or the stream must not begin anew, it is interrupted.
   */
  chooseRun(run: StreamRun | null): Unread | null {
    if (this.#run === null) return null;
    switch (compareRuns(run, this.#run)) {
      case "sameRun":
        return null;
      case "otherWorker":
        return "foreign";
      case "earlierRun":
        return "late";
      case "laterRun":
        if (this.#consumed.items > 0 || !this.#mayBeginAnew) return "interrupted";
        this.#beginAnew(run);
        return null;
    }
  }

  /** A message of a run that `chooseRun` has accepted arrived. */
  begin(run: StreamRun): void {
    this.#run ??= run;
  }

  /**
   * Items of a run that `chooseRun` has accepted arrived, perhaps twice or out of order. Throws
   * {@link BadStream}.
   */
  receive(run: StreamRun, first: number, items: readonly Uint8Array[]): Received<R> {
    this.begin(run);
    const afterLast = first + items.length;
    if (items.length > 0 && afterLast > this.#granted.items) {
      throw new BadStream("the worker sent more items than it was granted");
    }
    if (items.length > 0 && this.#announcedEnd !== null && afterLast > this.#announcedEnd.count) {
      throw new BadStream("the worker sent an item after the end");
    }
    let size = 0;
    for (const [i, item] of items.entries()) {
      size += sizeOf(item);
      const number = first + i;
      if (number < this.#next || this.#early.has(number)) continue;
      this.#arrivedBytes += sizeOf(item);
      this.#early.set(number, detached(item));
    }
    this.#largest = Math.max(this.#largest, size);
    this.#takeInOrder();
    if (this.#arrivedBytes > this.#granted.bytes + this.#largest) {
      throw new BadStream("the worker sent more bytes than it was granted");
    }
    return this.#progress();
  }

  /**
   * The reply of a run that `chooseRun` has accepted arrived. `count`: how many items the stream
   * has. Without it, the reply ends the stream at once. Throws {@link BadStream}.
   */
  receiveEnd(run: StreamRun | null, count: number | undefined, end: R): Received<R> {
    if (count === undefined) return { kind: "ends", end };
    let afterLast = this.#next;
    for (const number of this.#early.keys()) afterLast = Math.max(afterLast, number + 1);
    if (count < afterLast) throw new BadStream("the worker sent more items than it counted");
    if (count > this.#granted.items) {
      throw new BadStream("the worker counted more items than it was granted");
    }
    this.#announcedEnd ??= { count, end };
    const received = this.#progress();
    if (received.kind === "continues") this.#run ??= run;
    return received;
  }

  /** The next item for the reader, or `undefined`. */
  take(): Uint8Array | undefined {
    const item = this.#ready[this.#read];
    if (item === undefined) return undefined;
    this.#read++;
    // Many at once, because each removal moves all items after it.
    if (this.#read === this.#ready.length || this.#read >= 1024) {
      this.#ready.splice(0, this.#read);
      this.#read = 0;
    }
    this.#consumed.items++;
    this.#consumed.bytes += sizeOf(item);
    return item;
  }

  /**
   * Grants more credit if the reader has taken half of the window. Returns the new credit, or
   * `null` if nothing is granted.
   */
  grant(): Credit | null {
    const { items, bytes } = this.#consumed;
    const isHalfUsed =
      this.#granted.items - items <= this.#window.items / 2 ||
      this.#granted.bytes - bytes <= this.#window.bytes / 2;
    if (!isHalfUsed) return null;
    this.#granted = { items: items + this.#window.items, bytes: bytes + this.#window.bytes };
    return this.#granted;
  }

  /** Forgets what has arrived. No item was taken, so the credit is still that of the request. */
  #beginAnew(run: StreamRun | null): void {
    this.#ready.length = 0;
    this.#next = 0;
    this.#early.clear();
    this.#arrivedBytes = 0;
    this.#largest = 0;
    this.#announcedEnd = null;
    this.#run = run;
  }

  /** Moves the early items that have no gap before them any more to the ready ones. */
  #takeInOrder(): void {
    for (;;) {
      const item = this.#early.get(this.#next);
      if (item === undefined) return;
      this.#early.delete(this.#next);
      this.#ready.push(item);
      this.#next++;
    }
  }

  /** Whether the stream goes on with what has arrived so far. */
  #progress(): Received<R> {
    const announced = this.#announcedEnd;
    if (announced === null || announced.count !== this.#next) return { kind: "continues" };
    return { kind: "ends", end: announced.end };
  }
}
