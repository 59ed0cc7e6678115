import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import type { Channel, ConsumeMessage } from "amqplib";
import * as rpc from "rpc-runtime";

import { Log } from "../../src/log.js";
import { Delivery } from "../../src/transport/consumer.js";
import { Identity } from "../../src/worker/identity.js";
import type { ReplySender } from "../../src/worker/reply-sender.js";
import { RequestHandler } from "../../src/worker/request-handler.js";
import { RunningMethods } from "../../src/worker/running-methods.js";
import { MethodStats } from "../../src/worker/stats.js";

/** A handler of one method, whose replies cannot be sent because of a defect. */
function defectiveHandler(): RequestHandler {
  const method = rpc.method({ name: "ping" });
  const entry = { service: "Ping", method, run: () => null, stats: new MethodStats() };
  const replies = { reply: () => Promise.reject(new Error("a defect")) };
  return new RequestHandler({
    queue: "q",
    table: { byName: new Map([["ping", entry]]), byDefault: null },
    rules: {
      maxAcceptedBytes: 1000,
      maxDeliveries: 20,
      isQuorum: false,
      allowedReplyPrefixes: [],
    },
    replies: replies as unknown as ReplySender,
    running: new RunningMethods(),
    log: new Log(),
    identity: new Identity({}),
    maxSentBytes: 1000,
    maxStreams: 1,
    jobs: null,
    keepsRejected: false,
    onThrown: () => {},
  });
}

test("a request that a defect ends is settled whenever it is delivered again", async () => {
  const acked: boolean[] = [];
  const channel = {
    ack: ({ fields }: ConsumeMessage) => acked.push(fields.redelivered),
  } as unknown as Channel;
  const correlationId = randomUUID();
  const delivery = (redelivered: boolean) =>
    new Delivery(channel, {
      fields: { exchange: "", routingKey: "q", redelivered },
      properties: { type: "ping", replyTo: "amq.gen-x", correlationId, headers: {} },
      content: Buffer.alloc(0),
    } as unknown as ConsumeMessage);
  const handler = defectiveHandler();
  await handler.handle(delivery(false));
  assert.deepEqual(acked, [false]);
  await handler.handle(delivery(true));
  assert.deepEqual(acked, [false, true]);
});
