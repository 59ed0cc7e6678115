import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { Gathering } from "../../src/client/gather.js";
import { planCall } from "../../src/client/method-call.js";
import type { Publisher } from "../../src/transport/publisher.js";
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
  assert.ok(Date.now() - begun < 8_000);
  const gather = client.drop("x", { expectWorkers: 5, timeoutMs: 5_000 });
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
  await assert.rejects(client.clear({ waitForServer: true, timeoutMs: 300 }), rpc.TimedOut);
  const aborting = new AbortController();
  const aborted = client.clear({ waitForServer: true, signal: aborting.signal });
  aborting.abort();
  await assert.rejects(aborted, rpc.Cancelled);
  const clearing = client.clear({ waitForServer: true, timeoutMs: 10_000 });
  const waiting = client
    .drop("x", { waitForServer: true, expectWorkers: 1, timeoutMs: 10_000 })
    .next();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { server, worker } = await serve({ queue });
  assert.equal((await waiting).value.worker.id, server.id);
  await clearing;
  await until(() => worker.ran.includes("clear"), "the worker ran it");
});

test("a worker runs broadcasts beside its other requests", async () => {
  const { client, worker } = await serve({ serve: { concurrency: 1 } });
  let finish: (() => void) | undefined;
  worker.wait = () => new Promise((resolve) => (finish = resolve));
  const busy = client.wait(0);
  await until(() => finish !== undefined, "the method runs");
  for await (const answer of client.drop("x", { expectWorkers: 1 }))
    assert.equal(answer.result(), 1);
  finish?.();
  await busy;
});

test("a worker has room for 48 broadcasts", async () => {
  const { client, worker } = await serve();
  let finish = () => {};
  const finished = new Promise<void>((resolve) => (finish = resolve));
  let running = 0;
  let most = 0;
  worker.drop = async () => {
    most = Math.max(most, ++running);
    await finished;
    return running--;
  };
  const outcomes: string[] = [];
  const calls = Array.from({ length: 60 }, async () => {
    const { value } = await client.drop("x", { expectWorkers: 1 }).next();
    try {
      (value as rpc.Answer<number>).result();
      outcomes.push("ran");
    } catch (error) {
      outcomes.push((error as rpc.Fault).code);
    }
  });
  await until(() => outcomes.length === 12, "the others are rejected");
  assert.deepEqual(new Set(outcomes), new Set(["rejected"]));
  finish();
  await Promise.all(calls);
  assert.equal(most, 16);
  assert.equal(outcomes.filter((outcome) => outcome === "ran").length, 48);
});

test("a server that stops ends the broadcasts that it has, without a reply", async () => {
  const { client, worker, server } = await serve();
  let begun = 0;
  let aborted = 0;
  worker.drop = (_key, context) => {
    begun++;
    return new Promise<number>((resolve) => {
      context.signal.addEventListener("abort", () => {
        aborted++;
        resolve(0);
      });
    });
  };
  const faults: string[] = [];
  const gathers = Array.from({ length: 49 }, () => client.drop("x", { expectWorkers: 1 }));
  const ended = gathers.map(async (gather) => {
    for await (const answer of gather) {
      assert.throws(() => answer.result(), rpc.Fault);
      faults.push("rejected");
    }
  });
  // The last one finds that 16 run and 32 wait.
  await until(() => faults.length === 1, "one is rejected");
  assert.equal(begun, 16);
  await server.stop(0);
  assert.equal(aborted, 16);
  for (const gather of gathers) await gather.return!();
  await Promise.all(ended);
  assert.deepEqual([begun, faults.length], [16, 1]);
});

test("a server takes no broadcasts while it waits for the last ones", async () => {
  const { client, worker, server } = await serve();
  let finish: (() => void) | undefined;
  worker.drop = () => new Promise<number>((resolve) => (finish = () => resolve(1)));
  const last = client.drop("x", { expectWorkers: 1 }).next();
  await until(() => finish !== undefined, "the last one runs");
  let hasStopped = false;
  const stopped = server.stop().then(() => (hasStopped = true));
  await until(async () => {
    try {
      await client.clear();
    } catch (error) {
      if (error instanceof rpc.NoWorkers) return true;
      // While the broker deletes the queue.
      assert.ok(error instanceof rpc.Refused, String(error));
    }
    return false;
  }, "the worker cannot be reached");
  assert.ok(!hasStopped);
  finish!();
  await stopped;
  assert.equal((await last).value.result(), 1);
});

test("a broadcast may not be larger than other messages of its connection", async () => {
  const calling = await connection({ maxSentBytes: 100 });
  const client = new DirectoryClient(calling, { queue: newQueue() });
  await assert.rejects(client.drop("x".repeat(200)).next(), (error) => {
    assert.ok(error instanceof rpc.TooLarge && error.limit === 100, String(error));
    return true;
  });
});

test("an aborted broadcast may have run once it was sent", async () => {
  const { client, worker } = await serve();
  let hasBegun = false;
  worker.drop = () => {
    hasBegun = true;
    return new Promise<number>(() => {});
  };
  const aborting = new AbortController();
  const next = client.drop("x", { signal: aborting.signal }).next();
  const failed = assert.rejects(next, (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "maybe", String(error));
    return true;
  });
  await until(() => hasBegun, "the method runs");
  aborting.abort();
  await failed;
});

test("an aborted broadcast that waits to be sent is not sent", async () => {
  const calling = await connection();
  let isWaiting = false;
  const withdraw = () => {
    isWaiting = false;
    return true;
  };
  const publish: Publisher["publish"] = () => {
    isWaiting = true;
    return { withdraw };
  };
  const aborting = new AbortController();
  const method = rpc.method({ name: "drop", broadcast: true });
  const gathering = new Gathering(
    { ...calling.internals, control: { publish } as Publisher },
    () => planCall(method, newQueue(), {}, { signal: aborting.signal }),
    { expectWorkers: undefined, quietMs: undefined },
    () => {},
  );
  const failed = assert.rejects(gathering.next(), (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "no", String(error));
    return true;
  });
  await until(() => isWaiting, "the request waits");
  aborting.abort();
  await failed;
  assert.ok(!isWaiting);
});
