import assert from "node:assert/strict";
import { test } from "node:test";

import * as rpc from "rpc-runtime";

import * as messagePack from "../../src/codec/message-pack.js";
import { CancelledCalls } from "../../src/protocol/cancelled-calls.js";
import { deathsOf } from "../../src/protocol/deaths.js";
import { Deduplicator, originOf } from "../../src/protocol/deduplicator.js";
import { decide, type Rules } from "../../src/protocol/dispatch.js";
import { decideJobArrival } from "../../src/protocol/job-arrival.js";
import * as jobs from "../../src/protocol/jobs.js";
import { isReplyAddress } from "../../src/protocol/reply-address.js";
import { uuidBytes, uuidOf } from "../../src/protocol/uuid.js";
import type { Incoming, Properties } from "../../src/transport/message.js";
import { failureOf } from "../../src/worker/job-handler.js";

const table = (() => {
  const methods = [
    rpc.method({ name: "unmarked", isDefault: true }),
    rpc.method({ name: "idempotent", idempotent: true }),
    rpc.method({ name: "job", oneway: true, idempotent: true }),
  ].map((method) => ({ method }));
  const byName = new Map(methods.map((entry) => [entry.method.name, entry]));
  return { byName, byDefault: methods[0]! };
})();

const rules: Rules = {
  maxAcceptedBytes: 100,
  maxDeliveries: 20,
  isQuorum: false,
  allowedReplyPrefixes: [],
};

function decided(
  properties: Partial<Properties>,
  { redelivered = false, ...changed }: Partial<Rules> & { redelivered?: boolean } = {},
): string {
  const message: Incoming = {
    exchange: "",
    redelivered,
    malformed: null,
    body: Buffer.alloc(0),
    properties: { replyTo: "amq.gen-x", correlationId: "1", headers: {}, ...properties },
  };
  const decision = decide(message, table, { ...rules, ...changed });
  return decision.kind === "refuse" ? decision.fault.code : decision.kind;
}

const died = (reason: string, count: unknown = 1) => ({
  "x-first-death-reason": reason,
  "x-death": [{ reason, count, queue: "q" }],
});

test("only idempotent requests run again", () => {
  for (const type of ["unmarked", "idempotent"]) assert.equal(decided({ type }), "run");
  const again = { redelivered: true };
  assert.equal(decided({ type: "unmarked", expiration: "100" }, again), "interrupted");
  assert.equal(decided({ type: "idempotent", expiration: "100" }, again), "run");
  assert.equal(decided({ type: "unmarked", headers: died("rejected") }), "interrupted");
  assert.equal(decided({ type: "idempotent", headers: died("rejected") }), "run");
});

test("requests that could come back forever do not run", () => {
  const again = { redelivered: true };
  assert.equal(decided({ type: "idempotent" }, again), "interrupted");
  const counted = (count: number) => ({
    type: "idempotent",
    headers: { "x-delivery-count": count },
  });
  assert.equal(decided(counted(19), { ...again, isQuorum: true }), "run");
  assert.equal(decided(counted(20), { ...again, isQuorum: true }), "interrupted");
  // Anybody can send the header to a classic queue.
  assert.equal(decided(counted(1), again), "interrupted");
  assert.equal(decided({ type: "idempotent", headers: died("rejected", 20) }), "interrupted");
  assert.equal(decided({ type: "idempotent", headers: died("rejected", "x") }), "interrupted");
  const job = { type: "job", replyTo: undefined, headers: { "x-delivery-count": 10 } };
  assert.equal(decided(job, { ...again, isQuorum: true }), "interrupted");
});

test("a job that waited in a retry queue has not died", () => {
  const headers = { ...died("expired", 30), "rpc-copy": "1" };
  assert.equal(decided({ type: "job", replyTo: undefined, headers }), "run");
  assert.equal(decided({ type: "job", headers }), "interrupted");
});

test("a refusal of what may have run does not claim that it did not", () => {
  assert.equal(decided({ type: "nope" }), "unknown_method");
  assert.equal(decided({ type: "nope" }, { redelivered: true }), "interrupted");
  assert.equal(decided({ type: "nope", headers: { "rpc-resent": "" } }), "interrupted");
  assert.equal(decided({ type: "unmarked", expiration: "0" }), "expired");
});

test("replies go to reply addresses only", () => {
  assert.equal(decided({ replyTo: "orders" }), "forbidden");
  assert.equal(decided({ replyTo: "" }), "run");
  assert.equal(decided({ replyTo: "reply-1" }, { allowedReplyPrefixes: ["reply-"] }), "run");
  for (const address of ["amq.gen-x", "rpc.reply.x", `amq_${"0".repeat(32)}`]) {
    assert.ok(isReplyAddress(address), address);
  }
  for (const address of ["amq_0", "amq.rabbitmq.trace", "rpc.reply", `amq_${"g".repeat(32)}`]) {
    assert.ok(!isReplyAddress(address), address);
  }
});

test("the history of a dead-lettered message is read with care", () => {
  assert.equal(deathsOf({}), null);
  assert.deepEqual(deathsOf({ "x-death": "nonsense" }), {
    hasExpired: false,
    others: 1,
    rejections: 0,
    hadExpiration: false,
  });
  const entry = { reason: "expired", count: 1, "original-expiration": "5" };
  assert.equal(deathsOf({ "x-death": [entry, null, 7] })!.hadExpiration, true);
});

test("requests that run or were answered are recognized", () => {
  const known = new Deduplicator<string>();
  const fresh = originOf({}, false, false);
  const again = originOf({}, true, false);
  const resent = originOf({ "rpc-resent": "" }, false, false);
  const key = Deduplicator.keyOf("reply", "1")!;
  const add = (origin: ReturnType<typeof originOf>, delivery: string) =>
    known.add(key, origin, delivery).action;
  assert.equal(add(fresh, "a"), "run");
  assert.equal(add(again, "b"), "join");
  assert.equal(add(fresh, "another request with its id"), "runUntracked");
  assert.equal(add(resent, "c"), "join");
  assert.deepEqual(known.finish(key, "answered"), ["a", "b", "c"]);
  assert.equal(add(again, "d"), "ack");
  // Its caller sends a request again because the reply may be lost.
  assert.equal(add(resent, "e"), "run");
  assert.deepEqual(known.finish(key, "rejected"), ["e"]);
  assert.equal(add(again, "f"), "reject");
  assert.equal(Deduplicator.keyOf("reply", ""), null);
  known.add(key, fresh, "g");
  known.forgetDeliveries((delivery) => delivery === "g");
  assert.deepEqual(known.finish(key, "answered"), []);
});

test("a copy that a worker sent is recognized by its token", () => {
  const known = new Deduplicator<string>();
  const key = Deduplicator.keyOf("reply", "1")!;
  const copy = (token: string) =>
    originOf({ "rpc-resent": "worker", "rpc-copy": token }, false, false);
  assert.equal(known.add(key, originOf({}, false, false), "a").action, "run");
  assert.equal(known.add(key, copy("1"), "b").action, "join");
  known.finish(key, "answered");
  assert.equal(known.add(key, copy("1"), "c").action, "ack");
});

test("a copy of a request that its caller sent again runs once", () => {
  const known = new Deduplicator<string>();
  const key = Deduplicator.keyOf("reply", "1")!;
  const add = (headers: Record<string, string>) =>
    known.add(key, originOf({ "rpc-resent": "caller, worker", ...headers }, false, false), "x");
  known.add(key, originOf({}, false, false), "x");
  known.finish(key, "answered");
  const first = add({ "rpc-copy": "1" });
  assert.equal(first.action, "run");
  known.finish(first.key, "answered");
  // The acknowledgement was lost.
  assert.equal(add({ "rpc-copy": "1" }).action, "ack");
  assert.equal(add({ "rpc-copy": "2" }).action, "run");
  // Without a token, it may be any of the requests.
  assert.equal(add({}).action, "run");
});

test("the memory of answered requests is bounded", () => {
  const known = new Deduplicator<number>();
  const [fresh, again] = [originOf({}, false, false), originOf({}, true, false)];
  for (let i = 0; i <= 16_384; i++) {
    known.add(`${i}`, fresh, i);
    known.finish(`${i}`, "answered");
  }
  assert.equal(known.add("0", again, 0).action, "run");
  assert.equal(known.add("1", again, 1).action, "ack");
});

test("cancelled calls are remembered for as long as their requests can wait", () => {
  const cancelled = new CancelledCalls();
  cancelled.add({ id: "a", leftMs: 1_000 }, 0);
  assert.ok(cancelled.has("a", 10_999) && !cancelled.has("a", 11_000));
  for (let i = 0; i < 16_384; i++) cancelled.add({ id: String(i), leftMs: 1_000 }, 0);
  assert.ok(!cancelled.has("a", 0) && cancelled.has("0", 0));
});

/** What is decided about a job that arrives, with its numbers. */
function arrive(headers: object, redelivered = false, isQuorum = false): string {
  const message: Incoming = {
    exchange: "",
    redelivered,
    malformed: null,
    body: Buffer.alloc(0),
    properties: { headers: { ...headers } },
  };
  const arrival = decideJobArrival(message, { isQuorum, maxDeliveries: 20 });
  return Object.values(arrival).join(" ");
}

test("a job that arrives runs, waits or moves on", () => {
  assert.equal(arrive({}), "run 0");
  assert.equal(arrive({}, true, true), "run 0");
  assert.equal(arrive({}, true), "back 1 0");
  assert.equal(arrive({ "rpc-redeliveries": "18" }, true), "back 19 0");
  // It is refused as delivered too often.
  assert.equal(arrive({ "rpc-redeliveries": "19" }, true), "run 0");
  assert.equal(arrive({ "rpc-given-up": "" }, true), "dead");
  assert.equal(arrive({ "rpc-delay": "1500" }), "retry 1500");
  assert.equal(arrive({ "rpc-delay": "1500", "rpc-redeliveries": "1" }), "run 1500");
  assert.equal(arrive({ "rpc-delay": "2500", "rpc-redeliveries": "1" }), "retry 2500");
  const waited = { "rpc-delay": "1500", "rpc-redeliveries": "1", ...died("expired") };
  assert.equal(arrive(waited), "retry 1500");
  // A redelivered job keeps its delay.
  assert.equal(arrive({ "rpc-delay": "1500" }, true), "retry 1500");
  assert.equal(arrive({ "rpc-delay": "2500", "rpc-redeliveries": "1" }, true), "retry 2500");
  assert.equal(arrive({ "rpc-delay": "1500", "rpc-redeliveries": "1" }, true), "back 2 1500");
  assert.equal(arrive(waited, true), "retry 1500");
});

test("what a copy of a redelivered job cannot tell is not lost with its history", () => {
  const back = (headers: object) => arrive({ "rpc-redeliveries": "2", ...headers }, true);
  assert.equal(back(died("rejected", 3)), "back 6 0");
  assert.equal(back(died("rejected", 17)), "run 0");
  const entry = { reason: "expired", count: 1, "original-expiration": "5" };
  assert.equal(back({ "x-death": [entry] }), "run 0");
  assert.equal(back(died("expired")), "back 3 0");
});

test("retries wait as their policy says", () => {
  const policy = { times: 5, minDelayMs: 1_000, maxDelayMs: 300_000 };
  assert.equal(jobs.retryDelay(policy, 1), 1_000);
  assert.equal(Math.round(jobs.retryDelay(policy, 5)), 300_000);
  assert.equal(jobs.retryDelay({ ...policy, times: 1 }, 1), 1_000);
  assert.equal(jobs.roundedUp(12_345), 13_000);
  assert.equal(jobs.roundedUp(1), 100);
  assert.deepEqual(jobs.nextWait(13_000), { wait: 10_000, rest: 3_000 });
  assert.deepEqual(jobs.nextWait(50), { wait: 100, rest: 0 });
  assert.equal(jobs.RETRY_WAITS.length, 22);
  assert.equal(jobs.waitsOf([policy]).length, 11);
  assert.deepEqual(jobs.waitsOf([]), [100, 10_000]);
});

test("a failure is recorded, and decides about a retry", () => {
  const headers: jobs.JobHeaders = { tenant: "a", "rpc-delay": "5" };
  const retry = { times: 1, minDelayMs: 1_000, maxDelayMs: 1_000 };
  const error = { reason: "error", text: "é".repeat(1000) };
  assert.deepEqual(jobs.recordFailure(headers, error, retry, 7, 1), { retryMs: 1_200 });
  assert.equal(headers["rpc-attempts"], "1");
  assert.equal(Buffer.byteLength(String(headers["rpc-error"])), 1024);
  assert.equal(headers["rpc-delay"], undefined);
  assert.equal(jobs.recordFailure(headers, error, retry, 9, 1), "dead");
  assert.deepEqual([headers["rpc-first-failure"], headers["rpc-last-failure"]], ["7", "9"]);
  const bad = { reason: "bad_request", text: "" };
  assert.equal(jobs.recordFailure({}, bad, retry, 7, 1), "dead");
});

test("a copy of a job keeps its own headers, unless they are too large", () => {
  const move = { rest: 0, isGivenUp: false, user: undefined, token: "t" };
  const moved = jobs.markMoved({ tenant: "a", "rpc-resent": "", "rpc-given-up": "" }, move);
  assert.deepEqual(moved, { tenant: "a", "rpc-copy": "t" });
  const large = jobs.markMoved(
    { tenant: "a".repeat(7000), "rpc-reason": "error" },
    { ...move, rest: 5 },
  );
  assert.deepEqual(large, { "rpc-reason": "error", "rpc-copy": "t", "rpc-delay": "5" });
});

test("a sender cannot fill a copy with headers of this library", () => {
  const move = { rest: 0, isGivenUp: false, user: undefined, token: "t", origin: "q" };
  const names = ["attempts", "first-failure", "last-failure", "delay", "reason", "error"];
  const forged = [...names, "first-trace", "user", "redeliveries"].map((name) => `rpc-${name}`);
  const headers = Object.fromEntries(forged.map((name) => [name, "x".repeat(1000)]));
  const copy = jobs.markMoved({ ...headers, "rpc-copy": "1" }, move);
  assert.deepEqual(Object.keys(copy), ["rpc-error", "rpc-origin", "rpc-copy"]);
  // The sender's own headers are the first to go.
  const trace = { "rpc-first-trace": "00-1-2-01", "rpc-copy": "1" };
  const large = jobs.markMoved({ ...trace, "rpc-new": "y", note: "x".repeat(6 * 1024) }, move);
  assert.deepEqual(large, { ...trace, "rpc-new": "y", "rpc-origin": "q", "rpc-copy": "t" });
});

test("UUIDs are 16 bytes", () => {
  const id = "00112233-4455-4677-8899-aabbccddeeff";
  assert.equal(uuidOf(uuidBytes(id)), id);
  assert.equal(uuidOf(Buffer.alloc(15)), null);
});

test("an error that is no JSON still fails its job", () => {
  const failed = (codec: "msgpack" | "text", body: Buffer) =>
    failureOf({ kind: "error", body, fault: null }, codec);
  assert.deepEqual(failed("msgpack", messagePack.encode("no route")), {
    reason: "error",
    text: "no route",
  });
  for (const plain of [NaN, { at: Infinity }, new Map([[[1], 2]])]) {
    assert.match(failed("msgpack", messagePack.encode(plain))!.text, /cannot be shown/);
  }
  assert.match(failed("text", Buffer.of(0xff))!.text, /cannot be shown/);
});

test("a copy of a job keeps headers with the names of an object's own parts", () => {
  const headers = JSON.parse('{"__proto__": "a", "constructor": "b"}') as Record<string, unknown>;
  assert.deepEqual(Object.entries(jobs.copiedHeaders(headers)), Object.entries(headers));
});

test("whatever headers a job has, its copy can be published", () => {
  const move = { rest: 0, isGivenUp: true, user: undefined, token: "t", origin: "q" };
  const forged = "x".repeat(100_000);
  const headers = jobs.copiedHeaders({
    ...{ "rpc-x": forged, "rpc-user": forged, "rpc-origin": forged, tenant: "a" },
    ...{ nan: NaN, low: -Infinity, large: -1e300, "rpc-attempts": "2", "rpc-copy": "1" },
  });
  const copy = jobs.markMoved(headers, move);
  assert.deepEqual(copy, {
    "rpc-attempts": "2",
    "rpc-origin": "q",
    "rpc-copy": "t",
    "rpc-given-up": "",
  });
});

test("a copy of a job has text, numbers, booleans and timestamps as text", () => {
  const headers = {
    ...{ text: "a", one: 1, nan: NaN, low: -Infinity, large: 2 ** 63, yes: true },
    ...{ at: { "!": "timestamp", value: 1_800_000_000 } },
    ...{ list: [1], table: { at: 1 }, none: null, bytes: Buffer.of(1) },
    ...{ decimal: { "!": "decimal", value: { places: 1, digits: 5 } } },
  };
  assert.deepEqual(jobs.copiedHeaders(headers), {
    ...{ text: "a", one: "1", nan: "NaN", low: "-Infinity", large: "9223372036854776000" },
    ...{ yes: "true", at: "1800000000" },
  });
});

test("a long token of a copy is not remembered as it is", () => {
  const token = (text: string) => originOf({ "rpc-copy": text }, false, false).copy!;
  assert.equal(token("abc"), "abc");
  assert.equal(token("a".repeat(100_000)).length, 64);
  assert.notEqual(token("a".repeat(100)), token("a".repeat(101)));
});
