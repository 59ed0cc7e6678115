import { CancelledCalls } from "../protocol/cancelled-calls.js";
import type { CancelledCall, Credit } from "../protocol/control.js";
import type { IncomingStream } from "./incoming-stream.js";
import type { OutgoingStream } from "./outgoing-stream.js";
import type { RunningMethod } from "./running.js";

/** A method that runs, with its streams. */
export interface Tracked {
  readonly running: RunningMethod;
  /** Where its reply goes. Empty if it has none. */
  readonly address: string;
  incoming: IncomingStream | null;
  outgoing: OutgoingStream | null;
  readonly hasStream: boolean;
  /** The method has ended. */
  release(): void;
}

/** The methods that run, by the ids of their requests, and the calls that were cancelled. */
export class RunningMethods {
  readonly #byId = new Map<string, Tracked>();
  readonly #all = new Set<Tracked>();
  readonly #cancelled = new CancelledCalls();
  /** Whether the queue for the items of callers is lost at this moment. */
  isItemsQueueLost = false;

  /** Remembers a method that runs. Without an id, it cannot be cancelled by its caller. */
  track(id: string | null, address: string, running: RunningMethod): Tracked {
    const tracked: Tracked = {
      running,
      address,
      incoming: null,
      outgoing: null,
      get hasStream() {
        return (this.incoming ?? this.outgoing) !== null;
      },
      release: () => {
        this.#all.delete(tracked);
        if (id !== null && this.#byId.get(id) === tracked) this.#byId.delete(id);
      },
    };
    this.#all.add(tracked);
    if (id !== null) this.#byId.set(id, tracked);
    return tracked;
  }

  /** The method that runs for the request with this id, or `null`. */
  find(id: string): Tracked | null {
    return this.#byId.get(id) ?? null;
  }

  /** Whether the call was cancelled before its request arrived. */
  isCancelled(id: string | undefined): boolean {
    return id !== undefined && this.#cancelled.has(id, performance.now());
  }

  /** Nobody waits for these calls. Ends their methods, and remembers them for later requests. */
  cancel(calls: readonly CancelledCall[]): void {
    for (const call of calls) {
      this.#cancelled.add(call, performance.now());
      this.#byId.get(call.id)?.running.end("cancelled");
    }
  }

  /** Nobody reads or sends these streams. Ends their methods. */
  cancelStreams(calls: readonly CancelledCall[]): void {
    for (const { id } of calls) {
      const tracked = this.#byId.get(id);
      if (tracked?.hasStream) tracked.running.end("cancelled");
    }
  }

  grant(id: string, credit: Credit): void {
    this.#byId.get(id)?.outgoing?.grant(credit);
  }

  incoming(id: string): IncomingStream | null {
    return this.#byId.get(id)?.incoming ?? null;
  }

  /** The queue for items is there again. */
  resume(): void {
    this.isItemsQueueLost = false;
    for (const { incoming } of this.#all) incoming?.resume();
  }

  /** The worker stops: methods that still run are ended. */
  stop(): void {
    for (const { running } of this.#all) running.end("stopped");
  }
}
