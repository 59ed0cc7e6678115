// Requests that are delivered again to the worker that ran them before.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import type { Channel, ConsumeMessage } from "amqplib";
import * as rpc from "rpc-runtime";

import type { StreamingCall } from "../../src/client/stream.js";
import { encodeIncomingGrant, encodeItems } from "../../src/protocol/control.js";
import { DirectoryClient } from "../service.js";
import { connection, newQueue, rawChannel, serve, until } from "./setup.js";

/** A worker that a test plays. */
class Peer {
  readonly id: string = randomUUID();
  readonly queue = newQueue();
  readonly #channel: Channel;
  readonly #requests: ConsumeMessage[] = [];
  /** The routing keys of the cancellations that arrived. */
  readonly cancelled: string[] = [];

  private constructor(channel: Channel) {
    this.#channel = channel;
  }

  static async open(): Promise<Peer> {
    const channel = await rawChannel();
    const peer = new Peer(channel);
    await channel.assertQueue(peer.queue);
    await channel.consume(peer.queue, (request) => peer.#requests.push(request!), { noAck: true });
    await channel.assertExchange("rpc.control", "direct");
    const { queue: control } = await channel.assertQueue("", { exclusive: true });
    for (const key of [peer.id, peer.queue]) await channel.bindQueue(control, "rpc.control", key);
    const take = (message: ConsumeMessage | null) => {
      if (message?.properties.type === "rpc.cancel") peer.cancelled.push(message.fields.routingKey);
    };
    await channel.consume(control, take, { noAck: true });
    return peer;
  }

  async client(): Promise<DirectoryClient> {
    return new DirectoryClient(await connection(), { queue: this.queue, codec: "json" });
  }

  /** Waits for the next request. Returns what answers it as a run of this or another worker. */
  async request() {
    await until(() => this.#requests.length > 0, "there is a request");
    const { replyTo, correlationId } = this.#requests.shift()!.properties;
    const send = (run: unknown, type: string, body: Buffer, headers = {}, id = this.id) =>
      this.#channel.publish("", String(replyTo), body, {
        ...{ type, correlationId, contentType: "application/json" },
        headers: { "rpc-worker": JSON.stringify({ id, run }), ...headers },
      });
    const items = (first: number, numbers: readonly number[]) =>
      encodeItems({
        first,
        items: numbers.map((number) => Buffer.from(String(number))),
        credit: { items: 9, bytes: null },
      });
    return {
      correlationId: String(correlationId),
      send,
      items: (run: unknown, first: number, ...numbers: number[]) =>
        send(run, "rpc.items", items(first, numbers)),
      itemsOf: (id: string, first: number, ...numbers: number[]) =>
        send(1, "rpc.items", items(first, numbers), {}, id),
      end: (run: number, count: number) =>
        send(run, "result", Buffer.alloc(0), { "rpc-items": String(count) }),
      grant: (run: number) =>
        send(run, "rpc.credit", encodeIncomingGrant({ credit: 8, taken: 0, asks: 0 })),
    };
  }
}

const isInterrupted = (error: unknown) =>
  error instanceof rpc.Fault &&
  error.code === "interrupted" &&
  /began the stream again/.test(error.message);

test("a reader gets the items of one run", async () => {
  const peer = await Peer.open();
  const stream = (await peer.client()).trades("x");
  const first = stream.next();
  const request = await peer.request();
  // The first message of the first run was lost, so its reader has no item.
  request.items(1, 1, 101);
  request.items(2, 0, 200);
  assert.equal((await first).value, 200n);
  request.items(1, 0, 100);
  request.end(1, 2);
  request.items(2, 1, 201);
  assert.equal((await stream.next()).value, 201n);
  request.items(3, 0, 300);
  await assert.rejects(stream.next(), isInterrupted);
  assert.equal((await stream.next()).done, true);
  // Late messages do not end the stream of their worker. The call does, through its queue.
  await until(() => peer.cancelled.length > 0, "the call is cancelled");
  assert.deepEqual(peer.cancelled, [peer.queue]);
});

test("a later run interrupts a stream, which is resumed after its last item", async () => {
  const peer = await Peer.open();
  const stream = (await peer.client()).entries("x", null);
  const first = stream.next();
  const request = await peer.request();
  request.items(1, 0, 7);
  assert.equal((await first).value, 7n);
  request.items(2, 0, 700);
  const second = stream.next();
  const again = await peer.request();
  assert.notEqual(again.correlationId, request.correlationId);
  again.items(3, 0, 8);
  again.end(3, 1);
  assert.equal((await second).value, 8n);
  assert.equal((await stream.next()).done, true);
});

test("a later run gets no items of a caller that were sent to another", async () => {
  const peer = await Peer.open();
  const client = await peer.client();
  const upload = client.upload("x", [Buffer.from("1")]);
  let request = await peer.request();
  request.grant(2);
  request.send(1, "result", Buffer.from("7"));
  request.grant(-1);
  request.grant(3);
  await assert.rejects(upload, isInterrupted);
  await until(() => peer.cancelled.length > 0, "the call is cancelled");
  assert.deepEqual(peer.cancelled, [peer.queue]);
  const chat = client.chat("x", ["1"]);
  const answer = chat.next();
  request = await peer.request();
  request.grant(1);
  request.items(2, 0, 1);
  await assert.rejects(answer, isInterrupted);
});

test("a caller that sends items reads those of the worker that gets them", async () => {
  const peer = await Peer.open();
  const chat = (await peer.client()).chat("x", ["1"]);
  const answer = chat.next();
  const request = await peer.request();
  request.grant(1);
  request.itemsOf(randomUUID(), 0, 1);
  request.send(1, "rpc.items", encodeItems(textItem(0, "right")));
  assert.equal((await answer).value, "right");
  await chat.return!();
});

test("messages of another worker do not fail a stream, however malformed they are", async () => {
  const peer = await Peer.open();
  const stream = (await peer.client()).trades("x");
  const first = stream.next();
  const request = await peer.request();
  request.items(1, 0, 1);
  assert.equal((await first).value, 1n);
  for (const type of ["rpc.items", "result", "fault"]) {
    request.send(1, type, Buffer.from([0xc1]), {}, randomUUID());
  }
  // Nobody knows who sent these.
  for (const run of [-1, 1.5, "1", null]) request.items(run, 1, 666);
  request.items(1, 1, 2);
  assert.equal((await stream.next()).value, 2n);
  await stream.return!();
  // Its worker is told now, and not before, because of the messages that name it.
  await until(() => peer.cancelled.includes(peer.queue), "the call is cancelled");
  assert.deepEqual(peer.cancelled, [peer.queue]);
});

test("a worker whose first message is overtaken is not silent", async (t) => {
  // As in a process that has run for an hour.
  const now = performance.now.bind(performance);
  t.mock.method(performance, "now", () => now() + 3_600_000);
  const peer = await Peer.open();
  const stream = (await peer.client()).trades("x");
  const first = stream.next();
  const request = await peer.request();
  request.items(1, 1, 2);
  await until(() => (stream as StreamingCall).hasBegun, "the stream has begun");
  // If the worker counted as silent, a timer would end the stream now.
  await new Promise((resolve) => setTimeout(resolve, 10));
  request.items(1, 0, 1);
  assert.equal((await first).value, 1n);
  await stream.return!();
});

test("a worker numbers its streams", async () => {
  const { queue, server } = await serve();
  const channel = await rawChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const workers: { id: string; run: number }[] = [];
  await channel.consume(
    replyTo,
    (message) => workers.push(JSON.parse(String(message!.properties.headers!["rpc-worker"]))),
    { noAck: true },
  );
  const runs: number[] = [];
  for (const [type, body, headers] of [
    ["trades", '{"symbol":"1"}', { "rpc-credit": "9" }],
    ["upload", '{"name":"x"}', { "rpc-incoming": "1" }],
    ["trades", '{"symbol":"1"}', { "rpc-credit": "9" }],
  ] as const) {
    const properties = { type, contentType: "application/json", correlationId: randomUUID() };
    channel.sendToQueue(queue, Buffer.from(body), { ...properties, headers, replyTo });
    // The items and the end, or a grant.
    const count = type === "trades" ? 2 : 1;
    await until(() => workers.length >= count, "the messages are there");
    const [first, ...others] = workers.splice(0);
    assert.equal(first!.id, server.id);
    for (const other of others) assert.deepEqual(other, first);
    runs.push(first!.run);
  }
  assert.ok(runs[0]! < runs[1]! && runs[1]! < runs[2]!, String(runs));
});

function textItem(first: number, text: string) {
  return { first, items: [Buffer.from(JSON.stringify(text))], credit: { items: 9, bytes: null } };
}
