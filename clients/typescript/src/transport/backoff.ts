const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/** The pauses between attempts. They double from 0.1 to 5 seconds; jitter takes up to half off. */
export class Backoff {
  #next = FIRST_MS;

  /** The next pause, in milliseconds. */
  next(random: number = Math.random()): number {
    const pause = this.#next * (0.5 + random / 2);
    this.#next = Math.min(2 * this.#next, LONGEST_MS);
    return pause;
  }

  /** An attempt and what it opened lasted this long. From 5 seconds on, the pauses begin anew. */
  workedFor(ms: number): void {
    if (ms >= LONGEST_MS) this.#next = FIRST_MS;
  }
}
