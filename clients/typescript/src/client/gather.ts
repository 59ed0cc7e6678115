import { randomUUID } from "node:crypto";

import type { ConfirmChannel } from "amqplib";

import { CONTENT_TYPES } from "../codec/content-type.js";
import {
  BadReply,
  BrokerFailed,
  Cancelled,
  NoWorkers,
  RpcError,
  TimedOut,
  type Executed,
} from "../errors.js";
import type { Log } from "../log.js";
import { CONTROL_EXCHANGE } from "../protocol/names.js";
import { workerOf, type WorkerInfo } from "../protocol/reply.js";
import { consume } from "../transport/consumer.js";
import { KeptChannel } from "../transport/kept-channel.js";
import type { Link } from "../transport/link.js";
import type { Incoming } from "../transport/message.js";
import {
  isExchangeMissing,
  type Outcome,
  type Publication,
  type Publisher,
} from "../transport/publisher.js";
import { MAX_TIMER_MS, sleep } from "../transport/time.js";
import type { CallPlan } from "./call-plan.js";

/** The answer of one worker. */
export interface Answer<T> {
  readonly worker: WorkerInfo;
  /** The method's result. Throws its error, the worker's fault, or a {@link BadReply}. */
  result(): T;
}

/** The answers of the workers, as they arrive. The request is sent when they are first read. */
export interface Gather<T> extends AsyncIterableIterator<Answer<T>> {
  /** How many of the expected workers have not answered. `null`: no number is expected. */
  readonly missing: number | null;
}

/** When gathering ends, beside its time limit. */
export interface GatherEnd {
  /** With this many answers. */
  readonly expectWorkers: number | undefined;
  /** This long after the last answer. By default half a second, unless a number is expected. */
  readonly quietMs: number | undefined;
}

/** What a broadcast, or a question to all workers, is sent with. */
export interface GatherParts {
  readonly link: Link;
  readonly log: Log;
  readonly control: Publisher;
}

const MAX_WAITING_ANSWERS = 64;
const MAX_ANSWERS = 10_000;
const DEFAULT_QUIET_MS = 500;
/** How long a call that waits for workers pauses before it asks again. */
const RETRY_MS = 500;

/** Sends one request to all workers of a routing key, and collects their answers in a queue. */
export class Gathering<T> implements Gather<T> {
  readonly #parts: GatherParts;
  readonly #plan: () => CallPlan;
  readonly #end: GatherEnd;
  readonly #read: (message: Incoming) => T;
  readonly #id = randomUUID();
  /** Answers that have arrived and are not read. */
  readonly #answers: { readonly answer: Answer<T>; readonly ack: () => void }[] = [];
  /** The ids of the workers that have answered. */
  readonly #known = new Set<string>();
  #begun: Promise<void> | null = null;
  /** The channel of the queue for answers, and amqplib's own once the queue is declared. */
  #channel: KeptChannel | null = null;
  #raw: ConfirmChannel | null = null;
  #queue = "";
  /** Wakes the reader. */
  #waiting: (() => void) | null = null;
  #limitTimer: NodeJS.Timeout | undefined;
  /** Ends gathering some time after the last answer. */
  #quietTimer: NodeJS.Timeout | undefined;
  /** Whether nothing more is gathered. Answers that have arrived may still be read. */
  #hasEnded = false;
  #resolveEnded!: () => void;
  /** Resolves once `#hasEnded` is set. */
  readonly #ended = new Promise<void>((resolve) => (this.#resolveEnded = resolve));
  #signal: AbortSignal | undefined;
  /** The request, while it waits to be written. */
  #publication: Publication | null = null;
  /** Whether workers run the method, as far as is known without an answer. */
  #executed: Executed = "no";
  /** What the reader gets after the answers that have arrived, instead of the end. */
  #failure: RpcError | null = null;

  constructor(
    parts: GatherParts,
    plan: () => CallPlan,
    end: GatherEnd,
    read: (message: Incoming) => T,
  ) {
    this.#parts = parts;
    this.#plan = plan;
    this.#end = end;
    this.#read = read;
  }

  get missing(): number | null {
    const expected = this.#end.expectWorkers;
    return expected === undefined ? null : Math.max(0, expected - this.#known.size);
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Answer<T>>> {
    // After `return`, nothing is sent any more.
    if (!this.#hasEnded) this.#begun ??= this.#begin();
    try {
      await this.#begun;
    } catch (error) {
      await this.#close();
      throw error;
    }
    for (;;) {
      const next = this.#answers.shift();
      if (next !== undefined) {
        next.ack();
        return { done: false, value: next.answer };
      }
      if (this.#failure !== null) {
        const failure = this.#failure;
        this.#failure = null;
        throw failure;
      }
      if (this.#hasEnded) return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        // Wakes an earlier `next` too, whose promise its caller has not awaited.
        const earlier = this.#waiting;
        this.#waiting = () => (earlier?.(), resolve());
      });
    }
  }

  async return(): Promise<IteratorResult<Answer<T>>> {
    this.#answers.length = 0;
    await this.#close();
    return { done: true, value: undefined };
  }

  /**
   * Opens the queue for answers, and sends the request. If that reaches no worker, sends it again
   * and again if the call waits for workers, and fails otherwise.
   */
  async #begin(): Promise<void> {
    const plan = this.#plan();
    const endsAt = performance.now() + plan.limitMs;
    this.#signal = plan.signal;
    if (plan.signal?.aborted) throw new Cancelled("no", plan.signal.reason);
    plan.signal?.addEventListener("abort", this.#aborted);
    const limit = this.#startLimit(plan.limitMs);
    let sent = false;
    this.#channel = new KeptChannel(this.#parts.link, this.#parts.log, {
      what: "answers",
      setup: (channel) => this.#prepare(channel),
      // The queue is deleted with its channel, so no more answers arrive. This is the end of
      // gathering, and no error once the request was sent.
      lost: (reason) => {
        if (!sent) this.#failure ??= new BrokerFailed(reason.message, this.#executed, reason);
        this.#finish();
      },
    });
    const opened = this.#channel.open();
    await Promise.race([opened, limit, this.#ended]).catch((error: unknown) => {
      throw error instanceof RpcError ? error : new BrokerFailed(String(error), "no", error);
    });
    while (!this.#hasEnded) {
      const outcome = await Promise.race([this.#publish(plan, endsAt), limit, this.#ended]);
      if (this.#hasEnded || outcome === undefined) return;
      if (outcome.kind === "unsent") throw new BrokerFailed(outcome.reason, "no");
      const hasNoWorkers = outcome.kind === "returned" || isExchangeMissing(outcome);
      // Without a confirm too, the queues of some workers may have the request.
      sent = !hasNoWorkers;
      if (sent) return;
      this.#executed = "no";
      if (!plan.waitsForServer) throw new NoWorkers(plan.queue);
      await Promise.race([sleep(RETRY_MS), limit, this.#ended]);
    }
  }

  /**
   * Starts the time limit. The promise fails if it passes before the request is written. If it
   * passes later, gathering ends.
   */
  #startLimit(limitMs: number): Promise<never> {
    const limit = new Promise<never>((_, reject) => {
      this.#limitTimer = setTimeout(() => {
        if (this.#executed !== "no") this.#finish();
        else reject(new TimedOut(limitMs, "no", this.#parts.link.lastError ?? undefined));
      }, limitMs);
    });
    // Nothing may wait for the promise when the limit passes.
    limit.catch(() => {});
    return limit;
  }

  /** Publishes the request. The promise stays pending if gathering ends before it is written. */
  #publish(plan: CallPlan, endsAt: number): Promise<Outcome> {
    const make = () => ({
      exchange: CONTROL_EXCHANGE,
      routingKey: plan.queue,
      mandatory: true,
      properties: {
        type: plan.method,
        contentType: CONTENT_TYPES[plan.codec],
        correlationId: this.#id,
        replyTo: this.#queue,
        expiration: String(Math.max(1, Math.floor(endsAt - performance.now()))),
        deliveryMode: 1,
        headers: plan.headers,
      },
      body: plan.body,
    });
    return new Promise((resolve) => {
      const written = () => {
        this.#executed = "maybe";
      };
      this.#publication = this.#parts.control.publish({ make, written, done: resolve });
    });
  }

  async #prepare(channel: ConfirmChannel): Promise<void> {
    const { queue } = await channel.assertQueue("", {
      exclusive: true,
      autoDelete: true,
      arguments: { "x-queue-type": "classic" },
    });
    this.#queue = queue;
    this.#raw = channel;
    // Beyond so many, answers that are not read wait at the broker.
    await channel.prefetch(MAX_WAITING_ANSWERS);
    await consume(channel, queue, { noAck: false }, (delivery) => {
      const isAnswer = this.#receive(delivery, () => delivery.ack());
      if (!isAnswer) delivery.ack();
    });
  }

  /**
   * Takes a message. Returns whether it is the first answer of a worker, which is acknowledged once
   * it is read.
   */
  #receive(message: Incoming, ack: () => void): boolean {
    if (this.#hasEnded || message.properties.correlationId !== this.#id) return false;
    const worker = workerOf(message);
    // If a worker replies twice, the first reply counts.
    if (worker !== null && this.#known.has(worker.id)) return false;
    const named = worker ?? unnamed(this.#known.size);
    this.#known.add(named.id);
    this.#answers.push({ answer: { worker: named, result: this.#resultOf(message) }, ack });
    const maxAnswers = Math.min(this.#end.expectWorkers ?? MAX_ANSWERS, MAX_ANSWERS);
    if (this.#known.size >= maxAnswers) this.#finish();
    else {
      this.#restartQuietTimer();
      this.#wake();
    }
    return true;
  }

  /** Reads an answer. Returns a function that returns what it holds, or throws it. */
  #resultOf(message: Incoming): () => T {
    try {
      if (message.malformed !== null) throw new Error(message.malformed);
      const value = this.#read(message);
      return () => value;
    } catch (error) {
      const failure = error instanceof RpcError ? error : new BadReply(error, "maybe");
      return () => {
        throw failure;
      };
    }
  }

  /** Counts the quiet time, if there is one, from now on. */
  #restartQuietTimer(): void {
    const { expectWorkers, quietMs } = this.#end;
    const quiet = quietMs ?? (expectWorkers === undefined ? DEFAULT_QUIET_MS : undefined);
    if (quiet === undefined) return;
    clearTimeout(this.#quietTimer);
    this.#quietTimer = setTimeout(() => this.#finish(), Math.min(quiet, MAX_TIMER_MS));
  }

  readonly #aborted = () => {
    this.#failure = new Cancelled(this.#executed, this.#signal?.reason);
    this.#finish();
  };

  #finish(): void {
    void this.#close();
  }

  /** Ends gathering, and deletes the queue for answers. */
  async #close(): Promise<void> {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#resolveEnded();
    clearTimeout(this.#limitTimer);
    clearTimeout(this.#quietTimer);
    this.#publication?.withdraw();
    this.#signal?.removeEventListener("abort", this.#aborted);
    this.#wake();
    const channel = this.#raw;
    this.#raw = null;
    if (channel !== null) await channel.deleteQueue(this.#queue).catch(() => {});
    await this.#channel?.close();
  }

  #wake(): void {
    this.#waiting?.();
    this.#waiting = null;
  }
}

/** A worker whose answer does not name it. Each such answer counts as another worker's. */
function unnamed(number: number): WorkerInfo {
  const id = `unknown ${number + 1}`;
  return {
    id,
    name: "",
    host: "",
    pid: 0,
    appId: "",
    version: "",
    runtimeVersion: "",
    uptimeMs: 0,
  };
}
