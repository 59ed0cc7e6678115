import { randomUUID } from "node:crypto";

import type { Codec } from "../codec/content-type.js";
import { CONTENT_TYPES } from "../codec/content-type.js";
import {
  BrokerFailed,
  Cancelled,
  Fault,
  NoServer,
  Refused,
  TimedOut,
  TooLarge,
  TooManyCalls,
  type RpcError,
} from "../errors.js";
import type { Log } from "../log.js";
import { CallState, type CallDecision } from "../protocol/call-state.js";
import { RESENT_HEADER } from "../protocol/names.js";
import type { Delivery } from "../transport/consumer.js";
import type { Link } from "../transport/link.js";
import type { Incoming, Outgoing } from "../transport/message.js";
import { Publisher, type Publication } from "../transport/publisher.js";
import { MAX_TIMER_MS } from "../transport/time.js";
import type { Cancellations } from "./cancellations.js";
import { ReplyQueue } from "./replies.js";

/** What is sent for a call, and how. */
export interface CallPlan {
  readonly queue: string;
  readonly method: string;
  readonly codec: Codec;
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
  readonly priority: number | undefined;
  readonly isIdempotent: boolean;
  readonly waitsForServer: boolean;
  /** How long the first message of the worker may take. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** What becomes of a call. One of these ends it, except `message`. */
export interface CallEvents {
  /** A message of the worker: the reply, or one of a stream. */
  message(message: Incoming): void;
  failed(error: RpcError): void;
}

/** Replies that belong to no call. */
export type StrayHandler = (message: Incoming) => void;

const RESEND_PAUSE_MS = 200;

/** The calls of a connection that are in flight. */
export class Caller {
  readonly #calls = new Map<string, RunningCall>();
  readonly #replies = new ReplyQueue((delivery) => this.#receive(delivery));
  readonly #publisher: Publisher;
  readonly #cancellations: Cancellations;
  readonly #link: Link;
  readonly #maxCalls: number;
  readonly #maxBytes: number;
  #stray: StrayHandler = () => {};
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
      opened: () => this.#consumed(),
    });
  }

  /** The queue that replies go to at this moment. */
  get replyQueue(): string {
    return this.#replies.name;
  }

  get maxBytes(): number {
    return this.#maxBytes;
  }

  onStray(handler: StrayHandler): void {
    this.#stray = handler;
  }

  /** Begins a call. */
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
        ended: (ended) => this.#ended(ended),
      },
      plan,
      events,
    );
    this.#calls.set(call.id, call);
    call.send();
    return call;
  }

  async close(): Promise<void> {
    for (const call of [...this.#calls.values()]) {
      call.fail(new BrokerFailed("the connection is closed", call.executed));
    }
    await this.#publisher.close();
  }

  #ended(call: RunningCall): void {
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

  #consumed(): void {
    for (const call of [...this.#calls.values()]) call.consumed();
  }
}

interface Surroundings {
  readonly publisher: Publisher;
  readonly replies: ReplyQueue;
  lastError(): unknown;
  ended(call: RunningCall): void;
}

/** A call in flight. */
export class RunningCall {
  readonly id = randomUUID();
  readonly plan: CallPlan;
  readonly #around: Surroundings;
  readonly #events: CallEvents;
  readonly #state: CallState;
  readonly #endsAt: number;
  #publication: Publication | null = null;
  #timer: NodeJS.Timeout | undefined;
  #pause: NodeJS.Timeout | undefined;
  #hasBegun = false;
  #hasEnded = false;
  #hasReply = false;

  constructor(around: Surroundings, plan: CallPlan, events: CallEvents) {
    this.#around = around;
    this.plan = plan;
    this.#events = events;
    this.#state = new CallState(plan.isIdempotent, plan.waitsForServer);
    this.#endsAt = performance.now() + plan.limitMs;
    this.#timer = setTimeout(() => this.#timedOut(), Math.min(plan.limitMs, MAX_TIMER_MS));
    plan.signal?.addEventListener("abort", this.#aborted);
  }

  get executed() {
    return this.#hasBegun ? "maybe" : this.#state.executed;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  /** Whether the call ended without an answer to a request that a worker may have. */
  get isAbandoned(): boolean {
    return !this.#hasReply && this.executed !== "no";
  }

  /** How long the request can still wait in a queue. */
  get leftMs(): number {
    return Math.max(0, this.#endsAt - performance.now());
  }

  /**
   * A worker has begun: the request is never sent again, and the limit no longer applies. From now
   * on, whoever reads the worker's messages watches the time.
   */
  begin(): void {
    this.#hasBegun = true;
    clearTimeout(this.#timer);
  }

  /** The call ends with its reply. */
  finish(): void {
    this.#hasReply = true;
    this.#end();
  }

  /** The call ends with an error. */
  fail(error: RpcError): void {
    if (this.#hasEnded) return;
    this.#end();
    this.#events.failed(error);
  }

  /** The caller no longer waits. */
  abandon(): void {
    this.#end();
  }

  receive(message: Incoming): void {
    if (!this.#hasEnded) this.#events.message(message);
  }

  /** Fails because of a fault; an earlier request of the call may run, whatever the fault says. */
  fault(fault: Fault): RpcError {
    if (fault.executed !== "no" || !this.#wasSentTwice) return fault;
    return new Fault(
      "interrupted",
      `an earlier request may run, and a later one got ${fault.code}`,
    );
  }

  send(): void {
    if (this.#hasEnded) return;
    this.#publication = this.#around.publisher.publish(
      () => this.#outgoing(),
      (outcome) => {
        if (!this.#hasEnded && !this.#hasBegun) {
          this.#decide(this.#state.published(outcome, this.#around.replies.epoch));
        }
      },
      () => {
        this.#publication = null;
        this.#wasSentTwice = this.#state.isResent;
        this.#state.written(this.#around.replies.epoch);
      },
    );
  }

  consumed(): void {
    if (!this.#hasEnded && !this.#hasBegun) {
      this.#decide(this.#state.consumed(this.#around.replies.epoch));
    }
  }

  #wasSentTwice = false;

  #outgoing(): Outgoing | null {
    const left = Math.floor(this.leftMs);
    if (this.#hasEnded || left <= 0) return null;
    const { plan } = this;
    const resent = this.#state.isResent ? { [RESENT_HEADER]: "" } : {};
    return {
      routingKey: plan.queue,
      mandatory: true,
      properties: {
        type: plan.method,
        contentType: CONTENT_TYPES[plan.codec],
        correlationId: this.id,
        replyTo: this.#around.replies.name,
        expiration: String(left),
        deliveryMode: 1,
        priority: plan.priority,
        headers: { ...plan.headers, ...resent },
      },
      body: plan.body,
    };
  }

  #decide(decision: CallDecision): void {
    switch (decision.next) {
      case "wait":
        return;
      case "send":
        return this.send();
      case "sendLater":
        this.#pause = setTimeout(() => this.send(), RESEND_PAUSE_MS);
        return;
      case "fail":
        return this.fail(this.#failure(decision.why, decision.reason));
    }
  }

  #failure(why: "noServer" | "refused" | "broker" | "interrupted", reason: string): RpcError {
    switch (why) {
      case "noServer":
        return new NoServer(this.plan.queue);
      case "refused":
        return new Refused(this.plan.queue);
      case "interrupted":
        return new Fault("interrupted", reason);
      case "broker":
        return new BrokerFailed(reason, this.executed);
    }
  }

  #timedOut(): void {
    const cause = this.#around.lastError();
    this.fail(new TimedOut(this.plan.limitMs, this.executed, cause ?? undefined));
  }

  readonly #aborted = () => {
    this.fail(new Cancelled(this.executed, this.plan.signal?.reason));
  };

  #end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#pause);
    this.#publication?.withdraw();
    this.plan.signal?.removeEventListener("abort", this.#aborted);
    this.#around.ended(this);
  }
}
