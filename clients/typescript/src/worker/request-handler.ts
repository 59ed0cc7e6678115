import type { Log } from "../log.js";
import { escaped } from "../log.js";
import type { AnyMethod } from "../method.js";
import { deathsOf } from "../protocol/deaths.js";
import { Deduplicator, originOf } from "../protocol/deduplicator.js";
import {
  decide,
  encodeFault,
  find,
  isJobMethod,
  orInterrupted,
  type Decision,
  type MethodTable,
  type ReplyTo,
  type Rules,
  type StreamRequest,
} from "../protocol/dispatch.js";
import { ITEMS_HEADER, PROBE_TYPE, RESENT_HEADER, WORKER_HEADER } from "../protocol/names.js";
import { isReplyAddress } from "../protocol/reply-address.js";
import { isUuid } from "../protocol/uuid.js";
import type { Items } from "../service.js";
import type { Delivery } from "../transport/consumer.js";
import { UNKNOWN_DEATHS_HEADER } from "../transport/guard.js";
import { header } from "../transport/message.js";
import { runInContext, type Context } from "./context.js";
import type { Identity } from "./identity.js";
import { IncomingStream } from "./incoming-stream.js";
import {
  faultReply,
  fault,
  readArguments,
  resultReply,
  thrownReply,
  type MethodReply,
} from "./invocation.js";
import { failureOf, type JobHandler } from "./job-handler.js";
import { collect, OutgoingStream, type StreamParts } from "./outgoing-stream.js";
import type { ReplySender } from "./reply-sender.js";
import { contextOf, iterateInContext } from "./request-context.js";
import { RunningMethod } from "./running.js";
import type { RunningMethods, Tracked } from "./running-methods.js";
import type { MethodStats } from "./stats.js";

/** A method and what runs it. */
export interface ServedMethod {
  readonly service: string;
  readonly method: AnyMethod;
  readonly run: (...args: any[]) => unknown;
  readonly stats: MethodStats;
}

/** A request that comes back after so many rejections is acknowledged. */
const MAX_REJECTIONS = 20;
/** A reply is given up so long after the caller's time limit. */
const GIVE_UP_MS = 30_000;
/** A caller without a time limit is taken to wait for so long. */
const NO_LIMIT_MS = 60 * 60 * 1000;
const PROBE_LIMIT_MS = 5_000;

/** What a queue's requests are handled with. */
export interface HandlerParts {
  readonly queue: string;
  readonly table: MethodTable<ServedMethod>;
  readonly rules: Rules;
  readonly replies: ReplySender;
  readonly running: RunningMethods;
  readonly log: Log;
  readonly identity: Identity;
  readonly maxSentBytes: number;
  readonly maxStreams: number;
  /** Handles jobs, if the queue has any. */
  readonly jobs: JobHandler | null;
  /** Whether the queue has a dead-letter exchange, which keeps what is rejected. */
  readonly keepsRejected: boolean;
  readonly onThrown: (error: unknown, context: Context) => void;
}

type Run = Extract<Decision<ServedMethod>, { kind: "run" }>;

/** Handles the requests of one queue. */
export class RequestHandler {
  readonly #parts: HandlerParts;
  readonly #known = new Deduplicator<Delivery>();
  /** How many methods with streams run. */
  #streams = 0;

  constructor(parts: HandlerParts) {
    this.#parts = parts;
  }

  /** The channel was lost: the broker has taken its deliveries back. */
  forget(isLost: (delivery: Delivery) => boolean): void {
    this.#known.forgetDeliveries(isLost);
  }

  /** Handles a request or a probe of the queue. Never throws. */
  async handle(delivery: Delivery): Promise<void> {
    try {
      if (delivery.properties.type === PROBE_TYPE) this.#answerProbe(delivery);
      else await this.#deduplicate(delivery);
    } catch (error) {
      // A defect of this library must not take the worker down.
      this.#parts.log.line("error", "a request was given up", { reason: escaped(String(error)) });
      delivery.ack();
    }
  }

  /** Runs the method of a broadcast. Returns its reply, or `null` if nobody waits for it. */
  async runBroadcast(
    decision: Run,
    delivery: Delivery,
    running: RunningMethod,
  ): Promise<MethodReply | null> {
    const { entry, codec, mayHaveRun } = decision;
    const begunAt = performance.now();
    entry.stats.begin();
    let reply: MethodReply | null;
    try {
      const args = readArguments(entry.method, codec, delivery.body);
      const context = running.context(contextOf(entry.method, delivery));
      reply = await this.#invoke(decision, args, context, running, null, null);
    } catch (error) {
      reply = faultReply(codec, orInterrupted(fault("bad_request", error), mayHaveRun));
    }
    entry.stats.end(performance.now() - begunAt, reply);
    return reply;
  }

  /** Answers a probe, with which another worker measures how long requests wait. */
  #answerProbe(delivery: Delivery): void {
    const { replyTo, correlationId } = delivery.properties;
    const { replies, rules } = this.#parts;
    if (replyTo !== undefined && isReplyAddress(replyTo, rules.allowedReplyPrefixes)) {
      const to: ReplyTo = { address: replyTo, correlationId, contentType: "" };
      const empty = { type: "", headers: {}, body: Buffer.alloc(0) };
      replies.offerOnce(to, empty, PROBE_LIMIT_MS);
    }
    delivery.ack();
  }

  /** Processes a request, unless it is another delivery of one that runs or has ended. */
  async #deduplicate(delivery: Delivery): Promise<void> {
    const { replyTo, correlationId, headers } = delivery.properties;
    // Some senders of one-way requests use an order number, for example, as the id of all messages
    // about that order.
    const isUnique = Boolean(replyTo) || isUuid(correlationId);
    const requestKey =
      isUnique && delivery.malformed === null ? Deduplicator.keyOf(replyTo, correlationId) : null;
    const settleAlone = { ack: () => delivery.ack(), reject: () => this.#reject(delivery) };
    if (requestKey === null) return this.#process(delivery, settleAlone);
    const origin = originOf(headers, delivery.redelivered, deathsOf(headers) !== null);
    const { action, key } = this.#known.add(requestKey, origin, delivery);
    switch (action) {
      case "join":
        return;
      case "ack":
        return delivery.ack();
      case "reject":
        return this.#reject(delivery);
      case "runUntracked":
        return this.#process(delivery, settleAlone);
      case "run": {
        const settle: Settlement = {
          ack: () => this.#known.finish(key, "answered").forEach((each) => each.ack()),
          reject: () => this.#known.finish(key, "rejected").forEach((each) => this.#reject(each)),
        };
        try {
          await this.#process(delivery, settle);
        } catch (error) {
          // Otherwise, later deliveries would join a run that never ends.
          settle.ack();
          throw error;
        }
      }
    }
  }

  /** Rejects a request, or acknowledges it if that happened often, or nobody knows how often. */
  #reject(delivery: Delivery): void {
    const { headers } = delivery.properties;
    const isUnknown = delivery.malformed !== null && Object.hasOwn(headers, UNKNOWN_DEATHS_HEADER);
    if (isUnknown || (deathsOf(headers)?.rejections ?? 0) >= MAX_REJECTIONS) delivery.ack();
    else delivery.reject();
  }

  /** Moves, rejects, refuses or runs a request. Acknowledges one whose call was cancelled. */
  async #process(delivery: Delivery, settle: Settlement): Promise<void> {
    const { table, rules, running, log, jobs } = this.#parts;
    const entry = find(delivery.properties.type, table);
    const isJob = entry !== null && isJobMethod(entry.method) && !delivery.properties.replyTo;
    if (jobs !== null && isJob && delivery.malformed === null) {
      const mayRun = await jobs.arrive(delivery, settle.ack);
      if (!mayRun) return;
    }
    const decision = decide(delivery, table, rules);
    switch (decision.kind) {
      case "forbidden":
        log.line("warn", "a request was rejected: its reply_to is no reply address", {
          queue: this.#parts.queue,
          reply_to: escaped(delivery.properties.replyTo ?? ""),
        });
        return settle.reject();
      case "refuse":
        return this.#refuse(decision, delivery, settle);
      case "run": {
        const id = delivery.properties.correlationId;
        if (decision.replyTo !== null && running.isCancelled(id)) {
          decision.entry.stats.cancelled++;
          return settle.ack();
        }
        return this.#run(decision, delivery, settle);
      }
    }
  }

  /** Answers a request that does not run with a fault. Without `reply_to`, moves or rejects it. */
  async #refuse(
    { fault: refusal, codec, replyTo }: Extract<Decision<ServedMethod>, { kind: "refuse" }>,
    delivery: Delivery,
    settle: Settlement,
  ): Promise<void> {
    const { replies, jobs, log, queue, keepsRejected } = this.#parts;
    if (replyTo !== null) {
      const reply = { type: "fault", headers: {}, body: encodeFault(codec, refusal) };
      await replies.reply(replyTo, reply, GIVE_UP_MS);
      return settle.ack();
    }
    // On a queue with jobs, the request goes to the dead-letter queue. A malformed one would lose
    // its properties, so it is rejected if the queue's own dead-letter exchange keeps it as it is.
    const isMoved = jobs !== null && !(delivery.malformed !== null && keepsRejected);
    if (isMoved) {
      const failure = { reason: refusal.code, text: refusal.message };
      await jobs.fail(delivery, null, failure, settle.ack);
      return;
    }
    log.line("warn", "a one-way request was refused", { queue, code: refusal.code });
    settle.reject();
  }

  /** Runs a method, and answers. */
  async #run(decision: Run, delivery: Delivery, settle: Settlement): Promise<void> {
    const { entry, codec, replyTo, stream } = decision;
    const { running: all, replies, maxSentBytes, maxStreams, identity } = this.#parts;
    const { method, stats } = entry;
    if (stream !== null && !(await this.#freeId(decision, delivery, settle))) return;
    const runHeader = stream === null ? identity.idHeader : identity.nextRunHeader();
    const isStream = method.stream || method.incoming !== null;
    const canBeCancelled = replyTo !== null && (method.idempotent || isStream || method.cancel);
    // The time limit of a request with a stream is that of the first message only.
    const running = new RunningMethod(canBeCancelled, stream === null ? decision.limitMs : null);
    const { correlationId } = delivery.properties;
    const id = replyTo !== null && isUuid(correlationId) ? correlationId : null;
    const tracked = all.track(id, replyTo?.address ?? "", running);
    const begunAt = performance.now();
    stats.begin();
    // A stream's request is settled with its first message, because the broker does not wait for
    // its end. If `maxStreams` run already, it is settled at the end, and the prefetch limits it.
    const settlesEarly = stream !== null && this.#streams < maxStreams;
    if (stream !== null) this.#streams++;
    let isSettled = false;
    const ackOnce = () => {
      if (!isSettled) settle.ack();
      isSettled = true;
    };
    let reply: MethodReply | null;
    try {
      const context = running.context(contextOf(method, delivery));
      const args = readArguments(method, codec, delivery.body);
      if (stream !== null && replyTo !== null) {
        this.#openStreams(tracked, stream, {
          replies,
          replyTo,
          codec,
          method,
          runHeader,
          maxBytes: maxSentBytes,
          settleEarly: settlesEarly ? ackOnce : () => {},
          replyToThrown: this.#makeReplyToThrown(decision, context),
        });
      }
      const { incoming, outgoing } = tracked;
      reply = await this.#invoke(decision, args, context, running, incoming, outgoing);
    } catch (error) {
      reply = faultReply(codec, orInterrupted(fault("bad_request", error), decision.mayHaveRun));
    }
    running.finish();
    tracked.incoming?.end();
    tracked.release();
    if (stream !== null) this.#streams--;
    stats.end(performance.now() - begunAt, reply);
    await this.#answer(decision, delivery, reply, runHeader, tracked, ackOnce);
  }

  /** Makes the streams of a method that runs, in either direction. */
  #openStreams(tracked: Tracked, stream: StreamRequest, parts: StreamParts): void {
    if (stream.sendsItems) {
      const isItemsQueueLost = () => this.#parts.running.isItemsQueueLost;
      tracked.incoming = new IncomingStream({ ...parts, isItemsQueueLost }, tracked.running);
    }
    if (stream.credit !== null) {
      tracked.outgoing = new OutgoingStream(parts, tracked.running, stream.credit);
    }
  }

  /**
   * Returns whether a stream may run. A method that runs with its id is ended if the caller sent
   * this request again, unless that method has a stream to the same address. Settles the request if
   * the stream may not run.
   */
  async #freeId(decision: Run, delivery: Delivery, settle: Settlement): Promise<boolean> {
    const { correlationId, headers } = delivery.properties;
    const other = this.#parts.running.find(correlationId ?? "");
    if (other === null) return true;
    if (other.address === decision.replyTo?.address && other.hasStream) {
      // The request arrived again, and its stream goes on.
      settle.ack();
      return false;
    }
    if (header(headers, RESENT_HEADER) !== undefined) {
      other.running.end("cancelled");
      return true;
    }
    const { codec, replyTo, mayHaveRun } = decision;
    const reason = "another request with this correlation_id runs here";
    const refusal = orInterrupted({ code: "bad_request", message: reason }, mayHaveRun);
    await this.#refuse({ kind: "refuse", fault: refusal, codec, replyTo }, delivery, settle);
    return false;
  }

  /** Runs the method, and sends its stream. Returns its reply, or `null` if nobody waits for it. */
  async #invoke(
    decision: Run,
    args: unknown,
    context: Context,
    running: RunningMethod,
    incoming: IncomingStream | null,
    outgoing: OutgoingStream | null,
  ): Promise<MethodReply | null> {
    const { entry, codec } = decision;
    const { method } = entry;
    const { maxSentBytes } = this.#parts;
    const replyToThrown = this.#makeReplyToThrown(decision, context);
    const given = method.incoming === null ? [args, context] : [args, incoming, context];
    try {
      if (method.stream) {
        const items = runInContext(context, () => entry.run(...given)) as Items<unknown>;
        const inContext = { [Symbol.asyncIterator]: () => iterateInContext(items, context) };
        const parts = { method, codec, maxBytes: maxSentBytes, replyToThrown };
        return outgoing === null
          ? await collect(inContext, parts, running)
          : await outgoing.send(inContext);
      }
      const returned = await running.race(
        runInContext(context, async () => await entry.run(...given)),
      );
      if (typeof returned !== "string") {
        return resultReply(method, codec, returned.value, maxSentBytes);
      }
      switch (returned) {
        case "cancelled":
          return null;
        case "abandoned":
          return faultReply(codec, fault("abandoned", "the caller's time was up a second ago"));
        case "stopped":
          return faultReply(codec, fault("interrupted", "the worker stops"));
      }
    } catch (error) {
      return replyToThrown(error);
    }
  }

  /** Returns what makes the reply if the method throws. Reports errors that become faults. */
  #makeReplyToThrown({ entry, codec }: Run, context: Context): (error: unknown) => MethodReply {
    const { maxSentBytes, onThrown } = this.#parts;
    return (error) => {
      const reply = thrownReply(entry.method, codec, error, maxSentBytes);
      if (reply.kind !== "fault") return reply;
      try {
        onThrown(error, context);
      } catch {
        // The user's function must not change the reply.
      }
      return reply;
    };
  }

  /** Sends the reply of a method, or moves a job that failed, and acknowledges the request. */
  async #answer(
    { codec, replyTo, entry }: Run,
    delivery: Delivery,
    reply: MethodReply | null,
    runHeader: string,
    { running, outgoing }: Tracked,
    ack: () => void,
  ): Promise<void> {
    if (reply === null) return ack();
    if (replyTo === null) {
      const failure = isJobMethod(entry.method) ? failureOf(reply, codec) : null;
      if (failure === null || this.#parts.jobs === null) return ack();
      return this.#parts.jobs.fail(delivery, entry.method, failure, ack);
    }
    const isStream = entry.method.stream || entry.method.incoming !== null;
    const headers: Record<string, string> = {};
    if (isStream) headers[WORKER_HEADER] = runHeader;
    // If the method was ended, items may be missing before the end.
    const isCounted = outgoing !== null && running.ended === null;
    if (isCounted) headers[ITEMS_HEADER] = String(outgoing.count);
    const limit = (running.timeLeftMs ?? (isStream ? 0 : NO_LIMIT_MS)) + GIVE_UP_MS;
    const sent = { type: reply.kind, headers, body: reply.body };
    const kind = await this.#parts.replies.reply(replyTo, sent, limit);
    if (kind !== "confirmed") {
      this.#parts.log.line("warn", "a reply was not taken", { queue: this.#parts.queue, kind });
    }
    ack();
  }
}

/** How all deliveries of a request are settled. */
interface Settlement {
  readonly ack: () => void;
  readonly reject: () => void;
}
