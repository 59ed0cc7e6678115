import { setTimeout as delay } from "node:timers/promises";

import type { ConfirmChannel } from "amqplib";

import type { Connection } from "../connection.js";
import { messageOf, ServerFailed } from "../errors.js";
import type { MethodTable, Rules } from "../protocol/dispatch.js";
import { isJobMethod } from "../protocol/dispatch.js";
import { waitsOf } from "../protocol/jobs.js";
import type { Implementation } from "../service.js";
import { consume, type Delivery } from "../transport/consumer.js";
import { KeptChannel } from "../transport/kept-channel.js";
import { Link } from "../transport/link.js";
import { Publisher } from "../transport/publisher.js";
import { MAX_TIMER_MS, within } from "../transport/time.js";
import { Broadcasts } from "./broadcasts.js";
import { builtInMethods, type ServedQueue } from "./built-in.js";
import type { Context } from "./context.js";
import { Control } from "./control.js";
import { Identity } from "./identity.js";
import { JobHandler } from "./job-handler.js";
import { JobMover } from "./job-mover.js";
import {
  declareDead,
  declareRequests,
  declareRetry,
  maxDeliveriesOf,
  type QueueOptions,
} from "./queues.js";
import { ReplySender } from "./reply-sender.js";
import { RequestHandler, type ServedMethod } from "./request-handler.js";
import { RunningMethods } from "./running-methods.js";
import { describe, methodsOf, tablesOf } from "./served-methods.js";

/** Options of a server. */
export interface ServeOptions {
  /** How many requests of each queue run at a time, and as many streams besides. By default 16. */
  readonly concurrency?: number;
  /** The request queue of all services, if it is not their own. */
  readonly queue?: string;
  /** How the request queues are declared. */
  readonly queues?: QueueOptions;
  /** Whether the worker answers discovery and built-in methods. By default it does. */
  readonly describesItself?: boolean;
  /** The worker's name, application and version, as discovery shows them. */
  readonly name?: string;
  readonly appId?: string;
  readonly version?: string;
  /** How many bytes the body of a request may have. By default 16 MiB. */
  readonly maxAcceptedBytes?: number;
  /** Other beginnings of reply addresses that are answered. */
  readonly allowedReplyPrefixes?: readonly string[];
  /** Receives what a method throws, unless its caller gets it as the method's own error. */
  readonly onThrown?: (error: unknown, context: Context) => void;
}

const DEFAULT_CONCURRENCY = 16;
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024;
const START_LIMIT_MS = 30_000;
const DEFAULT_DRAIN_MS = 30_000;
/** How long ended methods may take to send their replies when the server stops. */
const LAST_REPLIES_MS = 2_000;
/** So that the names of its retry queues have at most AMQP's 255 bytes. */
const LONGEST_QUEUE_OF_JOBS = 255 - ".retry.1000000000".length;

/** A request queue with its consumer. */
interface QueueServer {
  readonly handler: RequestHandler;
  readonly channel: KeptChannel;
  readonly served: ServedQueue;
  consumerTag: string;
  /** The deliveries that are being handled. */
  readonly unsettled: Set<Delivery>;
}

/** Serves services until it is stopped. */
export class Server implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #options: ServeOptions;
  readonly #identity: Identity;
  readonly #replies: ReplySender;
  readonly #jobCopies: Publisher;
  readonly #running = new RunningMethods();
  readonly #queues: QueueServer[] = [];
  readonly #broadcasts: Broadcasts;
  readonly #handlers = new Map<string, RequestHandler>();
  #control: Control | null = null;
  /** How many requests are being handled, and what to call once there is none. */
  #inProgress = 0;
  #settled: (() => void)[] = [];
  /** Whether the time for requests in progress is over. */
  #isDrainOver = false;
  /** What `stop` waits for, once it was called. */
  #stopping: Promise<void> | null = null;
  #resolveEnded!: () => void;
  /** What `wait` waits for. */
  readonly #ended = new Promise<void>((resolve) => (this.#resolveEnded = resolve));

  private constructor(connection: Connection, options: ServeOptions) {
    const { link, log, addresses, name } = connection.internals;
    this.#connection = connection;
    this.#options = options;
    this.#identity = new Identity(options);
    this.#replies = new ReplySender(link, log, () => new Link(addresses, `${name} (replies)`, log));
    this.#jobCopies = new Publisher(link, log, "jobs");
    this.#broadcasts = new Broadcasts({
      identity: this.#identity,
      describesItself: this.#describesItself,
      replies: this.#replies,
      invoke: (decision, delivery, running) =>
        this.#handlers.get(delivery.routingKey)!.runBroadcast(decision, delivery, running),
    });
  }

  /** @internal */
  static async start(
    connection: Connection,
    implementations: readonly Implementation[],
    options: ServeOptions,
  ): Promise<Server> {
    const server = new Server(connection, options);
    try {
      await within(START_LIMIT_MS, server.#start(implementations));
    } catch (error) {
      await server.stop(0);
      throw error instanceof ServerFailed
        ? error
        : new ServerFailed(`the server cannot start: ${messageOf(error)}`, { cause: error });
    }
    return server;
  }

  /** The random id of this worker, new at each start. */
  get id(): string {
    return this.#identity.id;
  }

  /** Waits until the server is stopped. */
  async wait(): Promise<void> {
    await this.#ended;
  }

  /**
   * Takes no more requests, and lets those that it has end and be answered, for at most
   * `timeoutMs`. Methods that still run then are ended with the fault `interrupted`; broadcasts
   * get no reply. Later calls wait for the first one.
   */
  stop(timeoutMs: number = DEFAULT_DRAIN_MS): Promise<void> {
    this.#stopping ??= this.#stop(timeoutMs);
    return this.#stopping;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #start(implementations: readonly Implementation[]): Promise<void> {
    const concurrency = this.#options.concurrency ?? DEFAULT_CONCURRENCY;
    if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > 65_535) {
      throw new ServerFailed("the concurrency is invalid: expected an integer from 1 to 65535");
    }
    if (implementations.length === 0) throw new ServerFailed("expected at least one service");
    const byQueue = new Map<string, Implementation[]>();
    for (const implementation of implementations) {
      const queue = this.#options.queue ?? implementation.service.queue;
      byQueue.set(queue, [...(byQueue.get(queue) ?? []), implementation]);
    }
    this.#replies.start();
    this.#jobCopies.start();
    const broadcasts = new Map<string, MethodTable<ServedMethod>>();
    for (const [queue, services] of byQueue) {
      const server = this.#serveQueue(queue, services, concurrency, broadcasts);
      this.#queues.push(server);
    }
    await this.#openControl(broadcasts);
    for (const { channel } of this.#queues) await channel.open();
  }

  /** Prepares a request queue with its handler, and fills `broadcasts`. Nothing is opened yet. */
  #serveQueue(
    queue: string,
    services: readonly Implementation[],
    concurrency: number,
    broadcasts: Map<string, MethodTable<ServedMethod>>,
  ): QueueServer {
    const { link, log, maxSentBytes } = this.#connection.internals;
    const options = this.#options.queues ?? {};
    const all = services.flatMap(methodsOf);
    const { onQueue, onControl } = tablesOf(queue, all);
    broadcasts.set(queue, onControl);
    const served: ServedQueue = {
      queue,
      services: services.map((each) => describe(each, queue)),
      methods: all,
    };
    if (this.#describesItself) {
      for (const built of builtInMethods(this.#identity, served)) {
        onQueue.byName.set(built.method.name, built);
      }
    }
    const jobs = all.map(({ method }) => method).filter(isJobMethod);
    const hasJobs = jobs.length > 0;
    if (hasJobs && Buffer.byteLength(queue) > LONGEST_QUEUE_OF_JOBS) {
      throw new ServerFailed(
        `the queue's name is too long for jobs: ${LONGEST_QUEUE_OF_JOBS} bytes at most`,
      );
    }
    const rules: Rules = {
      ...this.#rules,
      isQuorum: options.quorum ?? false,
      maxDeliveries: maxDeliveriesOf(options),
    };
    const handler = new RequestHandler({
      queue,
      table: onQueue,
      rules,
      replies: this.#replies,
      running: this.#running,
      log,
      identity: this.#identity,
      maxSentBytes,
      maxStreams: concurrency,
      jobs: hasJobs ? new JobHandler(this.#makeMover(queue), rules) : null,
      keepsRejected: options.arguments?.["x-dead-letter-exchange"] !== undefined,
      onThrown: this.#options.onThrown ?? (() => {}),
    });
    this.#handlers.set(queue, handler);
    const waits = hasJobs ? waitsOf(jobs.flatMap(({ retry }) => retry ?? [])) : null;
    const server: QueueServer = {
      handler,
      served,
      consumerTag: "",
      unsettled: new Set(),
      channel: new KeptChannel(link, log, {
        what: `queue ${queue}`,
        setup: (channel) => this.#prepare(channel, server, concurrency, waits),
      }),
    };
    return server;
  }

  /**
   * Declares a request queue on a new channel, and consumes it. `waits` are those of its retry
   * queues, or `null` if it has no jobs.
   */
  async #prepare(
    channel: ConfirmChannel,
    server: QueueServer,
    concurrency: number,
    waits: readonly number[] | null,
  ): Promise<void> {
    const { queue } = server.served;
    const options = this.#options.queues ?? {};
    // Deliveries of an earlier channel come again.
    const lost = new Set(server.unsettled);
    server.unsettled.clear();
    server.handler.forget((delivery) => lost.has(delivery));
    await declareRequests(channel, queue, options);
    if (waits !== null) {
      await declareDead(channel, queue, options);
      for (const wait of waits) await declareRetry(channel, queue, wait, options);
    }
    // A worker that stops takes no more, also from a new connection.
    if (this.#stopping !== null) return;
    await channel.prefetch(concurrency);
    server.consumerTag = await consume(channel, queue, { noAck: false }, (delivery) =>
      this.#handle(server, delivery),
    );
    if (this.#stopping !== null) await channel.cancel(server.consumerTag);
  }

  #handle(server: QueueServer, delivery: Delivery): void {
    this.#inProgress++;
    server.unsettled.add(delivery);
    void server.handler.handle(delivery).finally(() => {
      server.unsettled.delete(delivery);
      if (--this.#inProgress === 0) for (const resolve of this.#settled.splice(0)) resolve();
    });
  }

  get #describesItself(): boolean {
    return this.#options.describesItself ?? true;
  }

  get #rules() {
    return {
      maxAcceptedBytes: this.#options.maxAcceptedBytes ?? DEFAULT_MAX_BYTES,
      allowedReplyPrefixes: this.#options.allowedReplyPrefixes ?? [],
    };
  }

  /** Makes what moves the jobs of a queue, and declares retry and dead-letter queues for that. */
  #makeMover(queue: string): JobMover {
    const options = this.#options.queues ?? {};
    const { log } = this.#connection.internals;
    const declare = async (which: "dead" | number) => {
      const channel = this.#queues.find(({ served }) => served.queue === queue)?.channel.current;
      if (channel == null) throw new Error("the connection to the broker was lost");
      if (which === "dead") await declareDead(channel, queue, options);
      else await declareRetry(channel, queue, which, options);
    };
    return new JobMover(queue, this.#jobCopies, declare, () => this.#isDrainOver, log);
  }

  async #openControl(broadcasts: Map<string, MethodTable<ServedMethod>>): Promise<void> {
    const { link, log } = this.#connection.internals;
    const methods = this.#queues.flatMap(({ served }) =>
      served.methods.map(({ method }) => method),
    );
    const describesItself = this.#describesItself;
    const isNeeded =
      describesItself || methods.some((method) => !method.oneway || method.broadcast);
    if (!isNeeded) return;
    this.#control = new Control({
      link,
      log,
      identity: this.#identity,
      describesItself,
      queues: this.#queues.map(({ served }) => served),
      broadcasts,
      rules: { ...this.#rules, isQuorum: false, maxDeliveries: Infinity },
      replies: this.#replies,
      running: this.#running,
      broadcastRuns: this.#broadcasts,
      hasStreams: methods.some((method) => method.stream || method.incoming !== null),
      receivesStreams: methods.some((method) => method.incoming !== null),
    });
    await this.#control.open();
  }

  /** Stops in steps: no more requests, then time for those in progress, then no channels. */
  async #stop(timeoutMs: number): Promise<void> {
    const until = performance.now() + timeoutMs;
    for (const { channel, consumerTag } of this.#queues) {
      const current = channel.current;
      if (current !== null) await within(2_000, current.cancel(consumerTag)).catch(() => {});
    }
    await this.#waitAtMost(this.#untilAllSettled(), until - performance.now());
    await this.#control?.stop();
    await this.#waitAtMost(this.#broadcasts.untilIdle(), until - performance.now());
    // What still runs is ended, and answered.
    this.#isDrainOver = true;
    this.#running.stop();
    this.#broadcasts.end();
    await this.#waitAtMost(this.#untilAllSettled(), LAST_REPLIES_MS);
    await this.#control?.close();
    for (const { channel } of this.#queues) await channel.close();
    await this.#jobCopies.close();
    await this.#replies.close();
    this.#resolveEnded();
  }

  async #untilAllSettled(): Promise<void> {
    if (this.#inProgress > 0) await new Promise<void>((resolve) => this.#settled.push(resolve));
  }

  /** Waits for a promise, but returns after `ms` in any case. */
  async #waitAtMost(promise: Promise<void>, ms: number): Promise<void> {
    const timeout = new AbortController();
    const limitMs = Math.min(Math.max(0, ms), MAX_TIMER_MS);
    const limit = delay(limitMs, undefined, { signal: timeout.signal }).catch(() => {});
    await Promise.race([promise, limit]);
    timeout.abort();
  }
}

/** Serves services. Returns once all queues are consumed. */
export function serve(
  connection: Connection,
  implementations: Implementation | readonly Implementation[],
  options: ServeOptions = {},
): Promise<Server> {
  const all = "service" in implementations ? [implementations] : implementations;
  return Server.start(connection, all, options);
}
