import type { MethodReply } from "./invocation.js";

/** How many recent durations the 99th percentile is computed from. */
const MAX_RECENT = 1024;

/** The counts of one method since the server started. */
export class MethodStats {
  #calls = 0;
  #failures = 0;
  #errors = 0;
  #inFlight = 0;
  #totalMs = 0;
  readonly #recent: number[] = [];
  /** Also counts calls that were cancelled before they began. */
  cancelled = 0;

  begin(): void {
    this.#inFlight++;
  }

  /** Counts a call that has ended. `null`: it was cancelled. */
  end(ms: number, reply: MethodReply | null): void {
    this.#inFlight--;
    if (reply === null) {
      this.cancelled++;
      return;
    }
    this.#recent[this.#calls % MAX_RECENT] = ms;
    this.#calls++;
    this.#totalMs += ms;
    if (reply.kind !== "result") this.#failures++;
    if (reply.kind === "error") this.#errors++;
  }

  /** As `rpc.stats` returns it. */
  describe(service: string, method: string): Record<string, unknown> {
    const sorted = [...this.#recent].sort((a, b) => a - b);
    const p99 = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))] ?? 0;
    return {
      service,
      method,
      calls: this.#calls,
      failures: this.#failures,
      errors: this.#errors,
      cancelled: this.cancelled,
      in_flight: this.#inFlight,
      mean_ns: nanos(this.#calls === 0 ? 0 : this.#totalMs / this.#calls),
      total_ns: nanos(this.#totalMs),
      p99_ns: nanos(p99),
    };
  }
}

function nanos(ms: number): number {
  return Math.round(ms * 1e6);
}
