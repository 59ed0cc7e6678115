import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { planCall } from "../../src/client/method-call.js";
import { sendBroadcast } from "../../src/client/oneway.js";
import { Log } from "../../src/log.js";
import { Link } from "../../src/transport/link.js";
import { Publisher } from "../../src/transport/publisher.js";

const clear = rpc.method({ name: "clear", broadcast: true, oneway: true });

/** Sends a one-way broadcast while there is no connection. */
async function disconnected(options: rpc.CallOptions): Promise<void> {
  const log = new Log();
  const link = new Link(["amqp://localhost"], "test", log);
  await sendBroadcast(new Publisher(link, log, "control"), planCall(clear, "q", {}, options));
}

test("a one-way broadcast ends at its limit if there is no connection", async () => {
  await assert.rejects(disconnected({ timeoutMs: 20 }), (error) => {
    assert.ok(error instanceof rpc.TimedOut && error.executed === "no", String(error));
    return true;
  });
});

test("an aborted one-way broadcast ends although there is no connection", async () => {
  const aborting = new AbortController();
  const sent = disconnected({ signal: aborting.signal });
  setTimeout(() => aborting.abort(), 10);
  await assert.rejects(sent, (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "no", String(error));
    return true;
  });
});
