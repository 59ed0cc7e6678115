import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { resuming } from "../../src/client/resuming.js";
import type { StreamingCall } from "../../src/client/stream.js";

test("an abort while a stream is resumed does not say that the method did not run", async () => {
  const aborting = new AbortController();
  const { signal } = aborting;
  const calls = [
    // It was interrupted.
    async function* () {
      yield 1;
      aborting.abort();
      throw new rpc.Fault("interrupted", "");
    },
    // It was not sent.
    async function* () {
      throw new rpc.Cancelled("no", signal.reason);
    },
  ];
  const begin = () => {
    const hasBegun = calls.length === 2;
    return Object.assign(calls.shift()!(), { hasBegun }) as unknown as StreamingCall;
  };
  const stream = resuming("after", {}, 30_000, signal, begin);
  assert.equal((await stream.next()).value, 1);
  await assert.rejects(stream.next(), (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "maybe", String(error));
    assert.equal(error.cause, signal.reason);
    return true;
  });
  assert.deepEqual(calls, []);
});
