import { randomUUID } from "node:crypto";

import type { ChannelModel, ConfirmChannel } from "amqplib";

import type { ReplyEpoch } from "../protocol/call-state.js";
import { consume, type Delivery } from "../transport/consumer.js";
import { LimitExceeded, sleep, within } from "../transport/time.js";

/** Unused reply queues disappear after this. */
const EXPIRES_MS = 60_000;
const PREFETCH = 4096;
/** How long replies that waited in the queue may take to arrive. */
const CATCH_UP_MS = 500;
/** How long to wait for the answer whether a queue exists. */
const LOOKUP_LIMIT_MS = 2_000;

/**
 * The queue for the replies to the calls of a connection. Broadcasts have their own. It outlives a
 * lost connection by a minute, so that replies wait for the next one.
 */
export class ReplyQueue {
  readonly #receive: (delivery: Delivery) => void;
  #name = newName();
  #queueNumber = 0;
  #epoch: ReplyEpoch = { address: 0, consumer: 0 };
  #isDeclared = false;
  /** The channel that was prepared last. */
  #channel: ConfirmChannel | null = null;

  constructor(receive: (delivery: Delivery) => void) {
    this.#receive = receive;
  }

  /** The address for replies. */
  get name(): string {
    return this.#name;
  }

  /** Numbers of the queue and its consumer. By them a call sees whether its reply may be lost. */
  get epoch(): ReplyEpoch {
    return this.#epoch;
  }

  /**
   * Declares the queue on a new channel and consumes it. If the queue is gone, or its node does not
   * answer, another one with a new name replaces it. Returns once the replies that waited have
   * arrived, or after {@link CATCH_UP_MS}, because their calls need not be sent again.
   */
  async prepare(channel: ConfirmChannel, model: ChannelModel): Promise<void> {
    this.#channel = channel;
    if (this.#isDeclared && !(await isUsable(model, this.#name))) {
      this.#expectCurrent(channel);
      // The number changes with the name: if a later step fails, the next attempt finds the new
      // queue, and the replies in the old one are lost nevertheless.
      this.#name = newName();
      this.#queueNumber++;
    }
    const { messageCount } = await channel.assertQueue(this.#name, {
      durable: true,
      expires: EXPIRES_MS,
      arguments: { "x-queue-type": "classic" },
    });
    this.#isDeclared = true;
    await channel.prefetch(PREFETCH);
    let awaited = messageCount;
    const caughtUp = new AbortController();
    await consume(channel, this.#name, { noAck: false }, (delivery) => {
      this.#receive(delivery);
      delivery.ack();
      if (--awaited <= 0) caughtUp.abort();
    });
    if (awaited > 0) await sleep(CATCH_UP_MS, caughtUp.signal);
    this.#expectCurrent(channel);
    this.#epoch = { address: this.#queueNumber, consumer: this.#epoch.consumer + 1 };
  }

  /** Throws if another channel is being prepared, because this one was lost. */
  #expectCurrent(channel: ConfirmChannel): void {
    if (this.#channel !== channel) throw new Error("the channel was lost");
  }
}

function newName(): string {
  return `rpc.reply.${randomUUID()}`;
}

/**
 * Whether a queue exists and can be used. The broker closes the channel if it does not exist. If
 * the queue's node is down, RabbitMQ 4 answers only after more than a minute.
 */
async function isUsable(model: ChannelModel, queue: string): Promise<boolean> {
  const channel = await model.createChannel();
  let isMissing = false;
  channel.on("error", (error: Error & { code?: number }) => (isMissing = error.code === 404));
  try {
    await within(LOOKUP_LIMIT_MS, channel.checkQueue(queue));
    await channel.close();
    return true;
  } catch (error) {
    if (isMissing) return false;
    if (!(error instanceof LimitExceeded)) throw error;
    // Without waiting: the broker closes the channel only once it has answered.
    channel.close().catch(() => {});
    return false;
  }
}
