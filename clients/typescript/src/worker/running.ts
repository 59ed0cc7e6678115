import { setMaxListeners } from "node:events";

import { MAX_TIMER_MS } from "../transport/time.js";
import type { Context } from "./context.js";

/** Why a method ended before it returned. */
export type EndReason =
  /** Its caller no longer waits, and gets no reply. */
  | "cancelled"
  /** The worker gave up on it. */
  | "abandoned"
  /** The worker stops. */
  | "stopped";

/** A method is ended, or told by its signal, this long after its deadline. */
const GRACE_MS = 1_000;

/** A method that runs, and what ends it. */
export class RunningMethod {
  /** Whether the method's result is ignored once nobody waits for it. */
  readonly canBeCancelled: boolean;
  readonly #controller = new AbortController();
  readonly #endsAt: number | null;
  #timer: NodeJS.Timeout | undefined;
  #ended: EndReason | null = null;
  #onEnd: (reason: EndReason) => void = () => {};

  constructor(canBeCancelled: boolean, limitMs: number | null) {
    this.canBeCancelled = canBeCancelled;
    // A method may pass its signal to many calls.
    setMaxListeners(0, this.#controller.signal);
    this.#endsAt = limitMs === null ? null : performance.now() + limitMs;
    if (limitMs !== null) {
      this.#timer = setTimeout(
        () => this.end("abandoned"),
        Math.min(limitMs + GRACE_MS, MAX_TIMER_MS),
      );
    }
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** How long the caller still waits. `null`: there is no limit. */
  get timeLeftMs(): number | null {
    return this.#endsAt === null ? null : Math.max(0, this.#endsAt - performance.now());
  }

  /** Why the method was ended, if it was. */
  get ended(): EndReason | null {
    return this.#ended;
  }

  /**
   * Ends the method: aborts its signal, and ignores what it returns. One that must not be cancelled
   * goes on to its reply, unless the worker stops.
   */
  end(reason: EndReason): void {
    const isFinal = this.canBeCancelled || reason === "stopped";
    const goesOn = reason === "abandoned" && !isFinal;
    const why = goesOn ? "the caller's time is up" : `the method was ${reason}`;
    this.#controller.abort(new Error(why));
    if (!isFinal || this.#ended !== null) return;
    this.#ended = reason;
    this.#onEnd(reason);
  }

  /** Waits for a step of the method, one at a time. Returns the reason if it is ended before. */
  async race<T>(promise: PromiseLike<T>): Promise<{ readonly value: T } | EndReason> {
    if (this.#ended !== null) return this.#ended;
    const ended = new Promise<EndReason>((resolve) => (this.#onEnd = resolve));
    try {
      return await Promise.race([Promise.resolve(promise).then((value) => ({ value })), ended]);
    } finally {
      this.#onEnd = () => {};
    }
  }

  /** The method has returned. */
  finish(): void {
    clearTimeout(this.#timer);
  }

  /** The context that the method sees. */
  context(about: Omit<Context, "timeLeftMs" | "signal">): Context {
    const running = this;
    return {
      ...about,
      get timeLeftMs() {
        return running.timeLeftMs;
      },
      get signal() {
        return running.signal;
      },
    };
  }
}
