import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { Gathering } from "../../src/client/gather.js";
import { planCall } from "../../src/client/method-call.js";
import { Log } from "../../src/log.js";
import { Link } from "../../src/transport/link.js";
import { Publisher } from "../../src/transport/publisher.js";

const reload = rpc.method({ name: "reload", broadcast: true });

/** A broadcast while there is no connection. */
function disconnected(options: rpc.BroadcastOptions) {
  const log = new Log();
  const link = new Link(["amqp://localhost"], "test", log);
  const parts = { link, log, control: new Publisher(link, log, "control") };
  const end = { expectWorkers: undefined, quietMs: undefined };
  return new Gathering(
    parts,
    () => planCall(reload, "q", {}, options),
    end,
    () => {},
  );
}

test("an aborted broadcast ends although there is no connection", async () => {
  const aborting = new AbortController();
  const gathering = disconnected({ signal: aborting.signal });
  const next = gathering.next();
  setTimeout(() => aborting.abort(), 10);
  await assert.rejects(next, (error) => {
    assert.ok(error instanceof rpc.Cancelled && error.executed === "no", String(error));
    return true;
  });
});

test("a broadcast that nobody reads any more ends although there is no connection", async () => {
  const gathering = disconnected({});
  const next = gathering.next();
  await new Promise(setImmediate);
  await gathering.return();
  assert.equal((await next).done, true);
});

test("a broadcast that is given up before it is read does nothing", async () => {
  const aborting = new AbortController();
  const gathering = disconnected({ signal: aborting.signal });
  await gathering.return();
  assert.equal((await gathering.next()).done, true);
  assert.deepEqual(getEventListeners(aborting.signal, "abort"), []);
});

test("a broadcast ends at its limit if there is no connection", async () => {
  const gathering = disconnected({ timeoutMs: 20 });
  await assert.rejects(gathering.next(), rpc.TimedOut);
});
