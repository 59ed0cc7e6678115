import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { DirectoryClient } from "../service.js";
import { connection, newQueue, serve, until } from "./setup.js";

test("all workers of a queue answer a broadcast", async () => {
  const queue = newQueue();
  const workers = [await serve({ queue }), await serve({ queue }), await serve({ queue })];
  const { client } = workers[0]!;
  for (const codec of ["msgpack", "json"] as const) {
    const gather = client.drop("key", { expectWorkers: 3, codec });
    const ids: string[] = [];
    for await (const answer of gather) {
      assert.equal(answer.result(), 3);
      ids.push(answer.worker.id);
    }
    assert.deepEqual(ids.sort(), workers.map(({ server }) => server.id).sort());
    assert.equal(gather.missing, 0);
  }
  await client.clear();
  await until(() => workers.every(({ worker }) => worker.ran.includes("clear")), "all ran it");
});

test("gathering ends after a quiet time, or at the limit", async () => {
  const { client } = await serve();
  const begun = Date.now();
  let answers = 0;
  for await (const _ of client.drop("x")) answers++;
  assert.equal(answers, 1);
  assert.ok(Date.now() - begun < 2_000);
  const gather = client.drop("x", { expectWorkers: 5, timeoutMs: 700 });
  for await (const _ of gather) answers++;
  assert.equal(answers, 2);
  assert.equal(gather.missing, 4);
});

test("an answer may be an error", async () => {
  const { client, worker } = await serve();
  worker.drop = () => {
    throw new Error("secret");
  };
  for await (const answer of client.drop("x", { expectWorkers: 1 })) {
    assert.throws(
      () => answer.result(),
      (error) => error instanceof rpc.Fault && error.code === "panicked",
    );
  }
});

test("a broadcast that reaches no worker fails, unless it waits", async () => {
  const calling = await connection();
  const queue = newQueue();
  const client = new DirectoryClient(calling, { queue });
  await assert.rejects(async () => {
    for await (const _ of client.drop("x"));
  }, rpc.NoWorkers);
  await assert.rejects(client.clear(), rpc.NoWorkers);
  const waiting = client
    .drop("x", { waitForServer: true, expectWorkers: 1, timeoutMs: 10_000 })
    .next();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { server } = await serve({ queue });
  assert.equal((await waiting).value.worker.id, server.id);
});

test("a worker runs broadcasts beside its other requests", async () => {
  const { client } = await serve({ serve: { concurrency: 1 } });
  const busy = client.wait(1_000);
  const begun = Date.now();
  for await (const answer of client.drop("x", { expectWorkers: 1 }))
    assert.equal(answer.result(), 1);
  assert.ok(Date.now() - begun < 900);
  await busy;
});

test("a worker has room for 48 broadcasts", async () => {
  const { client, worker } = await serve();
  let running = 0;
  let most = 0;
  worker.drop = async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setTimeout(resolve, 500));
    return running--;
  };
  const outcomes = await Promise.all(
    Array.from({ length: 60 }, async () => {
      const { value } = await client.drop("x", { expectWorkers: 1 }).next();
      try {
        (value as rpc.Answer<number>).result();
        return "ran";
      } catch (error) {
        return (error as rpc.Fault).code;
      }
    }),
  );
  assert.equal(most, 16);
  const rejected = outcomes.filter((outcome) => outcome === "rejected").length;
  assert.ok(rejected > 0 && rejected <= 12, String(rejected));
});
