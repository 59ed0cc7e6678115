import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";

import { ASKS, sizeOf } from "../../src/protocol/control.js";
import { IncomingInbox } from "../../src/protocol/incoming-inbox.js";
import { ItemSender } from "../../src/protocol/item-sender.js";
import { runOf } from "../../src/protocol/reply.js";
import { StreamReceiver } from "../../src/protocol/stream-receiver.js";
import { compareRuns, readRun } from "../../src/protocol/stream-run.js";
import { StreamSender } from "../../src/protocol/stream-sender.js";
import { Identity } from "../../src/worker/identity.js";

const RUN = { worker: randomUUID(), number: 1 };

const item = (number: number) => Buffer.from(String(number));
const items = (first: number, count: number) =>
  Array.from({ length: count }, (_, i) => item(first + i));

function read(receiver: StreamReceiver<string>): string[] {
  const all: string[] = [];
  for (let next = receiver.take(); next !== undefined; next = receiver.take()) {
    all.push(Buffer.from(next).toString());
  }
  return all;
}

/** A small generator of numbers that is the same in each run. */
function random(seed: number): (below: number) => number {
  return (below) => {
    seed = (seed * 1103515245 + 12345) & 0x7fffffff;
    return Math.floor((seed / 0x80000000) * below);
  };
}

test("items are put into order, whatever arrives twice or early", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const below = random(seed);
    const receiver = new StreamReceiver<string>({ items: 1000, bytes: 1e6 });
    const messages: [number, number][] = [];
    for (let first = 0; first < 50;) {
      const count = 1 + below(Math.min(5, 50 - first));
      messages.push([first, count]);
      first += count;
    }
    const order = [...messages, ...messages.filter(() => below(3) === 0)];
    for (let i = order.length - 1; i > 0; i--) {
      const j = below(i + 1);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    const endAt = below(order.length);
    const seen: string[] = [];
    let end: string | null = null;
    order.forEach(([first, count], i) => {
      if (i === endAt) {
        const received = receiver.receiveEnd(RUN, 50, "the end");
        if (received.kind === "ends") end = received.end;
      }
      const received = receiver.receive(RUN, first, items(first, count));
      if (received.kind === "ends") end = received.end;
      seen.push(...read(receiver));
    });
    assert.deepEqual(seen, items(0, 50).map(String), `seed ${seed}`);
    assert.equal(end, "the end");
  }
});

test("only the messages of the first worker are read", () => {
  const receiver = new StreamReceiver<string>({ items: 10, bytes: 100 });
  assert.equal(receiver.chooseRun(RUN), null);
  assert.equal(receiver.receive(RUN, 0, items(0, 1)).kind, "continues");
  assert.equal(receiver.chooseRun({ worker: randomUUID(), number: 1 }), "foreign");
  assert.equal(receiver.chooseRun(null), "foreign");
  assert.equal(receiver.chooseRun({ ...RUN }), null);
  assert.equal(receiver.receiveEnd(RUN, undefined, "fault").kind, "ends");
  assert.deepEqual(read(receiver), ["0"]);
});

test("a worker numbers its runs", () => {
  const identity = new Identity({});
  const next = () => readRun(JSON.parse(identity.nextRunHeader()))!;
  const [first, second] = [next(), next()];
  assert.deepEqual([first.worker, second.worker], [identity.id, identity.id]);
  assert.equal(compareRuns(first, first), "sameRun");
  assert.equal(compareRuns(second, first), "laterRun");
  assert.equal(compareRuns(first, second), "earlierRun");
  // Other workers may not number their runs.
  const unnumbered = readRun({ id: identity.id })!;
  assert.equal(compareRuns(second, unnumbered), "laterRun");
  assert.equal(compareRuns(unnumbered, readRun({ id: identity.id })!), "sameRun");
  assert.equal(compareRuns({ ...first, worker: randomUUID() }, first), "otherWorker");
  const invalid = [-2, 2n ** 64n, 1.5, true, null, "2", [2], NaN].map((run) => ({
    id: identity.id,
    run,
  }));
  const strangers = [{}, { run: 2 }, { id: "b", run: 2 }, { id: 7 }, null, "b", [identity.id]];
  for (const header of [...invalid, ...strangers]) {
    assert.equal(readRun(header), null);
    assert.equal(compareRuns(readRun(header), first), "otherWorker");
  }
});

test("runs may have numbers that a JavaScript number cannot hold", () => {
  const run = (number: string) => {
    const headers = { "rpc-worker": `{"id":"${RUN.worker}","run":${number}}` };
    const properties = { headers };
    const message = { exchange: "", redelivered: false, body: Buffer.alloc(0), malformed: null };
    return runOf({ ...message, properties })!;
  };
  const largest = run("18446744073709551615");
  assert.deepEqual(largest, { worker: RUN.worker, number: 2n ** 64n - 1n });
  assert.equal(compareRuns(run("18446744073709551614"), largest), "earlierRun");
  assert.equal(compareRuns(largest, run("7")), "laterRun");
  assert.equal(compareRuns(run("18446744073709551615"), largest), "sameRun");
  assert.equal(run("18446744073709551616"), null);
});

test("a stream has the items of one run", () => {
  const [first, second, third] = [1, 2, 3].map((number) => ({ ...RUN, number }));
  const receiver = new StreamReceiver<string>({ items: 8, bytes: 1000 });
  // The first message of the first run was lost.
  assert.equal(receiver.chooseRun(first!), null);
  receiver.receive(first!, 1, [item(101)]);
  assert.equal(receiver.chooseRun(second!), null);
  receiver.receive(second!, 0, [item(200)]);
  assert.equal(receiver.chooseRun(first!), "late");
  assert.deepEqual(read(receiver), ["200"]);
  // The reader has an item of the second one.
  assert.equal(receiver.chooseRun(third!), "interrupted");
  assert.deepEqual(receiver.run, second);
  assert.equal(receiver.chooseRun(second!), null);
  assert.deepEqual(receiver.receiveEnd(second!, 1, "end"), { kind: "ends", end: "end" });
});

test("a stream that begins anew has the credit of its request", () => {
  const [first, second] = [1, 2].map((number) => ({ ...RUN, number }));
  const window = { items: 2, bytes: 1000 };
  const receiver = new StreamReceiver<string>(window);
  receiver.receive(first!, 0, items(0, 2));
  assert.equal(receiver.chooseRun(second!), null);
  assert.equal(receiver.receiveEnd(second!, 2, "end").kind, "continues");
  assert.equal(receiver.receive(second!, 0, items(5, 2)).kind, "ends");
  assert.throws(() => receiver.receive(second!, 2, items(7, 1)), /granted/);
  assert.deepEqual(read(receiver), ["5", "6"]);
  // The bytes and the end of the first run do not count.
  const large = new StreamReceiver<string>({ items: 2, bytes: 10 });
  large.receive(first!, 0, [Buffer.alloc(100)]);
  large.receiveEnd(first!, 2, "the end of the first run");
  assert.equal(large.chooseRun(second!), null);
  assert.equal(large.receive(second!, 0, [Buffer.alloc(1)]).kind, "continues");
  assert.equal(large.receive(second!, 1, [Buffer.alloc(1)]).kind, "continues");
  // Items that the caller sends go to one run only.
  const sending = new StreamReceiver<string>(window, { mayBeginAnew: false });
  sending.begin(first!);
  assert.equal(sending.chooseRun(second!), "interrupted");
});

test("a stream that breaks its promises is an error", () => {
  const receiver = () => new StreamReceiver<string>({ items: 3, bytes: 30 });
  assert.throws(() => receiver().receive(RUN, 0, items(0, 4)), /more items than it was granted/);
  assert.throws(() => receiver().receiveEnd(RUN, 4, "end"), /counted more items/);
  const early = receiver();
  early.receive(RUN, 2, items(2, 1));
  assert.throws(() => early.receiveEnd(RUN, 2, "end"), /more items than it counted/);
  const ended = receiver();
  ended.receiveEnd(RUN, 1, "end");
  assert.throws(() => ended.receive(RUN, 1, items(1, 1)), /after the end/);
  const large = new StreamReceiver<string>({ items: 100, bytes: 10 });
  large.receive(RUN, 0, [Buffer.alloc(100)]);
  assert.throws(() => large.receive(RUN, 1, [Buffer.alloc(100)]), /more bytes/);
});

test("items that arrive twice do not count twice", () => {
  const receiver = new StreamReceiver<string>({ items: 10, bytes: 30 });
  for (let i = 0; i < 100; i++) {
    receiver.receive(RUN, 0, items(0, 1));
    receiver.receive(RUN, 2, items(2, 1));
  }
  assert.deepEqual(read(receiver), ["0"]);
});

test("credit is granted once half of it is used", () => {
  const receiver = new StreamReceiver<string>({ items: 4, bytes: 1000 });
  receiver.receive(RUN, 0, items(0, 4));
  receiver.take();
  assert.equal(receiver.grant(), null);
  receiver.take();
  assert.equal(receiver.grant()!.items, 6);
  assert.equal(receiver.grant(), null);
});

test("a worker sends no more than its credit, and one item beyond its bytes", () => {
  const sender = new StreamSender({ items: 3, bytes: 2 * sizeOf(item(0)) });
  sender.push(item(0));
  assert.ok(sender.mayMake);
  sender.push(item(1));
  assert.ok(!sender.mayMake);
  assert.deepEqual(sender.next(), {
    first: 0,
    items: items(0, 2),
    credit: { items: 3, bytes: 18 },
  });
  assert.equal(sender.next(), null);
  sender.grant({ items: 3, bytes: 100 });
  sender.push(item(2));
  assert.ok(!sender.mayMake);
  // An older grant takes nothing away.
  sender.grant({ items: 10, bytes: 100 });
  sender.grant({ items: 1, bytes: 1 });
  assert.ok(sender.mayMake);
  assert.equal(sender.next()!.first, 2);
  assert.equal(sender.count, 3);
});

test("a worker gives its caller up after twelve unanswered messages", () => {
  const sender = new StreamSender({ items: 1, bytes: null });
  for (let i = 0; i < 12; i++) assert.deepEqual(sender.keepAlive()!.items, []);
  sender.grant({ items: 1, bytes: null });
  for (let i = 0; i < 12; i++) assert.ok(sender.keepAlive());
  assert.equal(sender.keepAlive(), null);
});

test("items of a caller reach the method exactly once over a bad network", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const below = random(seed);
    const sender = new ItemSender();
    const inbox = new IncomingInbox();
    const count = 3000;
    let made = 0;
    const seen: string[] = [];
    let grants = [inbox.grant()];
    let isComplete = false;
    for (let step = 0; !isComplete; step++) {
      assert.ok(step < 100_000, `seed ${seed} does not end`);
      for (const grant of grants) if (below(10) > 0) sender.grant(grant);
      grants = [];
      while (sender.mayPull && made < count && below(50) > 0) sender.push(item(made++));
      if (made === count) sender.end();
      const message = sender.next() ?? sender.keepAlive();
      const times = below(8) === 0 ? below(3) : 1;
      for (let i = 0; i < times; i++) inbox.receive(message.first, message.items, message.end);
      for (let taking = below(400); taking > 0; taking--) {
        const taken = inbox.take();
        if (taken === null) break;
        if (!("item" in taken)) {
          assert.equal(taken.error, null);
          isComplete = true;
          break;
        }
        seen.push(Buffer.from(taken.item).toString());
      }
      if (inbox.hasNews || below(20) === 0) grants.push(inbox.grant());
    }
    assert.deepEqual(seen, items(0, count).map(String), `seed ${seed}`);
  }
});

test("a caller that breaks its promises breaks its stream off", () => {
  const broken = (receive: (inbox: IncomingInbox) => void) => {
    const inbox = new IncomingInbox();
    inbox.grant();
    receive(inbox);
    for (;;) {
      const taken = inbox.take();
      if (taken === null || !("item" in taken)) return taken?.error;
    }
  };
  assert.match(
    broken((inbox) => inbox.receive(0, items(0, 1025), null))!,
    /than were granted/,
  );
  assert.match(
    broken((inbox) => inbox.receive(0, items(0, 1), 2))!,
    /than their end counts/,
  );
  const large = Array.from({ length: 6 }, () => Buffer.alloc(1024 * 1024));
  assert.match(
    broken((inbox) => inbox.receive(0, large, null))!,
    /more bytes/,
  );
  assert.equal(
    broken((inbox) => inbox.receive(0, items(0, 1), 1)),
    null,
  );
});

test("a method that has enough says so, and one that ended never looks complete", () => {
  const inbox = new IncomingInbox();
  inbox.grant();
  inbox.receive(0, items(0, 5), null);
  inbox.take();
  inbox.close();
  assert.deepEqual(inbox.grant(), { credit: 1025, taken: 1, asks: ASKS.enough });
  assert.deepEqual(inbox.take(), { error: null });
  const ended = new IncomingInbox();
  ended.grant();
  ended.receive(0, items(0, 2), 2);
  ended.endMethod("the method has ended");
  assert.deepEqual(ended.take(), { error: "the method has ended" });
});

test("a gap is asked for once, and the items are sent again from what was taken", () => {
  const inbox = new IncomingInbox();
  const sender = new ItemSender();
  sender.grant(inbox.grant());
  for (let i = 0; i < 4; i++) sender.push(item(i));
  assert.equal(sender.next()!.items.length, 4);
  inbox.receive(2, items(2, 1), null);
  inbox.receive(3, items(3, 1), null);
  const grant = inbox.grant();
  assert.equal(grant.asks, ASKS.again);
  assert.equal(inbox.hasNews, false);
  sender.grant(grant);
  assert.deepEqual(sender.next(), { first: 0, items: items(0, 4), end: null });
  assert.throws(() => sender.grant({ credit: 9, taken: 5, asks: 0 }), /not sent/);
});

test("an end may come before very many items", () => {
  const receiver = new StreamReceiver<string>({ items: 500_000, bytes: 1e9 });
  for (let first = 1; first < 300_000; first += 10_000) {
    receiver.receive(RUN, first, new Array(10_000).fill(item(1)));
  }
  assert.equal(receiver.receiveEnd(RUN, 300_001, "end").kind, "continues");
  assert.equal(receiver.receive(RUN, 0, items(0, 1)).kind, "ends");
});

test("an item does not keep the message that it came in", () => {
  const inbox = new IncomingInbox();
  inbox.grant();
  const receiver = new StreamReceiver<string>({ items: 10, bytes: 100 });
  const message = Buffer.alloc(1024 * 1024, 7);
  inbox.receive(0, [message.subarray(5, 8)], null);
  receiver.receive(RUN, 0, [message.subarray(5, 8)]);
  const taken = inbox.take();
  assert.ok(taken !== null && "item" in taken);
  for (const kept of [taken.item, receiver.take()!]) {
    assert.deepEqual([...kept], [7, 7, 7]);
    assert.ok(kept.buffer.byteLength < 10_000);
  }
});
