import type { Channel, ConsumeMessage } from "amqplib";

import { MALFORMED_HEADER } from "./guard.js";
import type { Incoming, Properties } from "./message.js";
import { header } from "./message.js";

/** A message that was delivered, and how it is settled. */
export class Delivery implements Incoming {
  readonly exchange: string;
  readonly routingKey: string;
  readonly redelivered: boolean;
  readonly properties: Properties;
  readonly body: Buffer;
  readonly malformed: string | null;
  readonly #channel: Channel;
  readonly #message: ConsumeMessage;
  #isSettled = false;

  constructor(channel: Channel, message: ConsumeMessage) {
    this.#channel = channel;
    this.#message = message;
    this.exchange = message.fields.exchange;
    this.routingKey = message.fields.routingKey;
    this.redelivered = message.fields.redelivered;
    this.properties = { ...message.properties, headers: message.properties.headers ?? {} };
    this.body = message.content;
    this.malformed = header(this.properties.headers, MALFORMED_HEADER) ?? null;
  }

  /** Acknowledges the message, unless it is settled or its channel is lost. */
  ack(): void {
    this.#settle(() => this.#channel.ack(this.#message));
  }

  /** Rejects the message without requeue. Only a dead-letter exchange of its queue keeps it. */
  reject(): void {
    this.#settle(() => this.#channel.reject(this.#message, false));
  }

  #settle(settle: () => void): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    try {
      settle();
    } catch {
      // The channel is lost: the broker delivers the message again.
    }
  }
}

/** Begins to consume. Returns the consumer's tag. If the broker cancels it, the channel closes. */
export async function consume(
  channel: Channel,
  queue: string,
  options: { readonly noAck: boolean },
  receive: (delivery: Delivery) => void,
): Promise<string> {
  const { consumerTag } = await channel.consume(
    queue,
    (message) => {
      // The broker has cancelled the consumer: its queue was deleted or has moved.
      if (message === null) {
        void channel.close().catch(() => {});
        return;
      }
      receive(new Delivery(channel, message));
    },
    options,
  );
  return consumerTag;
}
