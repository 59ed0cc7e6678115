import assert from "node:assert/strict";
import { test } from "node:test";

import { Log } from "../../src/log.js";
import { Link } from "../../src/transport/link.js";
import { ReplySender } from "../../src/worker/reply-sender.js";

/** What a worker without a connection logs when it offers replies. */
async function offered(count: number, bytes: number): Promise<number> {
  let dropped = 0;
  const log = new Log((_level, _message, fields) => {
    dropped += 1 + Number(fields["suppressed"] ?? 0);
  });
  const link = new Link(["amqp://localhost"], "test", log);
  const replies = new ReplySender(link, log, () => link);
  const to = { address: "amq.gen-x", correlationId: "1", contentType: "" };
  const body = Buffer.alloc(bytes);
  for (let i = 0; i < count; i++) replies.offer(to, { type: "result", headers: {}, body }, 60_000);
  await replies.close();
  return dropped;
}

test("replies that no prefetch limits wait in bounded number and size", async () => {
  assert.equal(await offered(1024, 10), 0);
  assert.equal(await offered(1026, 10), 2);
  assert.equal(await offered(5, 16 * 1024 * 1024), 1);
  assert.equal(await offered(1, 100 * 1024 * 1024), 0);
});
