import assert from "node:assert/strict";
import { test } from "node:test";

import type { Channel, GetMessage } from "amqplib";
import * as rpc from "rpc-runtime";

import { DirectoryClient, DirectoryError } from "../service.js";
import { connection, cut, Directory, exists, newQueue, rawChannel, serve, until } from "./setup.js";

async function letter(channel: Channel, queue: string): Promise<GetMessage> {
  let found: GetMessage | false = false;
  await until(async () => {
    found = await channel.get(`${queue}.dead`, { noAck: true });
    return found !== false;
  }, "the dead letter is there");
  return found as unknown as GetMessage;
}

test("one-way calls run, and wait for the broker only", async () => {
  const { client, worker } = await serve();
  await client.log("hello");
  await client.withOptions({ codec: "json" }).send("ann", "bob");
  await until(() => worker.ran.length === 2, "both ran");
  assert.deepEqual(worker.ran.sort(), ["log hello", "send ann bob 1"]);
  const lost = new DirectoryClient(await connection(), { queue: newQueue() });
  await assert.rejects(lost.log("x"), rpc.NoServer);
});

test("a failed job is retried, and then kept with its error", async () => {
  const { client, worker, queue } = await serve();
  const attempts: number[] = [];
  worker.send = (_from, _to, context) => {
    attempts.push(context.attempt);
    assert.equal(context.headers["tenant"], "a");
    throw new DirectoryError({ kind: "Unavailable" });
  };
  await client.send("ann", "bob", { headers: { tenant: "a" } });
  const channel = await rawChannel();
  const dead = await letter(channel, queue);
  assert.deepEqual(attempts, [1, 2, 3, 4]);
  const { headers, type, expiration } = dead.properties;
  assert.equal(type, "send");
  assert.equal(expiration, undefined);
  assert.equal(headers!["rpc-reason"], "error");
  assert.equal(headers!["rpc-error"], "Unavailable");
  assert.equal(headers!["rpc-attempts"], "4");
  assert.equal(headers!["rpc-origin"], queue);
  assert.equal(headers!["tenant"], "a");
  assert.ok(Number(headers!["rpc-last-failure"]) >= Number(headers!["rpc-first-failure"]) + 200);
  assert.equal(headers!["x-death"], undefined);
});

test("a job that succeeds at last is done", async () => {
  const { client, worker, queue } = await serve();
  worker.send = (_from, _to, context) => {
    worker.ran.push(`attempt ${context.attempt}`);
    if (context.attempt < 3) throw new Error("not yet");
  };
  await client.send("ann", "bob");
  await until(() => worker.ran.includes("attempt 3"), "it succeeded");
  const channel = await rawChannel();
  await until(
    async () => (await channel.checkQueue(queue)).messageCount === 0,
    "the queue is empty",
  );
  assert.equal((await channel.checkQueue(`${queue}.dead`)).messageCount, 0);
});

test("jobs that can never run are kept without a retry", async () => {
  const { queue } = await serve();
  const channel = await rawChannel();
  const json = { contentType: "application/json" };
  channel.sendToQueue(queue, Buffer.from("{"), { ...json, type: "send" });
  assert.equal((await letter(channel, queue)).properties.headers!["rpc-reason"], "bad_request");
  channel.sendToQueue(queue, Buffer.from("{}"), { ...json, type: "nope" });
  assert.equal((await letter(channel, queue)).properties.headers!["rpc-reason"], "unknown_method");
});

test("a job is delayed", async () => {
  const { client, worker } = await serve();
  let laterAt = 0;
  worker.send = (_from, to, context) => {
    worker.ran.push(`${to} ${context.attempt}`);
    if (to === "later") laterAt = Date.now();
  };
  const begun = Date.now();
  await client.send("ann", "later", { delayMs: 2_000 });
  await client.send("ann", "now");
  await until(() => worker.ran.length === 2, "both ran");
  assert.deepEqual(worker.ran.sort(), ["later 1", "now 1"]);
  assert.ok(laterAt - begun >= 2_000);
  await assert.rejects(client.log("x", { delayMs: 5 }), /only a job can be delayed/);
  await assert.rejects(client.send("a", "b", { delayMs: 1e12 }), rpc.EncodeFailed);
});

test("a job that its worker lost runs at another one", async () => {
  const queue = newQueue();
  const first = await serve({ queue });
  first.worker.send = async () => {
    first.worker.ran.push("begun");
    await new Promise(() => {});
  };
  await first.client.send("ann", "bob");
  await until(() => first.worker.ran.includes("begun"), "the job runs");
  await first.served.internals.link.close();
  const second = await serve({ queue });
  await until(() => second.worker.ran.includes("send ann bob 1"), "it runs at the other worker");
});

test("a job that runs while its worker's connection is lost does not run twice", async () => {
  const { client, worker, served, queue } = await serve();
  worker.send = async (_from, to) => {
    worker.ran.push(`${to} begun`);
    if (to === "bob") await new Promise((resolve) => setTimeout(resolve, 700));
    worker.ran.push(`${to} done`);
  };
  await client.send("ann", "bob");
  await until(() => worker.ran.includes("bob begun"), "the job runs");
  let connections = 0;
  served.internals.link.add({ connected: () => connections++ });
  cut(served);
  const channel = await rawChannel();
  await until(() => worker.ran.includes("bob done"), "the job is done");
  await until(() => connections === 2, "the worker is connected again");
  // It gets this job after the other one, which the broker has put back.
  await client.send("ann", "eve");
  await until(() => worker.ran.includes("eve done"), "the next job is done");
  assert.deepEqual(worker.ran, ["bob begun", "bob done", "eve begun", "eve done"]);
  await until(async () => {
    const { messageCount, consumerCount } = await channel.checkQueue(queue);
    return messageCount === 0 && consumerCount === 1;
  }, "the queue is empty");
});

test("a redelivered job keeps its delay and its headers", async () => {
  const queue = newQueue();
  const first = await serve({ queue });
  await first.server.stop(0);
  const channel = await rawChannel();
  const headers = { "rpc-delay": "1000", at: { "!": "timestamp", value: 1_800_000_000 } };
  const properties = { type: "send", contentType: "application/json", headers };
  channel.sendToQueue(queue, Buffer.from('{"from": "ann", "to": "bob"}'), properties);
  await until(async () => {
    const taken = await channel.get(queue);
    if (taken !== false) channel.nack(taken);
    return taken !== false;
  }, "the job comes back");
  const worker = new Directory();
  let sentAt: string | undefined;
  worker.send = (_from, _to, context) => {
    worker.ran.push(`attempt ${context.attempt}`);
    sentAt = context.headers["at"];
  };
  const begun = Date.now();
  await serve({ queue, worker });
  await until(() => worker.ran.length > 0, "the job has run");
  assert.ok(Date.now() - begun >= 1_000);
  assert.equal(sentAt, "1800000000");
});

test("a job on a quorum queue whose worker is lost runs again", async () => {
  const queue = newQueue();
  const first = await serve({ queue, serve: { queues: { quorum: true } } });
  first.worker.send = async () => {
    first.worker.ran.push("begun");
    await new Promise(() => {});
  };
  await first.client.send("ann", "bob");
  await until(() => first.worker.ran.includes("begun"), "the job runs");
  await first.served.internals.link.close();
  const second = await serve({ queue, serve: { queues: { quorum: true } } });
  await until(() => second.worker.ran.includes("send ann bob 1"), "it runs at the other worker");
});

test("a job that is given up waits until the dead-letter queue takes it", async () => {
  const { client, worker, queue } = await serve();
  const channel = await rawChannel();
  await channel.deleteQueue(`${queue}.dead`);
  worker.send = () => {
    throw new DirectoryError({ kind: "UnknownUser", value: { id: "x" } });
  };
  await client.send("ann", "bob");
  // Its retries take half a second. Then the worker declares the queue again.
  await until(() => exists(`${queue}.dead`), "the dead-letter queue is there again");
  const dead = await letter(channel, queue);
  assert.equal(dead.properties.headers!["rpc-error"], '{"UnknownUser":{"id":"x"}}');
});
