// Calls that go on while their worker is killed: `survivor.ts QUEUE CODEC`.
//
// Prints `begun` once its streams have items, waits for a line, makes two calls, and prints `sent`.
// In the meantime, the worker is paused, killed, and replaced. Then prints how each call went.
import assert from "node:assert/strict";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";

import * as rpc from "rpc-runtime";

import { ConformanceClient } from "./conformance.js";
import { all, entry, fails, reasonOf, url } from "./context.js";

const LIMIT_MS = 60_000;
/** How long a stream may seem to go on after its worker's end. */
const NOTICED_MS = 20_000;
/** How long calls may take to reach the paused worker. */
const SENT_MS = 4_000;
const ITEMS = 2000;

/** Is answered by the next worker. */
async function idempotentCall(client: ConformanceClient): Promise<void> {
  assert.equal(await client.echoText("again"), "again");
}

/** Fails, because the next worker cannot know whether it ran. */
async function otherCall(client: ConformanceClient): Promise<void> {
  const error = await fails(client.refuse(1n, null), rpc.Fault);
  assert.deepEqual([error.code, error.executed], ["interrupted", "maybe"]);
}

/** Ends with an error. */
async function stream(ticks: rpc.ItemStream<bigint>): Promise<void> {
  let [expected, last] = [3n, performance.now()];
  const read = async () => {
    for await (const tick of ticks) {
      assert.equal(tick, expected++);
      last = performance.now();
    }
  };
  const error = await fails(read(), rpc.Fault);
  assert.deepEqual([error.code, error.executed], ["interrupted", "maybe"]);
  assert(performance.now() - last < NOTICED_MS, "it took too long");
}

/** Goes on at the next worker. */
async function resumableStream(numbers: rpc.ItemStream<bigint>): Promise<void> {
  const rest = await all(numbers);
  assert.deepEqual(
    rest,
    Array.from({ length: ITEMS - 3 }, (_, index) => BigInt(index + 3)),
  );
}

/** Says how a call went. */
async function report(name: string, call: Promise<void>): Promise<void> {
  try {
    await call;
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`failed ${name}: ${reasonOf(error)}`);
    process.exitCode = 1;
  }
}

const [, , queue = "", codec = ""] = process.argv;
const connection = await rpc.connect(url());
const options = { queue, codec: codec as rpc.CodecName, timeoutMs: LIMIT_MS };
const client = new ConformanceClient(connection, options);
const ticks = client.ticks(entry("ticks"), 20);
const numbers = client.resumable(BigInt(ITEMS), null, { credit: 8 });
for (const read of [ticks, numbers]) {
  for (const expected of [0n, 1n, 2n]) assert.equal((await read.next()).value, expected);
}
console.log("begun");
await once(process.stdin, "data");
const calls = [
  report("idempotent_call", idempotentCall(client)),
  report("other_call", otherCall(client)),
];
await delay(SENT_MS);
console.log("sent");
calls.push(report("stream", stream(ticks)), report("resumable_stream", resumableStream(numbers)));
await Promise.all(calls);
await connection.close();
process.stdin.destroy();
