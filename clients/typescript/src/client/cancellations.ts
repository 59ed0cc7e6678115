import { encodeCancellations, MAX_ELEMENTS, type CancelledCall } from "../protocol/control.js";
import { CANCEL_TYPE, CONTROL_EXCHANGE } from "../protocol/names.js";
import type { Publisher } from "../transport/publisher.js";

const MAX_WAITING = 16_384;
/** How long a message may wait to be confirmed, and then in the queue of a worker. */
const LIMIT_MS = 5_000;

/**
 * Tells workers which calls nobody waits for any more. Calls with the same routing key that end
 * together share a message.
 */
export class Cancellations {
  readonly #publisher: Publisher;
  /** The calls whose cancellations are sent next, by routing key. */
  readonly #waiting = new Map<string, CancelledCall[]>();
  /** How many calls wait, or are in messages whose outcomes are not known yet. */
  #count = 0;
  #isScheduled = false;

  constructor(publisher: Publisher) {
    this.#publisher = publisher;
  }

  /**
   * Cancels a call. The routing key is its queue, which reaches all workers of the queue, or the id
   * of a worker, which ends only the streams of this call there.
   */
  cancel(key: string, call: CancelledCall): void {
    // Dropped: a cancellation only saves work.
    if (this.#count >= MAX_WAITING) return;
    this.#count++;
    const calls = this.#waiting.get(key);
    if (calls === undefined) this.#waiting.set(key, [call]);
    else calls.push(call);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => void this.#flush());
  }

  /** Sends what waits, in a message for each routing key, or more if there are many calls. */
  async #flush(): Promise<void> {
    this.#isScheduled = false;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    const sent = waiting.map(async ([key, calls]) => {
      for (let i = 0; i < calls.length; i += MAX_ELEMENTS) {
        await this.#send(key, calls.slice(i, i + MAX_ELEMENTS));
      }
      this.#count -= calls.length;
    });
    await Promise.all(sent);
  }

  async #send(key: string, calls: readonly CancelledCall[]): Promise<void> {
    // Cancelling is best effort: what becomes of the message does not matter.
    await this.#publisher.send(
      {
        exchange: CONTROL_EXCHANGE,
        routingKey: key,
        properties: { type: CANCEL_TYPE, expiration: String(LIMIT_MS), headers: {} },
        body: encodeCancellations(calls),
      },
      LIMIT_MS,
    );
  }
}
