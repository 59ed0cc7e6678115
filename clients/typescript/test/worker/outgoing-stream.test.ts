import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { collect, OutgoingStream } from "../../src/worker/outgoing-stream.js";
import { RunningMethod } from "../../src/worker/running.js";

const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

test("a method that returns no stream leaves no timer", async () => {
  const running = new RunningMethod(true, null);
  const before = timers();
  const stream = new OutgoingStream({ codec: "json" } as never, running, { items: 1, bytes: 1 });
  await assert.rejects(stream.send(5 as never), TypeError);
  assert.equal(timers(), before);
});

test("an item that cannot be sent ends a stream in a single reply, and closes it", async () => {
  const method = rpc.method({ name: "numbers", result: rpc.t.u8, stream: true });
  let isClosed = false;
  async function* numbers() {
    try {
      for (const number of [1, 300, 2]) yield number;
    } finally {
      isClosed = true;
    }
  }
  const replyToThrown = (error: unknown) => {
    throw error;
  };
  const parts = { method, codec: "json", maxBytes: 1000, replyToThrown } as const;
  const reply = await collect(numbers(), parts, new RunningMethod(true, null));
  assert.equal(reply?.fault?.code, "unanswerable");
  assert.match(reply.fault.message, /^an item cannot be sent: /);
  await new Promise(setImmediate);
  assert.ok(isClosed);
});
