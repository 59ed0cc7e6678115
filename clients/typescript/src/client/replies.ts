import { randomUUID } from "node:crypto";

import type { ChannelModel, ConfirmChannel } from "amqplib";

import type { ReplyEpoch } from "../protocol/call-state.js";
import { consume, type Delivery } from "../transport/consumer.js";
import { sleep } from "../transport/time.js";

/** Unused reply queues disappear after this. */
const EXPIRES_MS = 60_000;
const PREFETCH = 4096;
/** How long replies that waited in the queue may take to arrive. */
const CATCH_UP_MS = 500;

/**
 * The queue for the replies to all calls of a connection. It outlives the connection by a minute,
 * so replies are not lost with it.
 */
export class ReplyQueue {
  readonly #receive: (delivery: Delivery) => void;
  #name = newName();
  #epoch: ReplyEpoch = { address: 0, consumer: 0 };
  #isDeclared = false;

  constructor(receive: (delivery: Delivery) => void) {
    this.#receive = receive;
  }

  /** The address for replies. */
  get name(): string {
    return this.#name;
  }

  get epoch(): ReplyEpoch {
    return this.#epoch;
  }

  /** Declares the queue on a new channel and consumes it. Waiting replies are read first. */
  async prepare(channel: ConfirmChannel, model: ChannelModel): Promise<void> {
    let { address } = this.#epoch;
    if (this.#isDeclared && !(await exists(model, this.#name))) {
      this.#name = newName();
      address++;
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
    this.#epoch = { address, consumer: this.#epoch.consumer + 1 };
  }
}

function newName(): string {
  return `rpc.reply.${randomUUID()}`;
}

/** Whether a queue exists. The broker closes the channel if it does not. */
async function exists(model: ChannelModel, queue: string): Promise<boolean> {
  const channel = await model.createChannel();
  let isMissing = false;
  channel.on("error", (error: Error & { code?: number }) => (isMissing = error.code === 404));
  try {
    await channel.checkQueue(queue);
    await channel.close();
    return true;
  } catch (error) {
    if (isMissing) return false;
    throw error;
  }
}
