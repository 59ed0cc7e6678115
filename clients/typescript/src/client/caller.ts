import { BrokerFailed, Cancelled, TooLarge, TooManyCalls } from "../errors.js";
import type { Log } from "../log.js";
import type { Delivery } from "../transport/consumer.js";
import type { Link } from "../transport/link.js";
import type { Incoming } from "../transport/message.js";
import { Publisher } from "../transport/publisher.js";
import type { CallEvents, CallPlan } from "./call-plan.js";
import type { Cancellations } from "./cancellations.js";
import { ReplyQueue } from "./replies.js";
import { RunningCall } from "./running-call.js";

/** Receives the messages in the reply queue that belong to no call in flight. */
export type StrayHandler = (message: Incoming) => void;

/** Makes calls, and holds those of a connection that are in flight. Only calls with a reply. */
export class Caller {
  readonly #calls = new Map<string, RunningCall>();
  readonly #replies = new ReplyQueue((delivery) => this.#receive(delivery));
  readonly #publisher: Publisher;
  readonly #cancellations: Cancellations;
  readonly #link: Link;
  readonly #maxCalls: number;
  readonly #maxBytes: number;
  #stray: StrayHandler = () => {};
  /** Whether the first call was made, which opens the reply queue. */
  #isOpen = false;

  constructor(
    link: Link,
    log: Log,
    cancellations: Cancellations,
    limits: { readonly maxCalls: number; readonly maxBytes: number },
  ) {
    this.#link = link;
    this.#cancellations = cancellations;
    this.#maxCalls = limits.maxCalls;
    this.#maxBytes = limits.maxBytes;
    this.#publisher = new Publisher(link, log, "calls", {
      prepare: (channel, model) => this.#replies.prepare(channel, model),
      opened: () => this.#reconsiderCalls(),
    });
  }

  /** The queue that replies go to at this moment. For tests. */
  get replyQueue(): string {
    return this.#replies.name;
  }

  /** How many requests wait for their confirms. For tests. */
  get unconfirmed(): number {
    return this.#publisher.unconfirmed;
  }

  /** How many bytes the body of a request may have. */
  get maxBytes(): number {
    return this.#maxBytes;
  }

  /** Sets what is called for messages that belong to no call in flight. */
  onStray(handler: StrayHandler): void {
    this.#stray = handler;
  }

  /** Begins a call. Throws if too many are in flight, or if it is too large or already aborted. */
  start(plan: CallPlan, events: CallEvents): RunningCall {
    if (this.#calls.size >= this.#maxCalls) throw new TooManyCalls(this.#maxCalls);
    if (plan.body.length > this.#maxBytes) throw new TooLarge(plan.body.length, this.#maxBytes);
    if (plan.signal?.aborted) throw new Cancelled("no", plan.signal.reason);
    // Programs that only serve need no reply queue.
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.#publisher.start();
    }
    const call = new RunningCall(
      {
        publisher: this.#publisher,
        replies: this.#replies,
        lastError: () => (this.#link.isConnected ? null : this.#link.lastError),
        ended: (ended) => this.#forget(ended),
      },
      plan,
      events,
    );
    this.#calls.set(call.id, call);
    call.send();
    return call;
  }

  /** Fails the calls in flight, and closes the channel. */
  async close(): Promise<void> {
    for (const call of [...this.#calls.values()]) {
      call.fail(new BrokerFailed("the connection is closed", call.executed));
    }
    await this.#publisher.close();
  }

  /** Forgets a call, and tells the workers if one of them may run it for nobody. */
  #forget(call: RunningCall): void {
    this.#calls.delete(call.id);
    if (call.isAbandoned) {
      this.#cancellations.cancel(call.plan.queue, { id: call.id, leftMs: call.leftMs });
    }
  }

  #receive(delivery: Delivery): void {
    const call = this.#calls.get(delivery.properties.correlationId ?? "");
    if (call === undefined) this.#stray(delivery);
    else call.receive(delivery);
  }

  /** The reply queue is consumed on a new channel. */
  #reconsiderCalls(): void {
    for (const call of [...this.#calls.values()]) call.reconsider();
  }
}
