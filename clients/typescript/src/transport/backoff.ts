const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/** The pauses between attempts: from 0.1 to 5 seconds, with jitter. */
export class Backoff {
  #next = FIRST_MS;

  /** The next pause, in milliseconds. */
  next(random: number = Math.random()): number {
    const pause = this.#next * (0.5 + random / 2);
    this.#next = Math.min(2 * this.#next, LONGEST_MS);
    return pause;
  }

  /** What an attempt opened worked for this long. If that was long, the pauses begin anew. */
  workedFor(ms: number): void {
    if (ms >= LONGEST_MS) this.#next = FIRST_MS;
  }
}
