import { randomUUID } from "node:crypto";

import { CONTENT_TYPES } from "../codec/content-type.js";
import {
  BrokerFailed,
  Cancelled,
  EncodeFailed,
  NoServer,
  NoWorkers,
  Refused,
  TimedOut,
  TooLarge,
  type RpcError,
} from "../errors.js";
import type { AnyMethod } from "../method.js";
import { MAX_DELAY_MS } from "../protocol/jobs.js";
import { CallState } from "../protocol/call-state.js";
import { CONTROL_EXCHANGE, RESENT_HEADER } from "../protocol/names.js";
import {
  isExchangeMissing,
  type Outcome,
  type Publication,
  type Publisher,
} from "../transport/publisher.js";
import type { CallPlan } from "./call-plan.js";

const RESEND_PAUSE_MS = 200;
/** A request without a reply depends on no reply queue, so its epoch never changes. */
const EPOCH = { address: 0, consumer: 0 };

/** The header that delays a job, if it is delayed. Throws if the delay is not allowed. */
export function delayHeader(
  method: AnyMethod,
  delayMs: number | undefined,
): Readonly<Record<string, string>> {
  if (delayMs === undefined || delayMs === 0) return {};
  const isJob = method.oneway && method.idempotent;
  if (!isJob || !(delayMs > 0 && delayMs <= MAX_DELAY_MS)) {
    throw new EncodeFailed("only a job can be delayed, by at most 30 days", "the delay is invalid");
  }
  return { "rpc-delay": String(Math.ceil(delayMs)) };
}

/** Where a one-way request is published, and how. */
interface Route {
  readonly exchange: string;
  readonly deliveryMode: number;
  readonly priority: number | undefined;
  /** The error if it reaches nobody. */
  readonly unreached: (queue: string) => RpcError;
}

/** Sends a request that wants no reply. Returns once the broker has confirmed it. */
export function sendOneway(publisher: Publisher, plan: CallPlan, maxBytes: number): Promise<void> {
  if (plan.body.length > maxBytes) throw new TooLarge(plan.body.length, maxBytes);
  return send(publisher, plan, {
    exchange: "",
    deliveryMode: 2,
    priority: plan.priority,
    unreached: (queue) => new NoServer(queue),
  });
}

/** Sends a broadcast that nobody answers. Returns once the broker has confirmed it. */
export function sendBroadcast(publisher: Publisher, plan: CallPlan): Promise<void> {
  return send(publisher, plan, {
    exchange: CONTROL_EXCHANGE,
    deliveryMode: 1,
    priority: undefined,
    unreached: (queue) => new NoWorkers(queue),
  });
}

function send(publisher: Publisher, plan: CallPlan, route: Route): Promise<void> {
  if (plan.signal?.aborted) throw new Cancelled("no", plan.signal.reason);
  return new Promise((resolve, reject) =>
    new Sending(publisher, plan, route, resolve, reject).send(),
  );
}

/** A one-way request, until the broker has confirmed it or it fails. */
class Sending {
  readonly #id = randomUUID();
  readonly #publisher: Publisher;
  readonly #plan: CallPlan;
  readonly #route: Route;
  readonly #resolve: () => void;
  readonly #reject: (error: RpcError) => void;
  readonly #state: CallState;
  readonly #timer: NodeJS.Timeout;
  #publication: Publication | null = null;
  #pause: NodeJS.Timeout | undefined;
  #hasEnded = false;

  constructor(
    publisher: Publisher,
    plan: CallPlan,
    route: Route,
    resolve: () => void,
    reject: (error: RpcError) => void,
  ) {
    this.#publisher = publisher;
    this.#plan = plan;
    this.#route = route;
    this.#resolve = resolve;
    this.#reject = reject;
    this.#state = new CallState(plan.isIdempotent, plan.waitsForServer);
    this.#timer = setTimeout(() => {
      this.#fail(new TimedOut(plan.limitMs, this.#state.executed));
    }, plan.limitMs);
    plan.signal?.addEventListener("abort", this.#aborted);
  }

  send(): void {
    if (this.#hasEnded) return;
    const plan = this.#plan;
    const { exchange, deliveryMode, priority } = this.#route;
    this.#publication = this.#publisher.publish({
      make: () => {
        if (this.#hasEnded) return null;
        return {
          exchange,
          routingKey: plan.queue,
          mandatory: true,
          properties: {
            type: plan.method,
            contentType: CONTENT_TYPES[plan.codec],
            correlationId: this.#id,
            deliveryMode,
            priority,
            headers: this.#state.isResent ? { ...plan.headers, [RESENT_HEADER]: "" } : plan.headers,
          },
          body: plan.body,
        };
      },
      written: () => {
        this.#publication = null;
        this.#state.written(EPOCH);
      },
      done: (outcome) => this.#handleOutcome(outcome),
    });
  }

  #handleOutcome(outcome: Outcome): void {
    if (this.#hasEnded) return;
    if (outcome.kind === "confirmed") {
      this.#end();
      this.#resolve();
      return;
    }
    // A worker declares the exchange. Without it, the broadcast has no workers.
    const hasNoWorkers = this.#route.exchange !== "" && isExchangeMissing(outcome);
    const known: Outcome = hasNoWorkers ? { kind: "returned" } : outcome;
    const decision = this.#state.decideByOutcome(known, EPOCH);
    if (decision.next === "send") return this.send();
    if (decision.next === "sendLater") {
      this.#pause = setTimeout(() => this.send(), RESEND_PAUSE_MS);
      return;
    }
    if (decision.next === "wait") return;
    const { why, reason } = decision;
    if (why === "noServer") this.#fail(this.#route.unreached(this.#plan.queue));
    else if (why === "refused") this.#fail(new Refused(this.#plan.queue));
    // Also if it is interrupted, which is a fault only of a call with a reply.
    else this.#fail(new BrokerFailed(reason, this.#state.executed));
  }

  readonly #aborted = () => {
    this.#fail(new Cancelled(this.#state.executed, this.#plan.signal?.reason));
  };

  #fail(error: RpcError): void {
    if (this.#hasEnded) return;
    this.#end();
    this.#reject(error);
  }

  #end(): void {
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#pause);
    this.#publication?.withdraw();
    this.#plan.signal?.removeEventListener("abort", this.#aborted);
  }
}
