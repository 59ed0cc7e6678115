import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";

import type { ChannelModel, ConfirmChannel } from "amqplib";

import { ReplyQueue } from "../../src/client/replies.js";

/** The queues of a broker, and what it refuses. */
class Broker {
  readonly queues = new Set<string>();
  /** How many messages wait in a queue that is declared. */
  messageCount = 0;
  refusesConsumers = false;
  /** Whether it answers questions about queues. RabbitMQ 4 does not if a queue's node is down. */
  answers = true;
  /** How many channels on which queues were looked for are open. */
  openChannels = 0;

  /** A channel for replies. */
  channel(): ConfirmChannel {
    const channel = {
      assertQueue: async (queue: string) => {
        this.queues.add(queue);
        return { queue, messageCount: this.messageCount, consumerCount: 0 };
      },
      prefetch: async () => {},
      consume: async () => {
        if (this.refusesConsumers) throw new Error("the channel is closed");
        return { consumerTag: "tag" };
      },
    };
    return channel as unknown as ConfirmChannel;
  }

  /** A connection, on whose other channels queues are looked for. */
  connection(): ChannelModel {
    const createChannel = async () => {
      const channel = new EventEmitter();
      const checkQueue = async (queue: string) => {
        if (!this.answers) await new Promise(() => {});
        if (this.queues.has(queue)) return;
        this.openChannels--;
        const error = Object.assign(new Error("NOT_FOUND"), { code: 404 });
        channel.emit("error", error);
        throw error;
      };
      this.openChannels++;
      return Object.assign(channel, { checkQueue, close: async () => void this.openChannels-- });
    };
    return { createChannel } as unknown as ChannelModel;
  }
}

test("the loss of a reply queue is remembered, even if its successor is not consumed at once", async () => {
  const broker = new Broker();
  const replies = new ReplyQueue(() => {});
  await replies.prepare(broker.channel(), broker.connection());
  const { epoch: before, name } = replies;
  broker.queues.clear();
  broker.refusesConsumers = true;
  await assert.rejects(replies.prepare(broker.channel(), broker.connection()), /is closed/);
  broker.refusesConsumers = false;
  await replies.prepare(broker.channel(), broker.connection());
  assert.notEqual(replies.name, name);
  assert.deepEqual([...broker.queues], [replies.name]);
  assert.equal(replies.epoch.address, before.address + 1);
});

test("a reply queue whose node does not answer is replaced", async () => {
  const broker = new Broker();
  const replies = new ReplyQueue(() => {});
  await replies.prepare(broker.channel(), broker.connection());
  const { epoch: before, name } = replies;
  broker.answers = false;
  await replies.prepare(broker.channel(), broker.connection());
  assert.notEqual(replies.name, name);
  assert.equal(replies.epoch.address, before.address + 1);
  assert.equal(broker.openChannels, 0);
});

test("a queue that is consumed again is the same address", async () => {
  const broker = new Broker();
  const replies = new ReplyQueue(() => {});
  await replies.prepare(broker.channel(), broker.connection());
  const { address, consumer } = replies.epoch;
  await replies.prepare(broker.channel(), broker.connection());
  assert.deepEqual(replies.epoch, { address, consumer: consumer + 1 });
});

test("a preparation that another one has overtaken changes nothing", async () => {
  const broker = new Broker();
  const replies = new ReplyQueue(() => {});
  await replies.prepare(broker.channel(), broker.connection());
  // This one waits for a reply that does not come, because its connection is lost.
  broker.messageCount = 1;
  const overtaken = replies.prepare(broker.channel(), broker.connection());
  const ended = assert.rejects(overtaken, /was lost/);
  await new Promise(setImmediate);
  broker.messageCount = 0;
  broker.queues.clear();
  await replies.prepare(broker.channel(), broker.connection());
  const { epoch, name } = replies;
  await ended;
  assert.deepEqual([replies.epoch, replies.name], [epoch, name]);
  assert.equal(epoch.address, 1);
});
