import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { DirectoryClient, DirectoryError, type Everything } from "../service.js";
import { allConfirmed, connection, newQueue, rawChannel, serve, until } from "./setup.js";

const everything: Everything = {
  small: -1,
  wide: 2n ** 127n,
  real: 0.5,
  data: Buffer.from("data"),
  byNumber: new Map([[7, "x"]]),
  byName: { a: 1 },
  pair: [false, "ü"],
  shapes: [{ kind: "Circle", value: { radius: 1 } }, { kind: "Point" }],
  events: [{ type: "created", by: "x" }],
  settings: [{ t: "off" }],
  ids: [5n, "x"],
  tree: { value: 1, children: [{ value: 2, children: [] }] },
  anything: ["x", 1],
};

test("a call returns the result, in both codecs", async () => {
  const { client } = await serve();
  assert.equal(await client.getEmail("ann"), "ann@example.com");
  const json = client.withOptions({ codec: "json" });
  assert.equal(await json.getEmail("ann"), "ann@example.com");
  for (const each of [client, json]) {
    const echoed = await each.echo(everything);
    assert.deepEqual({ ...echoed, data: Buffer.from(echoed.data) }, everything);
    const [user] = await each.find("ann", 30);
    assert.equal(user!.balance, 2n ** 60n);
    assert.equal(user!.age, 30);
  }
  assert.equal(await client.wait(1), undefined);
});

test("the method's own error is an instance of its class", async () => {
  const { client } = await serve();
  const error = await client.getEmail("nobody").catch((error: unknown) => error);
  assert.ok(error instanceof DirectoryError && error instanceof rpc.MethodError);
  assert.deepEqual(error.value, { kind: "UnknownUser", value: { id: "nobody" } });
  assert.equal(error.executed, "yes");
  assert.equal(error.name, "DirectoryError");
});

test("what a method throws is a fault, and stays with the worker", async () => {
  const thrown: unknown[] = [];
  const { client } = await serve({ serve: { onThrown: (error) => thrown.push(error) } });
  await assert.rejects(client.getEmail("bug"), (error) => {
    assert.ok(error instanceof rpc.Fault);
    assert.equal(error.code, "panicked");
    assert.equal(error.executed, "yes");
    assert.ok(!error.message.includes("secret"));
    return true;
  });
  assert.equal((thrown[0] as Error).message, "a secret");
});

test("many calls run at the same time and get their own replies", async () => {
  const { client } = await serve({ serve: { concurrency: 64 } });
  const ids = Array.from({ length: 500 }, (_, i) => `user${i}`);
  const emails = await Promise.all(ids.map((id) => client.getEmail(id)));
  assert.deepEqual(
    emails,
    ids.map((id) => `${id}@example.com`),
  );
});

test("a missing queue fails at once, unless the call waits for it", async () => {
  const calling = await connection();
  const queue = newQueue();
  const client = new DirectoryClient(calling, { queue });
  const begun = Date.now();
  await assert.rejects(client.getEmail("ann"), (error) => {
    assert.ok(error instanceof rpc.NoServer && error.executed === "no" && error.isRetryable);
    return true;
  });
  assert.ok(Date.now() - begun < 5_000);
  const waiting = client.getEmail("ann", { waitForServer: true });
  await new Promise((resolve) => setTimeout(resolve, 300));
  await serve({ queue });
  assert.equal(await waiting, "ann@example.com");
});

test("a call times out, and its method is cancelled", async () => {
  const { client, worker } = await serve();
  await client.wait(0);
  const begun = Date.now();
  await assert.rejects(client.wait(20_000, { timeoutMs: 5_000 }), (error) => {
    assert.ok(error instanceof rpc.TimedOut && error.executed === "maybe" && !error.isRetryable);
    return true;
  });
  assert.ok(Date.now() - begun < 20_000);
  await until(() => worker.ran.includes("aborted"), "the method is cancelled");
});

test("an aborted signal ends a call and its method", async () => {
  const { client, worker } = await serve();
  const controller = new AbortController();
  const call = client.wait(60_000, { signal: controller.signal, timeoutMs: 60_000 });
  await until(() => worker.ran.includes("wait"), "the method runs");
  controller.abort(new Error("enough"));
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "maybe");
    assert.equal((error.cause as Error).message, "enough");
    return true;
  });
  await until(() => worker.ran.includes("aborted"), "the method is cancelled");
  await assert.rejects(client.wait(1, { signal: controller.signal }), rpc.Cancelled);
});

test("many calls share a signal without a warning", async () => {
  const { client } = await serve();
  const warnings: Error[] = [];
  const warned = (warning: Error) => warnings.push(warning);
  process.on("warning", warned);
  const { signal } = new AbortController();
  await Promise.all(Array.from({ length: 20 }, () => client.wait(50, { signal })));
  process.off("warning", warned);
  assert.deepEqual(warnings, []);
});

test("a request that waits in the queue is not run once its call is cancelled", async () => {
  const { client, calling, worker } = await serve({ serve: { concurrency: 1 } });
  let finish: (() => void) | undefined;
  worker.wait = () => new Promise((resolve) => (finish = resolve));
  const first = client.wait(0);
  await until(() => finish !== undefined, "the first method runs");
  const controller = new AbortController();
  const second = client.getEmail("late", { signal: controller.signal });
  second.catch(() => {});
  await allConfirmed(calling);
  controller.abort();
  // The worker gets the request of a broadcast after the cancellation, through the same queue.
  for await (const _ of client.drop("x", { expectWorkers: 1 }));
  finish?.();
  await first;
  assert.equal(await client.getEmail("after"), "after@example.com");
  assert.ok(!worker.ran.includes("getEmail late"), String(worker.ran));
});

test("calls in flight are limited", async () => {
  const { client } = await serve({ connect: { maxCalls: 1 } });
  const first = client.wait(300);
  await assert.rejects(client.wait(1), rpc.TooManyCalls);
  await first;
  await client.wait(1);
});

test("what cannot be sent fails before it is sent", async () => {
  const { client, worker } = await serve({ connect: { maxSentBytes: 1000 } });
  await assert.rejects(client.getEmail("x".repeat(2000)), rpc.TooLarge);
  await assert.rejects(client.find("x", -1), /limit: expected an integer from 0 to 4294967295/);
  await assert.rejects(client.getEmail("x", { headers: { "rpc-x": "" } }), rpc.EncodeFailed);
  await assert.rejects(client.getEmail("x", { priority: 256 }), rpc.EncodeFailed);
  await assert.rejects(client.getEmail("x", { timeoutMs: 0 }), rpc.EncodeFailed);
  assert.deepEqual(worker.ran, []);
});

test("a nested call inherits the deadline, and the context follows it", async () => {
  const { client, worker } = await serve();
  let inner: unknown;
  worker.getEmail = async (id, context) => {
    assert.equal(rpc.context(), context);
    assert.equal(context.method, "get_email");
    assert.deepEqual(context.headers, { tenant: "a" });
    assert.ok(context.timeLeftMs! <= 5_000);
    inner = await client.wait(20_000).catch((error: unknown) => error);
    return id;
  };
  await client.getEmail("x", { timeoutMs: 5_000, headers: { tenant: "a" } }).catch(() => {});
  await until(() => inner !== undefined, "the nested call has ended");
  assert.ok(inner instanceof rpc.TimedOut && inner.limitMs <= 5_000);
  assert.throws(() => rpc.context(), /no context/);
});

test("replies that cannot be read end their own call only", async () => {
  const channel = await rawChannel();
  const queue = newQueue();
  await channel.assertQueue(queue, { durable: true });
  const bad: [Buffer, object][] = [
    [Buffer.from([0xc1]), {}],
    [Buffer.from("x"), { contentType: "application/xml" }],
    [Buffer.from("x"), { contentEncoding: "gzip" }],
    [Buffer.from("{"), { type: "fault", contentType: "application/json" }],
    [Buffer.from([0x01]), { type: "error" }],
  ];
  let next = 0;
  await channel.consume(queue, (message) => {
    if (message === null) return;
    channel.ack(message);
    const [body, options] = bad[next++]!;
    const { replyTo, correlationId, contentType } = message.properties;
    const reply = { correlationId, contentType, type: "result", ...options };
    channel.publish("", replyTo as string, Buffer.from("stray"), { correlationId: "unknown" });
    channel.publish("", replyTo as string, body, reply);
  });
  const client = new DirectoryClient(await connection(), { queue });
  for (const _ of bad) await assert.rejects(client.getEmail("x"), rpc.BadReply);
});
