import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import { planCall } from "../../src/client/method-call.js";
import type { ReplyQueue } from "../../src/client/replies.js";
import { RunningCall, type RunningCallParts } from "../../src/client/running-call.js";
import type { Outcome, Publisher } from "../../src/transport/publisher.js";

const find = rpc.method({ name: "find", idempotent: true });

/** A call whose requests this function publishes. */
function callPublishedBy(publish: Publisher["publish"]): RunningCall {
  const publisher = { publish };
  const parts: RunningCallParts = {
    publisher: publisher as unknown as Publisher,
    replies: { name: "replies", epoch: { address: 1, consumer: 1 } } as unknown as ReplyQueue,
    lastError: () => undefined,
    ended: () => {},
  };
  return new RunningCall(parts, planCall(find, "q", {}, {}), { message() {}, failed() {} });
}

/** A call whose requests are written at once, and are neither confirmed nor answered. */
function callWrittenAtOnce(): RunningCall {
  return callPublishedBy(({ written }) => {
    written?.();
    return { withdraw: () => false };
  });
}

test("a fault of one of several requests does not say that the method did not run", () => {
  const call = callWrittenAtOnce();
  const busy = new rpc.Fault("rejected", "too busy", 70);
  call.send();
  assert.equal(call.errorOf(busy), busy);
  call.send();
  const error = call.errorOf(busy);
  assert.ok(error instanceof rpc.Fault);
  assert.equal(error.code, "interrupted");
  assert.equal(error.executed, "maybe");
  assert.match(error.detail, /refused: rejected: too busy$/);
  assert.equal(error.retryAfterMs, 70);
  // These say by themselves that a method may have run.
  for (const code of ["panicked", "abandoned"]) {
    const fault = new rpc.Fault(code, "");
    assert.equal(call.errorOf(fault), fault);
  }
  call.abandon();
});

test("a request is not sent again once a worker has begun a stream", (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  for (const outcome of [
    // The next request waits for the end of a pause.
    { kind: "refused" },
    // The next request waits for a channel.
    { kind: "lost", reason: "the connection was lost", byBroker: false },
  ] satisfies Outcome[]) {
    let count = 0;
    const waiting = new Set<number>();
    const outcomes: ((outcome: Outcome) => void)[] = [];
    const call = callPublishedBy(({ written, done }) => {
      const number = count++;
      if (number === 0) written?.();
      else waiting.add(number);
      outcomes.push(done);
      return { withdraw: () => waiting.delete(number) };
    });
    call.send();
    outcomes[0]!(outcome);
    call.beginStream();
    t.mock.timers.tick(1000);
    assert.equal(waiting.size, 0, outcome.kind);
    call.abandon();
  }
});
