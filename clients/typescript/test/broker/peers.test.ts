// A worker and peers that do not use this library.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { test } from "node:test";

import type { Channel, ConsumeMessage, MessageProperties, Options } from "amqplib";
import * as rpc from "rpc-runtime";

import { encodeItems } from "../../src/protocol/control.js";
import { DirectoryClient } from "../service.js";
import { connection, newQueue, rawChannel, serve, until, url } from "./setup.js";

interface Peer {
  readonly channel: Channel;
  readonly replyTo: string;
  /** Sends a request, and returns the reply. */
  ask(queue: string, body: string | Buffer, options?: Options.Publish): Promise<ConsumeMessage>;
}

async function peer(): Promise<Peer> {
  const channel = await rawChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const waiting = new Map<string, (message: ConsumeMessage) => void>();
  await channel.consume(
    replyTo,
    (message) => waiting.get(String(message?.properties.correlationId))?.(message!),
    { noAck: true },
  );
  const ask: Peer["ask"] = (queue, body, options = {}) =>
    new Promise((resolve, reject) => {
      const correlationId = options.correlationId ?? randomUUID();
      const timer = setTimeout(() => reject(new Error("no reply")), 30_000);
      waiting.set(correlationId, (message) => {
        clearTimeout(timer);
        resolve(message);
      });
      channel.publish("", queue, Buffer.from(body), { replyTo, ...options, correlationId });
    });
  return { channel, replyTo, ask };
}

const json = { contentType: "application/json" };

test("a request in plain text calls the default method", async () => {
  const { queue } = await serve();
  const { ask } = await peer();
  const reply = await ask(queue, "ann");
  assert.equal(reply.content.toString(), "ann@example.com");
  assert.equal(reply.properties.type, "result");
  assert.equal(reply.properties.contentType, "text/plain");
  const error = await ask(queue, "nobody");
  assert.equal(error.content.toString(), '{"UnknownUser":{"id":"nobody"}}');
  assert.equal(error.properties.type, "error");
});

test("faults say what is wrong", async () => {
  const { queue } = await serve({ serve: { maxAcceptedBytes: 1000 } });
  const { ask } = await peer();
  const fault = async (body: string, options: Options.Publish) => {
    const reply = await ask(queue, body, options);
    assert.equal(reply.properties.type, "fault");
    const text = reply.content.toString();
    if (reply.properties.contentType === "text/plain") return text;
    const { code, message } = JSON.parse(text) as { code: string; message: string };
    return `${code}: ${message}`;
  };
  const find = { ...json, type: "find" };
  assert.match(await fault("{}", { ...json, type: "nope" }), /^unknown_method: .*"nope"/);
  assert.match(await fault("{}", find), /^bad_request: text: is missing$/);
  assert.match(
    await fault('{"text":"x","limit":-1}', find),
    /^bad_request: limit: expected an int/,
  );
  assert.match(await fault("{", find), /^bad_request: the text is no valid JSON$/);
  assert.match(await fault("x", { type: "find" }), /^bad_request: plain text holds a single/);
  assert.match(await fault("x", { contentType: "application/xml" }), /^unsupported_content_type: /);
  assert.match(await fault("x", { contentEncoding: "gzip" }), /^unsupported_content_type: /);
  assert.match(await fault("x".repeat(1001), {}), /^too_large: the request has 1001 bytes/);
  assert.match(await fault("{}", { ...json, type: "upload" }), /^bad_request: .* sends none/);
  assert.match(await fault("{}", { ...json, type: "drop" }), /^unknown_method/);
  const streamed = { ...json, type: "trades", headers: { "rpc-credit": "1" }, correlationId: "x" };
  assert.match(await fault('{"symbol":"1"}', streamed), /^bad_request: .* no UUID/);
});

test("positional arguments and aliases are accepted", async () => {
  const { queue } = await serve();
  const { ask } = await peer();
  for (const body of [
    '["ann", 3]',
    '{"query":"ann","limit":3}',
    '{"text":"ann","limit":3,"x":1}',
  ]) {
    const reply = await ask(queue, body, { ...json, type: "find" });
    assert.match(
      reply.content.toString(),
      /^\[\{"id":"ann",.*"age":3,"balance":1152921504606846976/,
    );
  }
});

test("a stream without credit is one array", async () => {
  const { queue } = await serve({ connect: {} });
  const { ask } = await peer();
  const trades = { type: "trades" };
  assert.equal(
    (await ask(queue, '{"symbol":"3"}', { ...json, ...trades })).content.toString(),
    "[0,1,2]",
  );
  assert.equal((await ask(queue, "3", trades)).content.toString(), "0\n1\n2");
});

test("a stream whose request arrives twice runs once, and an id has one stream", async () => {
  const { queue, worker } = await serve();
  let runs = 0;
  worker.trades = async function* () {
    runs++;
    yield 1n;
    await new Promise(() => {});
  };
  const channel = await rawChannel();
  const { ask } = await peer();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const correlationId = randomUUID();
  const stream = { ...json, type: "trades", correlationId, headers: { "rpc-credit": "9" } };
  const again = { ...stream, headers: { ...stream.headers, "rpc-resent": "" } };
  channel.sendToQueue(queue, Buffer.from('{"symbol":"x"}'), { ...stream, replyTo });
  await until(async () => (await channel.checkQueue(replyTo)).messageCount === 1, "it has begun");
  channel.sendToQueue(queue, Buffer.from('{"symbol":"x"}'), { ...again, replyTo });
  const refused = await ask(queue, '{"symbol":"x"}', stream);
  assert.match(refused.content.toString(), /bad_request.*another request/);
  assert.equal(runs, 1);
  assert.equal((await channel.checkQueue(replyTo)).messageCount, 1);
  // Its caller has another reply address now.
  const items = await ask(queue, '{"symbol":"x"}', again);
  assert.equal(items.properties.type, "rpc.items");
  assert.equal(runs, 2);
});

test("a stream with the id of a call without a stream is refused", async () => {
  const { queue, worker } = await serve();
  const { ask, channel, replyTo } = await peer();
  const correlationId = randomUUID();
  const wait = { ...json, type: "wait", correlationId, replyTo };
  channel.sendToQueue(queue, Buffer.from('{"ms":60000}'), wait);
  await until(() => worker.ran.includes("wait"), "the method runs");
  const stream = { ...json, type: "trades", correlationId, headers: { "rpc-credit": "9" } };
  const refused = await ask(queue, '{"symbol":"1"}', stream);
  assert.match(refused.content.toString(), /bad_request.*another request .* runs here/);
});

test("a caller that uses an id twice gets both answers", async () => {
  const { queue } = await serve();
  const channel = await rawChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const request = { ...json, type: "wait", replyTo, correlationId: "the same" };
  for (let i = 0; i < 2; i++) channel.sendToQueue(queue, Buffer.from('{"ms":200}'), request);
  await until(async () => (await channel.checkQueue(replyTo)).messageCount === 2, "both are there");
  await until(async () => (await channel.checkQueue(queue)).messageCount === 0, "none is left");
});

test("a reply goes to reply addresses only", async () => {
  const { queue, worker, client } = await serve();
  const { channel } = await peer();
  const victim = newQueue();
  await channel.assertQueue(victim);
  channel.publish("", queue, Buffer.from("evil"), { replyTo: victim, correlationId: "1" });
  channel.publish("", queue, Buffer.from("silent"), {});
  await until(() => worker.ran.includes("getEmail silent"), "a request without an address ran");
  await client.getEmail("last");
  assert.ok(!worker.ran.includes("getEmail evil"));
  assert.equal((await channel.checkQueue(victim)).messageCount, 0);
});

test("a reply goes to direct reply-to addresses too, and a bad one harms nobody", async () => {
  const { queue, client, worker } = await serve();
  const channel = await rawChannel();
  const replies: string[] = [];
  await channel.consume(
    "amq.rabbitmq.reply-to",
    (message) => replies.push(message!.content.toString()),
    {
      noAck: true,
    },
  );
  channel.publish("", queue, Buffer.from("bad"), {
    replyTo: "amq.rabbitmq.reply-to.x.y",
    correlationId: "1",
  });
  await until(() => worker.ran.includes("getEmail bad"), "the request ran");
  channel.publish("", queue, Buffer.from("ann"), {
    replyTo: "amq.rabbitmq.reply-to",
    correlationId: "1",
  });
  await until(() => replies.length > 0, "the reply is there");
  assert.deepEqual(replies, ["ann@example.com"]);
  assert.equal(await client.getEmail("x"), "x@example.com");
  await until(
    async () => (await channel.checkQueue(queue)).messageCount === 0,
    "the queue is empty",
  );
});

test("a probe is answered at once", async () => {
  const { queue } = await serve({ serve: { concurrency: 2 } });
  const { ask } = await peer();
  const reply = await ask(queue, "", { type: "rpc.probe", correlationId: "the probe" });
  assert.equal(reply.content.length, 0);
  assert.equal(reply.properties.correlationId, "the probe");
});

test("an idempotent method is abandoned a second after the deadline", async () => {
  const { queue, worker } = await serve();
  const { ask } = await peer();
  worker.find = () => new Promise(() => {});
  const begun = Date.now();
  const reply = await ask(queue, '{"text":"x"}', { ...json, type: "find", expiration: "2000" });
  assert.match(reply.content.toString(), /"abandoned"/);
  assert.ok(Date.now() - begun > 2_900 && Date.now() - begun < 20_000);
});

test("built-in methods are answered in all content types", async () => {
  const { queue, server, client } = await serve({
    serve: { name: "till 3", appId: "market", version: "1.0" },
  });
  await client.getEmail("x");
  const { ask } = await peer();
  const ping = await ask(queue, "", { ...json, type: "rpc.ping" });
  const worker = JSON.parse(ping.content.toString()) as Record<string, unknown>;
  assert.equal(worker["id"], server.id);
  assert.deepEqual(
    [worker["name"], worker["app_id"], worker["version"]],
    ["till 3", "market", "1.0"],
  );
  const text = await ask(queue, "", { type: "rpc.ping" });
  assert.match(
    text.content.toString(),
    new RegExp(`^worker ${server.id} "till 3" of market 1.0 on .*up \\d+s$`),
  );
  const described = await ask(queue, "", { ...json, type: "rpc.describe" });
  const { queues } = JSON.parse(described.content.toString()) as { queues: any[] };
  assert.equal(queues[0].queue, queue);
  assert.deepEqual([queues[0].services[0].name, queues[0].services[0].queue], ["Directory", queue]);
  const stats = await ask(queue, "", { ...json, type: "rpc.stats" });
  const counts = JSON.parse(stats.content.toString()) as { queues: any[] };
  const getEmail = counts.queues[0].methods.find((method: any) => method.method === "get_email");
  assert.deepEqual([getEmail.calls, getEmail.failures, getEmail.in_flight], [1, 0, 0]);
});

test("a connection discovers all workers", async () => {
  const first = await serve();
  const second = await serve({ queue: first.queue });
  const hidden = await serve({ serve: { describesItself: false } });
  const found = await first.calling.discover();
  const ids = found.map(({ worker }) => worker.id);
  assert.ok(ids.includes(first.server.id) && ids.includes(second.server.id));
  assert.ok(!ids.includes(hidden.server.id));
  const own = found.find(({ worker }) => worker.id === first.server.id)!;
  assert.equal(own.queues[0]!.queue, first.queue);
});

// amqplib cannot write such properties, so this publishes frames.
test("malformed properties are answered, and stop neither the worker nor the caller", async () => {
  const { queue, client, calling } = await serve();
  const channel = await rawChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const replies: string[] = [];
  await channel.consume(replyTo, (message) => replies.push(message!.content.toString()), {
    noAck: true,
  });
  const short = (bytes: Buffer) => Buffer.concat([Buffer.of(bytes.length), bytes]);
  const nested = (depth: number): Buffer => {
    const inner =
      depth === 0
        ? Buffer.alloc(0)
        : Buffer.concat([Buffer.from([1, 0x78, 0x46]), nested(depth - 1)]);
    const size = Buffer.alloc(4);
    size.writeUInt32BE(inner.length);
    return Buffer.concat([size, inner]);
  };
  const bad = Buffer.of(0xff, 0xfe);
  const address = short(Buffer.from(replyTo));
  // The bits of the properties: 13 headers, 10 correlation_id, 9 reply_to, 5 type.
  const properties: [number, Buffer[]][] = [
    [1 << 10, [short(bad)]],
    [(1 << 9) | (1 << 5), [address, short(bad)]],
    [(1 << 10) | (1 << 9), [short(bad), address]],
    [(1 << 13) | (1 << 9), [nested(40), address]],
    [(1 << 13) | (1 << 9), [nested(3000), address]],
    [1 << 13, [Buffer.from([0, 0, 0, 4, 2, 0xff, 0xff, 0x56])]],
  ];
  for (const [flags, parts] of properties) {
    await publishRaw(queue, Buffer.concat([Buffer.of(flags >> 8, flags & 0xff), ...parts]));
  }
  await until(() => replies.length === 4, "the malformed requests are answered");
  for (const reply of replies) assert.match(reply, /^bad_request: the request cannot be read: /);
  assert.equal(await client.getEmail("x"), "x@example.com");
  // The caller's queue too.
  const flags = 1 << 10;
  await publishRaw(
    calling.internals.caller.replyQueue,
    Buffer.concat([Buffer.of(flags >> 8, flags & 0xff), short(bad)]),
  );
  assert.equal(await client.getEmail("y"), "y@example.com");
  await until(
    async () => (await channel.checkQueue(queue)).messageCount === 0,
    "the queue is empty",
  );
});

/** Publishes a message with these flags and properties, as bytes. */
async function publishRaw(queue: string, properties: Buffer): Promise<void> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const long = (bytes: Buffer) => {
    const size = Buffer.alloc(4);
    size.writeUInt32BE(bytes.length);
    return Buffer.concat([size, bytes]);
  };
  const frame = (type: number, channel: number, payload: Buffer) =>
    Buffer.concat([Buffer.of(type, 0, channel), long(payload), Buffer.of(0xce)]);
  const method = (channel: number, classId: number, id: number, args: Buffer) =>
    frame(1, channel, Buffer.concat([Buffer.of(0, classId, 0, id), args]));
  const text = (value: string) => Buffer.concat([Buffer.of(value.length), Buffer.from(value)]);
  const startOk = Buffer.concat([
    long(Buffer.alloc(0)),
    text("PLAIN"),
    long(Buffer.from("\0guest\0guest")),
    text("en_US"),
  ]);
  const publish = Buffer.concat([Buffer.of(0, 0), text(""), text(queue), Buffer.of(0)]);
  const head = Buffer.concat([Buffer.of(0, 60, 0, 0), Buffer.alloc(8), properties]);
  // Each step waits for the broker's answer to the one before.
  const steps = [
    Buffer.from("AMQP\0\0\x09\x01"),
    method(0, 10, 11, startOk),
    Buffer.concat([
      method(0, 10, 31, Buffer.from([0, 10, 0, 2, 0, 0, 0, 0])),
      method(0, 10, 40, Buffer.concat([text("/"), Buffer.of(0, 0)])),
    ]),
    method(1, 20, 10, Buffer.of(0)),
    Buffer.concat([
      method(1, 60, 40, publish),
      frame(2, 1, head),
      method(1, 20, 40, Buffer.concat([Buffer.of(0, 200), text(""), Buffer.of(0, 0, 0, 0)])),
    ]),
  ];
  socket.write(steps.shift()!);
  for await (const _ of socket) {
    const step = steps.shift();
    // The last answer is that to channel.close: the broker has the message.
    if (step === undefined) break;
    socket.write(step);
  }
  socket.destroy();
}

test("a stream of another worker ends only with a count of its items", async () => {
  const channel = await rawChannel();
  const queue = newQueue();
  await channel.assertQueue(queue);
  const worker = JSON.stringify({ id: randomUUID() });
  let count: unknown;
  await channel.consume(
    queue,
    (message) => {
      const { replyTo, correlationId, contentType } = message!.properties as MessageProperties;
      const reply = (type: string, body: Buffer, headers: object) =>
        channel.publish("", String(replyTo), body, {
          ...{ type, correlationId, contentType },
          headers: { "rpc-worker": worker, ...headers },
        });
      const items = [Buffer.from("1"), Buffer.from("2")];
      reply("rpc.items", encodeItems({ first: 0, items, credit: { items: 2, bytes: null } }), {});
      reply("result", Buffer.from("[]"), count === undefined ? {} : { "rpc-items": count });
    },
    { noAck: true },
  );
  const client = new DirectoryClient(await connection(), { queue, codec: "json" });
  const read = async () => {
    const items: bigint[] = [];
    for await (const item of client.trades("x")) items.push(item);
    return items;
  };
  for (count of ["2", 2]) assert.deepEqual(await read(), [1n, 2n]);
  for (count of [undefined, "many", { a: 1 }]) await assert.rejects(read(), rpc.BadReply);
});
