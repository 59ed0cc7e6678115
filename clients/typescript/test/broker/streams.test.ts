import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { DirectoryError } from "../service.js";
import { cut, Directory, newQueue, rawChannel, serve, until } from "./setup.js";

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => BigInt(i));

test("all items arrive in order, in both codecs", async () => {
  const { client } = await serve();
  for (const codec of ["msgpack", "json"] as const) {
    assert.deepEqual(await all(client.trades("0", { codec })), []);
    assert.deepEqual(await all(client.trades("20000", { codec })), numbers(20000));
  }
});

test("a stream works with little credit", async () => {
  const { client } = await serve();
  assert.deepEqual(await all(client.trades("300", { credit: 1 })), numbers(300));
  assert.deepEqual(await all(client.trades("300", { creditBytes: 1 })), numbers(300));
  assert.deepEqual(await all(client.trades("300", { credit: 7, creditBytes: 40 })), numbers(300));
});

test("a slow reader slows the method down", async () => {
  const { client, worker } = await serve();
  let made = 0;
  worker.trades = async function* () {
    for (;;) {
      made++;
      yield 1n;
    }
  };
  const stream = client.trades("x", { credit: 10 });
  await stream.next();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(made <= 21, `made ${made}`);
  await stream.return!();
});

test("the method's error is the last item, and so is a fault", async () => {
  const { client, worker } = await serve();
  worker.trades = async function* (symbol) {
    yield 1n;
    yield 2n;
    if (symbol === "bug") throw new Error("secret");
    if (symbol === "bad") yield "text" as never;
    throw new DirectoryError({ kind: "Unavailable" });
  };
  const read = async (symbol: string) => {
    const items: unknown[] = [];
    try {
      for await (const item of client.trades(symbol)) items.push(item);
    } catch (error) {
      items.push(error instanceof rpc.Fault ? error.code : (error as Error).name);
    }
    return items;
  };
  assert.deepEqual(await read("x"), [1n, 2n, "DirectoryError"]);
  assert.deepEqual(await read("bug"), [1n, 2n, "panicked"]);
  assert.deepEqual(await read("bad"), [1n, 2n, "unanswerable"]);
});

test("leaving the loop ends the method", async () => {
  const { client, worker } = await serve();
  for await (const item of client.trades("ENDLESS", { credit: 100 })) if (item === 50n) break;
  await until(() => worker.ran.includes("trades ended"), "the method has ended");
});

test("an aborted signal ends a stream and its method", async () => {
  const { client, worker } = await serve();
  const controller = new AbortController();
  await assert.rejects(async () => {
    for await (const item of client.trades("ENDLESS", { credit: 100, signal: controller.signal })) {
      if (item === 50n) controller.abort();
    }
  }, rpc.Cancelled);
  await until(() => worker.ran.includes("trades ended"), "the method has ended");
});

test("a reader that waits too long for an item times out", async () => {
  const { client, worker } = await serve();
  worker.trades = async function* (_symbol, context) {
    yield 1n;
    await new Promise((resolve) => context.signal.addEventListener("abort", resolve));
    worker.ran.push("cancelled");
  };
  const stream = client.trades("x", { timeoutMs: 5_000 });
  assert.equal((await stream.next()).value, 1n);
  await assert.rejects(stream.next(), rpc.TimedOut);
  await until(() => worker.ran.includes("cancelled"), "the method is cancelled");
  assert.equal((await stream.next()).done, true);
});

test("signs of life do not extend the wait for an item", { timeout: 30_000 }, async () => {
  const { client, worker } = await serve();
  worker.trades = async function* () {
    await new Promise(() => {});
    yield 1n;
  };
  // The worker's first message comes after 5 seconds. If it extended the wait, that would end after
  // 12 seconds.
  const begun = Date.now();
  await assert.rejects(client.trades("x", { timeoutMs: 7_000 }).next(), rpc.TimedOut);
  assert.ok(Date.now() - begun < 11_500);
});

test("streams survive lost connections of both sides, without gaps", async () => {
  const { client, calling, served, worker } = await serve();
  worker.trades = async function* () {
    for (let i = 0n; i < 2000n; i++) {
      yield i;
      if (i % 20n === 0n) await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const read: bigint[] = [];
  for await (const item of client.trades("x", { credit: 200 })) {
    read.push(item);
    if (item === 300n || item === 1200n) cut(calling);
    if (item === 700n || item === 1600n) cut(served);
  }
  assert.deepEqual(read, numbers(2000));
});

test("a stream that is idle for longer than the silence goes on", { timeout: 60_000 }, async () => {
  const { client, worker } = await serve();
  worker.trades = async function* () {
    yield 1n;
    await new Promise((resolve) => setTimeout(resolve, 18_000));
    yield 2n;
  };
  assert.deepEqual(await all(client.trades("x", { timeoutMs: 40_000 })), [1n, 2n]);
});

test("a stream whose worker is gone ends as interrupted", { timeout: 60_000 }, async () => {
  const { client, served } = await serve();
  const stream = client.trades("ENDLESS", { credit: 10, timeoutMs: 60_000 });
  await stream.next();
  await served.internals.link.close();
  const begun = Date.now();
  await assert.rejects(
    async () => all(stream),
    (error) => {
      assert.ok(error instanceof rpc.Fault && error.code === "interrupted", String(error));
      return true;
    },
  );
  assert.ok(Date.now() - begun > 10_000 && Date.now() - begun < 30_000);
});

test("a worker that stops says so, and a stream is resumed at another one", async () => {
  const queue = newQueue();
  const { client, server, worker } = await serve({ queue });
  worker.entries = async function* (_account, after) {
    for (let i = (after ?? -1n) + 1n; i < 5n; i++) yield i;
    await new Promise(() => {});
  };
  worker.trades = () => worker.entries("x", null);
  const plain = client.trades("x");
  const resumed = client.entries("x", null);
  for (let i = 0; i < 5; i++) {
    await plain.next();
    assert.equal((await resumed.next()).value, BigInt(i));
  }
  const rest = all(resumed);
  await serve({ queue });
  await server.stop(100);
  await assert.rejects(plain.next(), /interrupted/);
  assert.deepEqual(await rest, [5n, 6n, 7n, 8n, 9n]);
});

test("a server runs more streams than its concurrency, beside its requests", async () => {
  const { client } = await serve({ serve: { concurrency: 2 } });
  const streams = [1, 2].map(() => client.trades("ENDLESS", { credit: 10 }));
  for (const stream of streams) await stream.next();
  assert.equal(await client.getEmail("x"), "x@example.com");
  for (const stream of streams) await stream.return!();
});

test("a stream that was never read is never sent", async () => {
  const worker = new Directory();
  const { client } = await serve({ worker });
  const stream = client.trades("3");
  await stream.return!();
  assert.deepEqual(await all(stream), []);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.deepEqual(worker.ran, []);
});

test("what a stream throws is reported, however its caller reads it", async () => {
  const thrown: string[] = [];
  const onThrown = (error: unknown) => thrown.push((error as Error).message);
  const { client, worker, queue } = await serve({ serve: { onThrown } });
  worker.trades = async function* () {
    yield 1n;
    throw new Error("a bug");
  };
  await assert.rejects(all(client.trades("x")), { code: "panicked" });
  assert.deepEqual(thrown, ["a bug"]);
  // A caller that grants no credit.
  const channel = await rawChannel();
  const replyTo = (await channel.assertQueue("", { exclusive: true })).queue;
  const request = { type: "trades", contentType: "application/json", replyTo };
  channel.sendToQueue(queue, Buffer.from('{"symbol":"x"}'), request);
  await until(() => thrown.length === 2, "the other caller's stream is reported");
  worker.trades = () => 5 as never;
  await assert.rejects(all(client.trades("x")), { code: "panicked" });
  assert.match(thrown[2]!, /'in' operator/);
});

test("whoever asks for several items at once gets each of them", async () => {
  const { client } = await serve();
  const stream = client.trades("2");
  const asked = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()]);
  assert.deepEqual(
    asked.map(({ value }) => value),
    [0n, 1n, undefined, undefined],
  );
});
