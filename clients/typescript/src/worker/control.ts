import { randomUUID } from "node:crypto";

import type { ConfirmChannel } from "amqplib";

import { codecOf } from "../codec/content-type.js";
import { encodeValue } from "../codec/values.js";
import { escaped, type Log } from "../log.js";
import { decodeCancellations, decodeGrants, decodeItems } from "../protocol/control.js";
import {
  decide,
  encodeFault,
  type MethodTable,
  type ReplyTo,
  type Rules,
} from "../protocol/dispatch.js";
import {
  CANCEL_TYPE,
  CONTROL_EXCHANGE,
  CREDIT_TYPE,
  DISCOVERY_KEY,
  ITEMS_HEADER,
  ITEMS_TYPE,
  WORKER_HEADER,
} from "../protocol/names.js";
import { isReplyAddress } from "../protocol/reply-address.js";
import { consume, type Delivery } from "../transport/consumer.js";
import { KeptChannel } from "../transport/kept-channel.js";
import type { Link } from "../transport/link.js";
import { numberHeader } from "../transport/message.js";
import { within } from "../transport/time.js";
import { Broadcasts } from "./broadcasts.js";
import { answerBuiltIn, BuiltInAnswer, isBuiltIn, type ServedQueue } from "./built-in.js";
import type { Identity } from "./identity.js";
import { declareControl } from "./queues.js";
import type { ReplySender } from "./reply-sender.js";
import type { ServedMethod } from "./request-handler.js";
import type { RunningMethods } from "./running-methods.js";

const CONTROL_LIMITS = { messages: 1024, bytes: 8 * 1024 * 1024, refusesExcess: false };
const ITEMS_LIMITS = { messages: 16_384, bytes: 256 * 1024 * 1024, refusesExcess: true };
const ANSWER_LIMIT_MS = 5_000;

/** What the control queues of a worker need. */
export interface ControlParts {
  readonly link: Link;
  readonly log: Log;
  readonly identity: Identity;
  readonly describesItself: boolean;
  readonly queues: readonly ServedQueue[];
  /** The broadcast methods of each request queue. */
  readonly broadcasts: ReadonlyMap<string, MethodTable<ServedMethod>>;
  readonly rules: Rules;
  readonly replies: ReplySender;
  readonly running: RunningMethods;
  readonly broadcastRuns: Broadcasts;
  readonly hasStreams: boolean;
  readonly receivesStreams: boolean;
}

/** The queues through which a worker is reached beside its request queues. */
export class Control {
  readonly #parts: ControlParts;
  readonly #channel: KeptChannel;
  readonly #items: KeptChannel | null;
  #consumerTag = "";
  /** Whether no more messages of the control queue are taken, also on a new channel. */
  #isStopped = false;

  constructor(parts: ControlParts) {
    this.#parts = parts;
    const { link, log, running, receivesStreams } = parts;
    this.#channel = new KeptChannel(link, log, {
      what: "control",
      setup: (channel) => this.#prepare(channel),
    });
    this.#items = receivesStreams
      ? new KeptChannel(link, log, {
          what: "items",
          setup: (channel) => this.#prepareItems(channel),
          lost: () => (running.isItemsQueueLost = true),
        })
      : null;
  }

  async open(): Promise<void> {
    await this.#channel.open();
    await this.#items?.open();
  }

  /** Takes no more messages of the control queue, which is deleted. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    const channel = this.#channel.current;
    if (channel !== null) await within(2_000, channel.cancel(this.#consumerTag)).catch(() => {});
  }

  async close(): Promise<void> {
    await this.#channel.close();
    await this.#items?.close();
  }

  async #prepare(channel: ConfirmChannel): Promise<void> {
    if (this.#isStopped) return;
    const { identity, describesItself, hasStreams, queues } = this.#parts;
    const queue = `rpc.control.${randomUUID()}`;
    await channel.assertExchange(CONTROL_EXCHANGE, "direct", { durable: true });
    await declareControl(channel, queue, CONTROL_LIMITS);
    const keys = queues.map((served) => served.queue);
    if (describesItself || hasStreams) keys.push(identity.id);
    if (describesItself) keys.push(DISCOVERY_KEY);
    this.#consumerTag = await consume(channel, queue, { noAck: true }, (delivery) =>
      this.#receive(delivery),
    );
    for (const key of keys) await channel.bindQueue(queue, CONTROL_EXCHANGE, key);
    // `stop` may have been called meanwhile, when the channel was not open yet.
    if (this.#isStopped) await channel.cancel(this.#consumerTag);
  }

  async #prepareItems(channel: ConfirmChannel): Promise<void> {
    const queue = `rpc.control.${randomUUID()}`;
    await channel.assertExchange(CONTROL_EXCHANGE, "direct", { durable: true });
    await declareControl(channel, queue, ITEMS_LIMITS);
    await consume(channel, queue, { noAck: true }, (delivery) => this.#receiveItems(delivery));
    await channel.bindQueue(queue, CONTROL_EXCHANGE, `${this.#parts.identity.id}.items`);
    this.#parts.running.resume();
  }

  /** Handles a message of the control queue. */
  #receive(delivery: Delivery): void {
    // Anybody may publish to the queue itself, and nothing here runs twice.
    if (delivery.exchange !== CONTROL_EXCHANGE || delivery.redelivered) return;
    const { running, identity, log } = this.#parts;
    try {
      switch (delivery.properties.type) {
        case CANCEL_TYPE: {
          if (delivery.malformed !== null) return;
          const calls = decodeCancellations(delivery.body);
          if (delivery.routingKey === identity.id) running.cancelStreams(calls);
          else running.cancel(calls);
          return;
        }
        case CREDIT_TYPE:
          if (delivery.malformed !== null) return;
          for (const { id, credit } of decodeGrants(delivery.body)) running.grant(id, credit);
          return;
        default:
          this.#handleRequest(delivery);
      }
    } catch (error) {
      // A peer may send anything to the exchange.
      log.line("debug", "a control message was ignored", { reason: escaped(String(error)) });
    }
  }

  /** Passes a message with items of a caller to the method that receives them. */
  #receiveItems(delivery: Delivery): void {
    const { properties, malformed } = delivery;
    const isItems = properties.type === ITEMS_TYPE && delivery.exchange === CONTROL_EXCHANGE;
    if (!isItems || malformed !== null) return;
    const stream = this.#parts.running.incoming(properties.correlationId ?? "");
    if (stream === null) return;
    try {
      const { first, items } = decodeItems(delivery.body);
      stream.receive(first, items, numberHeader(properties.headers, ITEMS_HEADER) ?? null);
    } catch {
      stream.fail("the caller's messages cannot be a stream");
    }
  }

  /** Answers a request for a built-in method to all workers or to this one, or runs a broadcast. */
  #handleRequest(delivery: Delivery): void {
    const { identity, broadcasts, rules, broadcastRuns } = this.#parts;
    const isQuestion = delivery.routingKey === DISCOVERY_KEY || delivery.routingKey === identity.id;
    if (isQuestion) return this.#answer(delivery);
    const table = broadcasts.get(delivery.routingKey);
    if (table === undefined) return;
    broadcastRuns.handle(delivery, decide(delivery, table, rules));
  }

  /** Answers if the worker describes itself and the request can be read and has a reply address. */
  #answer(delivery: Delivery): void {
    const { identity, describesItself, queues, replies, rules } = this.#parts;
    const { replyTo, type, correlationId, contentType } = delivery.properties;
    const isAnswered =
      describesItself &&
      delivery.malformed === null &&
      replyTo !== undefined &&
      isReplyAddress(replyTo, rules.allowedReplyPrefixes);
    if (!isAnswered) return;
    const named = codecOf(contentType);
    const codec = named === "none" || named === "unknown" ? "text" : named;
    const to: ReplyTo = {
      address: replyTo,
      correlationId,
      contentType: codec === "text" ? "text/plain" : contentType!,
    };
    const unknown = { code: "unknown_method", message: "ask rpc.ping or rpc.describe" };
    const body = isBuiltIn(type)
      ? encodeValue(codec, BuiltInAnswer, answerBuiltIn(type, identity, queues))
      : encodeFault(codec, unknown);
    const headers = { [WORKER_HEADER]: identity.idHeader };
    const reply = { type: isBuiltIn(type) ? "result" : "fault", headers, body };
    replies.offer(to, reply, ANSWER_LIMIT_MS);
  }
}
