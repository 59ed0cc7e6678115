import assert from "node:assert/strict";
import { test } from "node:test";

import { CallState } from "../../src/protocol/call-state.js";
import type { Outcome } from "../../src/transport/publisher.js";

const sent = { address: 1, consumer: 1 };
const again = { address: 1, consumer: 2 };
const elsewhere = { address: 2, consumer: 2 };
const lost: Outcome = { kind: "lost", reason: "lost", byBroker: false };
const closed: Outcome = { kind: "lost", reason: "closed", byBroker: true };

function written(isIdempotent: boolean, waits = false): CallState {
  const state = new CallState(isIdempotent, waits);
  assert.equal(state.executed, "no");
  state.written(sent);
  assert.equal(state.executed, "maybe");
  return state;
}

test("only idempotent requests are sent twice", () => {
  assert.equal(written(true).decideByOutcome(lost, sent).next, "send");
  assert.deepEqual(written(false).decideByOutcome(lost, sent), {
    next: "fail",
    why: "broker",
    reason: "lost",
  });
  assert.equal(written(true).decideByOutcome({ kind: "refused" }, sent).next, "sendLater");
  assert.equal(written(false).decideByOutcome({ kind: "refused" }, sent).next, "fail");
});

test("a request that closes channels is not sent forever", () => {
  const state = written(true);
  assert.equal(state.decideByOutcome(closed, sent).next, "send");
  state.written(sent);
  assert.equal(state.decideByOutcome(closed, sent).next, "fail");
});

test("a confirmed call waits as long as its reply can arrive", () => {
  for (const isIdempotent of [true, false]) {
    const state = written(isIdempotent);
    assert.equal(state.decideByOutcome({ kind: "confirmed" }, sent).next, "wait");
    assert.equal(state.decideByEpoch(sent).next, "wait");
    assert.equal(state.decideByEpoch(again).next, isIdempotent ? "send" : "wait");
    assert.equal(state.decideByEpoch(elsewhere).next, isIdempotent ? "send" : "fail");
  }
  // The connection was lost between the request and its confirm.
  assert.equal(written(false).decideByOutcome({ kind: "confirmed" }, elsewhere).next, "fail");
});

test("an unconfirmed call does not care about the reply queue", () => {
  assert.equal(written(true).decideByEpoch(elsewhere).next, "wait");
});

test("a returned request did not run, unless an earlier one may", () => {
  const state = written(true);
  assert.deepEqual(state.decideByOutcome({ kind: "returned" }, sent), {
    next: "fail",
    why: "noServer",
    reason: "the queue does not exist",
  });
  assert.equal(state.executed, "no");
  assert.equal(written(true, true).decideByOutcome({ kind: "returned" }, sent).next, "sendLater");
  const resent = written(true);
  resent.decideByOutcome(lost, sent);
  assert.ok(resent.isResent);
  resent.written(sent);
  const decision = resent.decideByOutcome({ kind: "returned" }, sent);
  assert.ok(decision.next === "fail" && decision.why === "interrupted");
});

test("what was never written did not run", () => {
  const state = new CallState(false, false);
  const decision = state.decideByOutcome({ kind: "unsent", reason: "closed" }, sent);
  assert.deepEqual([decision.next, state.executed], ["fail", "no"]);
});
