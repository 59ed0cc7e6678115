import { randomUUID } from "node:crypto";

import { CONTENT_TYPES } from "../codec/content-type.js";
import {
  BrokerFailed,
  Cancelled,
  Fault,
  NoServer,
  Refused,
  TimedOut,
  type Executed,
  type RpcError,
} from "../errors.js";
import { CallState, type CallDecision } from "../protocol/call-state.js";
import { RESENT_HEADER } from "../protocol/names.js";
import type { Incoming, Outgoing } from "../transport/message.js";
import type { Publication, Publisher } from "../transport/publisher.js";
import { MAX_TIMER_MS } from "../transport/time.js";
import type { CallEvents, CallPlan } from "./call-plan.js";
import type { ReplyQueue } from "./replies.js";

const RESEND_PAUSE_MS = 200;

/** What a call in flight uses. */
export interface RunningCallParts {
  readonly publisher: Publisher;
  readonly replies: ReplyQueue;
  /** Why there is no connection, or `null` if there is one. */
  lastError(): unknown;
  /** The call has ended. */
  ended(call: RunningCall): void;
}

/**
 * A call in flight: sends its request, decides whether that is sent again, and watches the time
 * until the reply, or until a worker has begun a stream. Its `CallEvents` read what arrives.
 */
export class RunningCall {
  readonly id = randomUUID();
  readonly plan: CallPlan;
  readonly #parts: RunningCallParts;
  readonly #events: CallEvents;
  readonly #state: CallState;
  readonly #endsAt: number;
  #publication: Publication | null = null;
  #timer: NodeJS.Timeout | undefined;
  /** The pause before the request is sent again. */
  #pause: NodeJS.Timeout | undefined;
  #hasBegun = false;
  #hasEnded = false;
  #hasReply = false;
  /** Whether the last request was sent although a worker may have an earlier one. */
  #wasSentTwice = false;

  constructor(parts: RunningCallParts, plan: CallPlan, events: CallEvents) {
    this.#parts = parts;
    this.plan = plan;
    this.#events = events;
    this.#state = new CallState(plan.isIdempotent, plan.waitsForServer);
    this.#endsAt = performance.now() + plan.limitMs;
    this.#timer = setTimeout(() => this.#timedOut(), Math.min(plan.limitMs, MAX_TIMER_MS));
    plan.signal?.addEventListener("abort", this.#aborted);
  }

  /** Whether the method ran, as far as is known without a reply. */
  get executed(): Executed {
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
   * A worker has begun a stream: the request is never sent again, and the limit no longer applies.
   * From now on, whoever reads the worker's messages watches the time.
   */
  beginStream(): void {
    this.#hasBegun = true;
    clearTimeout(this.#timer);
    this.#sendNoMore();
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

  /** The call ends without an event: its reader has left, or what arrived cannot be read. */
  abandon(): void {
    this.#end();
  }

  /** Takes a message of a worker. */
  receive(message: Incoming): void {
    if (!this.#hasEnded) this.#events.message(message);
  }

  /**
   * The error for a fault. If the request was sent twice, a fault of the later one does not prove
   * that the earlier one did not run.
   */
  errorOf(fault: Fault): RpcError {
    if (fault.executed !== "no" || !this.#wasSentTwice) return fault;
    const reason = fault.detail === "" ? fault.code : `${fault.code}: ${fault.detail}`;
    return new Fault(
      "interrupted",
      `the request was sent several times and may have run; one of them was refused: ${reason}`,
      fault.retryAfterMs,
    );
  }

  /** Publishes the request as soon as that is possible, and acts on what becomes of it. */
  send(): void {
    if (this.#hasEnded || this.#hasBegun) return;
    this.#publication = this.#parts.publisher.publish({
      make: () => this.#outgoing(),
      written: () => {
        this.#publication = null;
        this.#wasSentTwice = this.#state.isResent;
        this.#state.written(this.#parts.replies.epoch);
      },
      done: (outcome) => {
        if (!this.#hasEnded && !this.#hasBegun) {
          this.#carryOut(this.#state.decideByOutcome(outcome, this.#parts.replies.epoch));
        }
      },
    });
  }

  /** The reply queue is consumed anew: the call waits on, sends its request again, or fails. */
  reconsider(): void {
    if (!this.#hasEnded && !this.#hasBegun) {
      this.#carryOut(this.#state.decideByEpoch(this.#parts.replies.epoch));
    }
  }

  /** Makes the request, or returns `null` if the call has ended or has no time left. */
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
        replyTo: this.#parts.replies.name,
        expiration: String(left),
        deliveryMode: 1,
        priority: plan.priority,
        headers: { ...plan.headers, ...resent },
      },
      body: plan.body,
    };
  }

  #carryOut(decision: CallDecision): void {
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
    const cause = this.#parts.lastError();
    this.fail(new TimedOut(this.plan.limitMs, this.executed, cause ?? undefined));
  }

  readonly #aborted = () => {
    this.fail(new Cancelled(this.executed, this.plan.signal?.reason));
  };

  #end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    this.#sendNoMore();
    this.plan.signal?.removeEventListener("abort", this.#aborted);
    this.#parts.ended(this);
  }

  /** Takes the request back if it waits to be sent, also for the second time. */
  #sendNoMore(): void {
    clearTimeout(this.#pause);
    this.#publication?.withdraw();
  }
}
