import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { DirectoryClient, implementDirectory } from "../service.js";
import {
  allConfirmed,
  atEnd,
  cut,
  Directory,
  newQueue,
  rawChannel,
  serve,
  unconsumed,
  until,
  url,
} from "./setup.js";

test("calls survive lost connections of the caller", async () => {
  const { client, calling, worker } = await serve({ serve: { concurrency: 100 } });
  const confirmed = Array.from({ length: 20 }, () => client.wait(600));
  await until(() => worker.ran.length === 20, "all methods run");
  await allConfirmed(calling);
  cut(calling);
  await until(() => !calling.isConnected, "the loss is known");
  const later = client.getEmail("later");
  await Promise.all(confirmed);
  assert.equal(await later, "later@example.com");
  assert.equal(worker.ran.filter((name) => name === "wait").length, 20, "none ran twice");
});

test("a method runs to its end although its worker's connection is lost", async () => {
  const { client, served, worker } = await serve();
  const call = client.wait(500);
  await until(() => worker.ran.includes("wait"), "the method runs");
  cut(served);
  await call;
  assert.deepEqual(worker.ran, ["wait"], "the redelivered request was recognized");
  assert.equal(await client.getEmail("x"), "x@example.com");
});

test("a reply that is lost with its connection is sent again", async () => {
  const { client, served, worker } = await serve();
  worker.getEmail = (id) => {
    worker.ran.push(id);
    // The reply is written to a connection that is just lost.
    cut(served);
    return id;
  };
  assert.equal(await client.getEmail("x"), "x");
  assert.deepEqual(worker.ran, ["x"]);
});

test("another worker refuses what may have run, unless it is idempotent", async () => {
  const queue = newQueue();
  const first = await serve({ queue });
  const unmarked = first.client.wait(20_000);
  first.worker.find = () => new Promise(() => {});
  const idempotent = first.client.find("ann", 1);
  await until(() => first.worker.ran.includes("wait"), "the method runs");
  unmarked.catch(() => {});
  // The first worker is gone for good.
  await first.served.internals.link.close();
  await serve({ queue });
  await assert.rejects(unmarked, (error) => {
    assert.ok(error instanceof rpc.Fault && error.code === "interrupted");
    assert.equal(error.executed, "maybe");
    return true;
  });
  const [user] = await idempotent;
  assert.equal(user!.id, "ann");
});

test("calls of an idempotent method are sent again if their reply queue is lost", async () => {
  const { client, calling, worker } = await serve();
  let runs = 0;
  const found = worker.find("ann", 1, undefined as never);
  worker.find = async () => {
    runs++;
    await new Promise((resolve) => setTimeout(resolve, 700));
    return await found;
  };
  const idempotent = client.find("ann", 1);
  const unmarked = client.wait(10_000);
  await until(() => runs === 1 && worker.ran.includes("wait"), "both run");
  await (await rawChannel()).deleteQueue(calling.internals.caller.replyQueue);
  await assert.rejects(unmarked, (error) => {
    assert.ok(error instanceof rpc.BrokerFailed && error.executed === "maybe", String(error));
    return true;
  });
  assert.equal((await idempotent)[0]!.id, "ann");
});

test("a worker whose queue is deleted declares it again", async () => {
  const { client, queue } = await serve();
  await client.getEmail("x");
  await (await rawChannel()).deleteQueue(queue);
  assert.equal(await client.getEmail("y", { waitForServer: true }), "y@example.com");
});

test("a first connection that fails is an error without credentials", async () => {
  await assert.rejects(rpc.connect("amqp://user:secret@localhost:1"), (error: Error) => {
    assert.match(error.message, /^cannot connect to the broker at localhost:1: /);
    assert.ok(!error.message.includes("secret"));
    return true;
  });
  await assert.rejects(rpc.connect("http://x"), /neither amqp/);
  await assert.rejects(rpc.connect([]), /at least one/);
});

test("another address is used if one fails", async () => {
  const lines: string[] = [];
  const opened = await rpc
    .connect([url, "amqp://localhost:1"], { log: (_, message) => lines.push(message) })
    .catch((error: unknown) => error);
  assert.ok(opened instanceof rpc.Connection);
  atEnd(() => opened.close());
  cut(opened);
  await until(
    () => lines.filter((line) => line === "connected to the broker").length === 2,
    "it is back",
  );
  assert.ok(lines.includes("no connection to the broker"));
});

test("a server does not start on a closed connection", async () => {
  const { served, server } = await serve();
  await server.stop();
  await served.close();
  await assert.rejects(rpc.serve(served, implementDirectory(new Directory())), /is closed/);
});

test("closing a connection fails what is in flight", async () => {
  const { client, calling } = await serve();
  const call = client.wait(10_000);
  call.catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 200));
  await calling.close();
  await assert.rejects(call, rpc.BrokerFailed);
  await assert.rejects(client.wait(1), rpc.BrokerFailed);
});

test("a server that stops finishes what it has, and loses nothing", async () => {
  const queue = newQueue();
  const { client, server, worker } = await serve({ queue });
  const calls = Array.from({ length: 10 }, (_, i) => client.wait(300 + i));
  await until(() => worker.ran.length === 10, "all run");
  const stopped = server.stop();
  await unconsumed(queue);
  const next = client.getEmail("next");
  await Promise.all(calls);
  await stopped;
  await server.wait();
  assert.ok(!worker.ran.includes("getEmail next"), "it takes no more requests");
  const other = await serve({ queue });
  assert.equal(await next, "next@example.com");
  assert.deepEqual(other.worker.ran, ["getEmail next"]);
});

test("a server that stops ends methods after its timeout", async () => {
  const { client, server, worker } = await serve();
  const call = client.wait(20_000);
  call.catch(() => {});
  await until(() => worker.ran.includes("wait"), "the method runs");
  await server.stop(200);
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof rpc.Fault && error.code === "interrupted", String(error));
    return true;
  });
});

test("a server that may not start says why", async () => {
  const queue = newQueue();
  const { served } = await serve({ queue });
  await (await rawChannel()).assertQueue(`${queue}2`, { durable: false });
  const worker = implementDirectory(new Directory());
  await assert.rejects(
    rpc.serve(served, worker, { queue: `${queue}2` }),
    /cannot start: .*PRECONDITION/,
  );
  await assert.rejects(rpc.serve(served, worker, { concurrency: 0 }), /concurrency is invalid/);
  await assert.rejects(rpc.serve(served, [worker, worker], { queue }), /two services on queue/);
  await (await rawChannel()).deleteQueue(`${queue}2`);
  assert.equal(await new DirectoryClient(served, { queue }).getEmail("x"), "x@example.com");
});

test("a worker that stops takes nothing from a new connection", async () => {
  const { client, served, server, worker } = await serve();
  const running = client.wait(1_500);
  await until(() => worker.ran.includes("wait"), "the method runs");
  cut(served);
  await until(() => !served.isConnected, "the loss is known");
  const stopped = server.stop(Infinity);
  await until(() => served.isConnected, "there is a new connection");
  const late = client.getEmail("late", { timeoutMs: 1_000 });
  await assert.rejects(late, rpc.TimedOut);
  await running;
  await stopped;
  assert.deepEqual(worker.ran, ["wait"]);
});
