import assert from "node:assert/strict";
import { test } from "node:test";

import { OutgoingStream } from "../../src/worker/outgoing-stream.js";
import { RunningMethod } from "../../src/worker/running.js";

const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

test("a method that returns no stream leaves no timer", async () => {
  const running = new RunningMethod(true, null);
  const before = timers();
  const stream = new OutgoingStream({ codec: "json" } as never, running, { items: 1, bytes: 1 });
  await assert.rejects(stream.send(5 as never), TypeError);
  assert.equal(timers(), before);
});
