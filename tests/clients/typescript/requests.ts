// Arguments, headers, times, cancellation, and requests without a reply.
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";

import * as rpc from "rpc-runtime";

import { Refusal } from "./conformance.js";
import { all, entry, fails, until, type Case, type Caller } from "./context.js";

/** How long a request may take to reach its method. After that, its method does not begin. */
const PATIENCE_MS = [500, 2000, 8000];

/** There is a worker in each of three languages. */
const WORKERS = 3;

/** Fails unless the method stops whose caller gives up after some time. */
async function stops(
  { client }: Caller,
  giveUp: (name: string, patienceMs: number) => Promise<unknown>,
): Promise<void> {
  for (const patienceMs of PATIENCE_MS) {
    const name = entry("wait");
    await giveUp(name, patienceMs);
    const end = performance.now() + 5000;
    while (performance.now() < end) {
      if ((await client.stopped(name)) > 0) {
        await delay(100);
        assert.equal(await client.stopped(name), 1);
        return;
      }
      await delay(20);
    }
  }
  assert.fail("the method does not stop");
}

async function ran({ client }: Caller, name: string, times: number): Promise<void> {
  await until("the method runs", async () => (await client.runs(name)) >= times);
  // Once more is once too often.
  await delay(300);
  assert.equal(await client.runs(name), times);
}

export const requests: Record<string, Case> = {
  arguments: async ({ client }) => {
    assert.equal(await client.wordsJoin("one", "two", "four"), "one two four");
    assert.equal(await client.wordsJoin("", null, ""), " - ");
  },

  default_argument: async ({ client }) => {
    assert.equal(await client.wordsJoin("one", null, undefined), "one - three");
  },

  alias: async ({ foreign }) => {
    assert.equal(await foreign.join("\u{1f980}"), "\u{1f980} - three");
  },

  unknown_argument: async ({ foreign }) => {
    assert.equal(await foreign.double(3, 9), 6n);
  },

  names: async ({ client }) => {
    assert.equal(await client.withOptions_(100, 20, 3), 123);
  },

  default_method: async ({ client }) => {
    assert.equal(await client.double(4_294_967_295), 8_589_934_590n);
  },

  header: async ({ client }) => {
    for (const value of ["", "acme", "\u20ac\u{1f980}"]) {
      const headers = { "x-tenant": value };
      assert.equal(await client.header("x-tenant", { headers }), value);
    }
    assert.equal(await client.header("x-tenant"), null);
  },

  time_left: async ({ client }) => {
    const left = await client.timeLeft({ timeoutMs: 10_000 });
    assert(left !== null && left >= 2000n && left <= 10_000n, String(left));
  },

  many_calls: async ({ client }) => {
    const numbers = Array.from({ length: 300 }, (_, index) => index);
    const doubles = await Promise.all(numbers.map((number) => client.double(number)));
    assert.deepEqual(
      doubles.map(Number),
      numbers.map((number) => 2 * number),
    );
  },

  deadline: async (caller) => {
    assert.equal(await caller.client.sleep(1), 1);
    // Without a limit of its own, the client has that of the method.
    const client = caller.withoutLimit();
    // A busy caller may not send the call in time, and a busy worker may not begin it.
    const attempt = async () => {
      const began = performance.now();
      const error = await fails(client.sleep(12_000), rpc.RpcError);
      return { error, waited: performance.now() - began };
    };
    let { error, waited } = await attempt();
    for (let again = 0; error.executed === "no" && again < 2; again++) {
      ({ error, waited } = await attempt());
    }
    assert(error instanceof rpc.TimedOut, error);
    assert.deepEqual([error.executed, error.isRetryable], ["maybe", false]);
    assert(waited >= 490 && waited < 10_000, String(waited));
  },

  deadline_stops_the_method: (caller) =>
    stops(caller, async (name, timeoutMs) => {
      // A second later, the worker says so itself. A busy caller may read that first. A busy worker
      // may not begin the method.
      const error = await fails(caller.client.wait(name, 60_000, { timeoutMs }), rpc.RpcError);
      const isLate = error instanceof rpc.Fault && ["abandoned", "expired"].includes(error.code);
      assert(isLate || error instanceof rpc.TimedOut, error);
    }),

  cancel: async (caller) => {
    assert.equal(await caller.client.wait(entry("wait"), 1), 1);
    await stops(caller, async (name, patienceMs) => {
      const signal = AbortSignal.timeout(patienceMs);
      const error = await fails(caller.client.wait(name, 60_000, { signal }), rpc.Cancelled);
      assert.equal(error.executed, "maybe");
    });
  },

  notify: async (caller) => {
    const name = entry("notify");
    await caller.client.notify(name);
    await ran(caller, name, 1);
  },

  job: async (caller) => {
    const [first, third] = [entry("job"), entry("job")];
    await caller.client.record(third, 2);
    await caller.client.record(first, 0);
    await ran(caller, first, 1);
    await ran(caller, third, 3);
  },

  dying_job: async (caller) => {
    const name = entry("dying");
    await caller.client.record(name, 9);
    await ran(caller, name, 4);
  },

  delayed_job: async (caller) => {
    const name = entry("delayed");
    const began = performance.now();
    await caller.client.record(name, 0, { delayMs: 1000 });
    await ran(caller, name, 1);
    assert(performance.now() - began >= 1000, "it ran too early");
  },

  broadcast: async ({ everyone }) => {
    const name = entry("ask");
    const answers = await all(everyone.ask(name, { expectWorkers: WORKERS }));
    const results = answers.map((answer) => answer.result());
    assert.deepEqual(results, Array(WORKERS).fill(name));
    assert.equal(new Set(answers.map((answer) => answer.worker.id)).size, WORKERS);
  },

  failing_broadcast: async ({ everyone }) => {
    const answers = await all(everyone.ask("", { expectWorkers: WORKERS }));
    assert.equal(answers.length, WORKERS);
    for (const answer of answers) {
      assert.throws(
        () => answer.result(),
        (error) => error instanceof Refusal && error.value.kind === "Closed",
      );
    }
  },

  notifying_broadcast: async (caller) => {
    const name = entry("tell");
    await caller.client.tell(name);
    await ran(caller, name, 1);
  },
};
