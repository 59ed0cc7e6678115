import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { UploadFailed } from "../service.js";
import { cut, serve, until } from "./setup.js";

async function* parts(count: number, size: number, pauseMs = 0): AsyncGenerator<Uint8Array> {
  for (let i = 0; i < count; i++) {
    yield Buffer.alloc(size, i);
    if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

test("a method receives all items", async () => {
  const { client } = await serve();
  for (const codec of ["msgpack", "json"] as const) {
    assert.equal(await client.upload("a", [], { codec }), 0n);
    assert.equal(await client.upload("a", [Buffer.from("ab"), Buffer.from("c")], { codec }), 3n);
    assert.equal(await client.upload("a", parts(5000, 10), { codec }), 50_000n);
  }
  // More than the method may leave untaken.
  assert.equal(await client.upload("a", parts(40, 512 * 1024)), BigInt(40 * 512 * 1024));
});

test("a slow method slows the caller down", async () => {
  const { client, worker } = await serve();
  let made = 0;
  worker.upload = async (_name, incoming) => {
    await incoming.next();
    await new Promise((resolve) => setTimeout(resolve, 500));
    return BigInt(made);
  };
  async function* endless() {
    for (;;) {
      made++;
      yield Buffer.from("x");
    }
  }
  const seen = await client.upload("x", endless());
  assert.ok(seen > 0n && seen <= 1026n, String(seen));
});

test("a method may have enough, or fail, before the end", async () => {
  const { client } = await serve();
  let isClosed = false;
  async function* endless() {
    try {
      for (;;) yield Buffer.from("xx");
    } finally {
      isClosed = true;
    }
  }
  assert.equal(await client.upload("enough", endless()), 2n);
  await until(() => isClosed, "the caller's stream is closed");
  await assert.rejects(client.upload("refused", endless()), (error) => {
    assert.ok(error instanceof UploadFailed && error.value === "no room");
    return true;
  });
});

test("a caller's stream that fails ends the call, and cancels the method", async () => {
  const { client, worker } = await serve();
  let seen: unknown;
  worker.upload = async (_name, incoming, context) => {
    context.signal.addEventListener("abort", () => (seen = "aborted"));
    for await (const _ of incoming);
    seen = "looks complete";
    return 0n;
  };
  async function* failing() {
    yield Buffer.from("x");
    await new Promise((resolve) => setTimeout(resolve, 100));
    throw new Error("no more");
  }
  await assert.rejects(client.upload("x", failing()), (error) => {
    assert.ok(error instanceof rpc.BadItem && error.executed === "maybe");
    assert.match(error.message, /no more/);
    return true;
  });
  await until(() => seen !== undefined, "the method has ended");
  assert.equal(seen, "aborted");
  await assert.rejects(client.upload("x", ["text" as never]), rpc.BadItem);
  // Another call whose method did not run. That of this call did.
  async function* calling() {
    yield Buffer.from("x");
    throw new rpc.NoServer("other");
  }
  await assert.rejects(client.upload("x", calling()), (error) => {
    assert.ok(error instanceof rpc.BadItem && error.cause instanceof rpc.NoServer, String(error));
    return true;
  });
});

test("an aborted signal ends an upload and its method", async () => {
  const { client, worker } = await serve();
  let hasBegun = false;
  let isAborted = false;
  worker.upload = (_name, _incoming, context) => {
    context.signal.addEventListener("abort", () => (isAborted = true));
    hasBegun = true;
    return new Promise<bigint>(() => {});
  };
  const controller = new AbortController();
  const call = client.upload("x", parts(1, 1), { signal: controller.signal });
  const cancelled = assert.rejects(call, rpc.Cancelled);
  await until(() => hasBegun, "the method has begun");
  controller.abort();
  await cancelled;
  await until(() => isAborted, "the method is cancelled");
});

test("the caller's own stream may take longer than the limit, and the method may not", async () => {
  const { client, worker } = await serve();
  assert.equal(await client.upload("x", parts(5, 1, 1_500), { timeoutMs: 5_000 }), 5n);
  worker.upload = async (_name, incoming) => {
    for await (const _ of incoming);
    return await new Promise<bigint>(() => {});
  };
  await assert.rejects(client.upload("x", parts(1, 1), { timeoutMs: 1_000 }), rpc.TimedOut);
});

test("uploads survive lost connections of both sides, without gaps", async () => {
  const { client, calling, served, worker } = await serve();
  const seen: number[] = [];
  worker.upload = async (_name, incoming) => {
    for await (const part of incoming) seen.push(Buffer.from(part).readUInt32BE());
    return BigInt(seen.length);
  };
  async function* numbered() {
    for (let i = 0; i < 3000; i++) {
      const part = Buffer.alloc(4);
      part.writeUInt32BE(i);
      yield part;
      if (i % 30 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
      if (i === 600 || i === 1800) cut(calling);
      if (i === 1200 || i === 2400) cut(served);
    }
  }
  assert.equal(await client.upload("x", numbered(), { timeoutMs: 30_000 }), 3000n);
  assert.deepEqual(
    seen,
    Array.from({ length: 3000 }, (_, i) => i),
  );
});

test("a method answers items with items", async () => {
  const { client } = await serve();
  const answers: string[] = [];
  const lines: (() => void)[] = [];
  async function* said() {
    yield "hello";
    await new Promise<void>((resolve) => lines.push(resolve));
    yield "bye";
  }
  for await (const answer of client.chat("lobby", said())) {
    answers.push(answer);
    lines.shift()?.();
  }
  assert.deepEqual(answers, ["lobby: hello", "lobby: bye"]);
  const many = Array.from({ length: 5000 }, (_, i) => String(i));
  const all: string[] = [];
  for await (const answer of client.chat("r", many, { credit: 100 })) all.push(answer);
  assert.deepEqual(
    all,
    many.map((line) => `r: ${line}`),
  );
});

test("a caller that is gone breaks the method's stream off", { timeout: 60_000 }, async () => {
  const { client, calling, worker } = await serve();
  let failure: unknown;
  let hasBegun = false;
  worker.upload = async (_name, incoming) => {
    try {
      for await (const _ of incoming) hasBegun = true;
    } catch (error) {
      failure = error;
    }
    return 0n;
  };
  async function* idle() {
    yield Buffer.from("x");
    await new Promise(() => {});
  }
  const call = client.upload("x", idle());
  call.catch(() => {});
  await until(() => hasBegun, "the method has an item");
  const begun = Date.now();
  await calling.internals.link.close();
  const end = Date.now() + 25_000;
  while (failure === undefined && Date.now() < end) await new Promise((r) => setTimeout(r, 100));
  assert.ok(failure instanceof rpc.IncomingFailed, String(failure));
  assert.ok(Date.now() - begun > 10_000);
});

test("each item is sent as soon as it is there", async () => {
  const { client } = await serve();
  const slowest = async () => {
    const yieldedAt: number[] = [];
    async function* lines() {
      for (const line of ["a", "b", "c"]) {
        await new Promise((resolve) => setTimeout(resolve, 1_300));
        yieldedAt.push(performance.now());
        yield line;
      }
    }
    const waits: number[] = [];
    for await (const _ of client.chat("lobby", lines())) {
      waits.push(performance.now() - yieldedAt[waits.length]!);
    }
    return Math.max(...waits);
  };
  // If items wait for a timer or for the next item, one takes a second or longer each time. A busy
  // machine may delay one too, but not each time.
  let wait = await slowest();
  for (let again = 0; again < 4 && wait >= 900; again++) wait = await slowest();
  assert.ok(wait < 900, String(wait));
});

test("an upload that a handler makes ends at the handler's deadline", async () => {
  const { client, worker } = await serve();
  let failure: unknown;
  async function* idle() {
    yield Buffer.from("x");
    await new Promise(() => {});
  }
  worker.getEmail = async () => {
    await client.upload("x", idle()).catch((error: unknown) => (failure = error));
    return "";
  };
  await assert.rejects(client.getEmail("x", { timeoutMs: 2_000 }), rpc.TimedOut);
  await until(() => failure !== undefined, "the upload has ended");
  assert.ok(failure instanceof rpc.TimedOut, String(failure));
});
