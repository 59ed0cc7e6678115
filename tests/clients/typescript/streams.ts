// Streams that methods return and receive.
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";

import type * as api from "./conformance.js";
import { Refusal } from "./conformance.js";
import { all, entry, fails, until, type Case } from "./context.js";
import { REFUSALS } from "./errors.js";
import { personNamed, shapes } from "./values.js";

/** The integers from one to another, without the last. */
function range(first: number, end: number): bigint[] {
  return Array.from({ length: end - first }, (_, index) => BigInt(first + index));
}

/** Reads a stream that fails. */
async function readAndFail<T>(items: AsyncIterable<T>): Promise<[T[], Refusal]> {
  const read: T[] = [];
  const end = async () => {
    for await (const item of items) read.push(item);
  };
  return [read, await fails(end(), Refusal)];
}

export const streams: Record<string, Case> = {
  count: async ({ client }) => {
    for (const items of [0, 1, 10_000]) {
      assert.deepEqual(await all(client.count(BigInt(items))), range(0, items));
    }
  },

  failing_stream: async ({ client }) => {
    for (const [number, expected] of REFUSALS.entries()) {
      const [items, error] = await readAndFail(client.countTo(BigInt(3 * number), number));
      assert.deepEqual(items, range(0, 3 * number));
      assert.deepEqual(error.value, expected);
    }
    assert.deepEqual(await all(client.countTo(5n, null)), range(0, 5));
  },

  blobs: async ({ client }) => {
    const sizes = [0, 1, 250, 70_000, 200_000, 3, 200_000, 200_000];
    const blobs = await all(client.blobs(sizes));
    assert.deepEqual(
      blobs.map((blob) => blob.length),
      sizes,
    );
    for (const blob of blobs) assert(blob.every((byte, index) => byte === index % 251));
  },

  little_credit: async ({ client }) => {
    let expected = 0n;
    for await (const number of client.count(200n, { credit: 4, creditBytes: 20 })) {
      assert.equal(number, expected++);
      if (number % 50n === 0n) await delay(100);
    }
    assert.equal(expected, 200n);
  },

  left_early: async ({ client }) => {
    const name = entry("ticks");
    const ticks = client.ticks(name, 2);
    for (const expected of range(0, 5)) assert.equal((await ticks.next()).value, expected);
    assert.equal(await client.stopped(name), 0);
    await ticks.return?.();
    await until("the method stops", async () => (await client.stopped(name)) === 1);
  },

  resumed: async ({ client }) => {
    assert.deepEqual(await all(client.resumable(100n, null)), range(0, 100));
    assert.deepEqual(await all(client.resumable(100n, 49n)), range(50, 100));
    assert.deepEqual(await all(client.resumable(100n, 99n)), []);
  },

  many_streams: async ({ client }) => {
    const reads = Array.from({ length: 30 }, async (_, items) => {
      assert.deepEqual(await all(client.count(BigInt(items))), range(0, items));
    });
    await Promise.all(reads);
  },

  sum: async ({ client }) => {
    assert.equal(await client.sum(range(0, 10_000)), 49_995_000n);
  },

  sum_of_nothing: async ({ client }) => {
    assert.equal(await client.sum([]), 0n);
  },

  concat: async ({ client }) => {
    const parts = [0, 1, 100_000, 30_000].map((size) =>
      Uint8Array.from({ length: size }, (_, index) => index % 256),
    );
    async function* sent() {
      for (const part of parts) {
        await delay(0);
        yield part;
      }
    }
    const whole = await client.concat(200_000, sent());
    assert(Buffer.from(whole).equals(Buffer.concat(parts)));
  },

  refused_parts: async ({ client }) => {
    let sent = 0;
    function* parts() {
      for (;;) {
        sent++;
        yield new Uint8Array(10_000).fill(7);
      }
    }
    const error = await fails(client.concat(95_000, parts()), Refusal);
    assert.deepEqual(error.value, { kind: "TooMany", value: 95_000 });
    assert.equal(error.executed, "yes");
    assert(sent >= 10 && sent < 2000, `${sent} parts were sent`);
  },

  take: async ({ client }) => {
    function* people() {
      for (;;) yield personNamed("Alice");
    }
    assert.equal(await client.take(3, people()), 3);
    assert.equal(await client.take(3, [personNamed("Bob")]), 1);
  },

  answer: async ({ client }) => {
    const lines = Array.from({ length: 500 }, (_, index) => String(index));
    const answers = await all(client.answer("line", lines, { credit: 16 }));
    assert.deepEqual(
      answers,
      lines.map((line) => `line: ${line}`),
    );
  },

  check: async ({ client }) => {
    const good = shapes().filter((shape) => shape.kind !== "Nothing");
    const sent: api.Shape[] = [...good, { kind: "Nothing" }, { kind: "Circle", value: 1 }];
    const [checked, error] = await readAndFail(client.check(sent));
    assert.deepEqual(checked, good);
    assert.deepEqual(error.value, { kind: "Closed" });
  },
};
