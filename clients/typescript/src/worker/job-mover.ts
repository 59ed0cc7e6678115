import { randomBytes } from "node:crypto";

import type { Log } from "../log.js";
import {
  DEAD_LETTER_WAIT_MS,
  markMoved,
  nextWait,
  RETRY_WAITS,
  roundedUp,
  type JobHeaders,
} from "../protocol/jobs.js";
import type { Delivery } from "../transport/consumer.js";
import type { Outgoing } from "../transport/message.js";
import type { Outcome, Publisher } from "../transport/publisher.js";

const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 30_000;
/** An attempt that is not confirmed for this long has failed. */
const CONFIRM_LIMIT_MS = 30_000;
/** Attempts that fail after this long are logged as errors. */
const STUCK_FOR_LONG_MS = 5 * 60_000;

/** A queue to which a job is moved. */
interface Target {
  /** The request queue, the dead-letter queue, or the retry queue with this wait. */
  readonly to: "requests" | "dead" | number;
  /** What is left of the job's delay when it comes back from there. */
  readonly rest: number;
  /** Whether the job was given up, and only waits there for the dead-letter queue. */
  readonly isGivenUp?: boolean;
}

/** Publishes copies of jobs. Once one is confirmed, calls `done`, which settles the original. */
export class JobMover {
  readonly #queue: string;
  readonly #publisher: Publisher;
  readonly #declare: (queue: "dead" | number) => Promise<void>;
  readonly #isStopped: () => boolean;
  readonly #log: Log;

  constructor(
    queue: string,
    publisher: Publisher,
    declare: (queue: "dead" | number) => Promise<void>,
    isStopped: () => boolean,
    log: Log,
  ) {
    this.#queue = queue;
    this.#publisher = publisher;
    this.#declare = declare;
    this.#isStopped = isStopped;
    this.#log = log;
  }

  /** The job waits in a retry queue, and comes back. */
  async toRetry(
    delivery: Delivery,
    headers: JobHeaders,
    delayMs: number,
    done: () => void,
  ): Promise<void> {
    const { wait, rest } = nextWait(roundedUp(delayMs));
    await this.#move(delivery, headers, [{ to: wait, rest }], done);
  }

  /** The job is given up. If the dead-letter queue does not take it, it waits and comes back. */
  async toDeadLetters(delivery: Delivery, headers: JobHeaders, done: () => void): Promise<void> {
    const fallback = { to: DEAD_LETTER_WAIT_MS, rest: 0, isGivenUp: true };
    await this.#move(delivery, headers, [{ to: "dead", rest: 0 }, fallback], done);
  }

  /** The job goes back to its queue, as a copy that counts how often it came back. */
  async toRequests(delivery: Delivery, headers: JobHeaders, done: () => void): Promise<void> {
    const fallback = { to: RETRY_WAITS[0]!, rest: 0 };
    await this.#move(delivery, headers, [{ to: "requests", rest: 0 }, fallback], done);
  }

  /**
   * Publishes copies until a queue has taken one, and calls `done` then. Tries the targets in this
   * order, again and again, with a pause after the last one, and returns without `done` once the
   * worker stops.
   */
  async #move(
    delivery: Delivery,
    headers: JobHeaders,
    targets: readonly Target[],
    done: () => void,
  ): Promise<void> {
    const begun = performance.now();
    let pause = FIRST_PAUSE_MS;
    while (!this.#isStopped()) {
      for (const target of targets) {
        const copy = this.#copy(delivery, headers, target);
        const outcome = await this.#publish(copy, target);
        if (outcome.kind === "confirmed") {
          done();
          return;
        }
        const stuckMs = performance.now() - begun;
        this.#log.line(
          stuckMs < STUCK_FOR_LONG_MS ? "warn" : "error",
          "a queue does not take a job, so the job waits: check that it exists and is not full",
          { queue: copy.routingKey, outcome: outcome.kind },
        );
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
    // The job is not settled, so the broker gives it to another worker.
  }

  /** Publishes a copy, also to a queue that must be declared first. */
  async #publish(copy: Outgoing, { to }: Target): Promise<Outcome> {
    const outcome = await this.#publisher.send(copy, CONFIRM_LIMIT_MS);
    if (outcome.kind !== "returned" || to === "requests") return outcome;
    try {
      await this.#declare(to);
    } catch {
      // The next attempt declares the queue again.
      return outcome;
    }
    return this.#publisher.send(copy, CONFIRM_LIMIT_MS);
  }

  #copy({ properties, body }: Delivery, headers: JobHeaders, target: Target): Outgoing {
    const { to, rest, isGivenUp = false } = target;
    return {
      routingKey: this.#nameOf(to),
      mandatory: true,
      properties: {
        type: properties.type,
        contentType: properties.contentType,
        contentEncoding: properties.contentEncoding,
        correlationId: properties.correlationId,
        priority: properties.priority,
        appId: properties.appId,
        deliveryMode: 2,
        headers: markMoved(headers, {
          ...(to === "dead" || isGivenUp ? { origin: this.#queue } : {}),
          rest,
          isGivenUp,
          user: properties.userId,
          token: randomBytes(8).toString("hex"),
        }),
      },
      body,
    };
  }

  #nameOf(to: Target["to"]): string {
    if (to === "requests") return this.#queue;
    return to === "dead" ? `${this.#queue}.dead` : `${this.#queue}.retry.${to}`;
  }
}
