import type { CancelledCall } from "./control.js";

const MAX_REMEMBERED = 16_384;
/** A request's time to live begins when the broker gets it: later than its caller thinks. */
const GRACE_MS = 10_000;
const MAX_LEFT_MS = 24 * 60 * 60 * 1000;

/** A worker's memory of the calls that were cancelled and whose requests may still arrive. Pure. */
export class CancelledCalls {
  /** Until when each id is remembered, in the order in which they were added. */
  readonly #until = new Map<string, number>();

  /** Remembers a call. Forgets the oldest ones, if there are too many or their time is up. */
  add({ id, leftMs }: CancelledCall, now: number): void {
    for (const [oldest, until] of this.#until) {
      if (until > now && this.#until.size < MAX_REMEMBERED) break;
      this.#until.delete(oldest);
    }
    this.#until.delete(id);
    this.#until.set(id, now + Math.min(leftMs, MAX_LEFT_MS) + GRACE_MS);
  }

  has(id: string, now: number): boolean {
    return (this.#until.get(id) ?? 0) > now;
  }
}
