import assert from "node:assert/strict";
import { test } from "node:test";

import * as reference from "@msgpack/msgpack";

import { codecOf, isPlainEncoding } from "../../src/codec/content-type.js";
import * as json from "../../src/codec/json.js";
import * as messagePack from "../../src/codec/message-pack.js";

const samples: unknown[] = [
  null,
  true,
  false,
  ...[0, 1, 127, 128, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1],
  ...[-1, -32, -33, -128, -129, -32768, -32769, -(2 ** 31), -(2 ** 31) - 1],
  ...[0.5, 1e300, Infinity],
  ...["", "a".repeat(31), "a".repeat(32), "é".repeat(200), "x".repeat(70000)],
  ...[[], [1, [2]], Array.from({ length: 20 }, (_, i) => i), new Array(70000).fill(1)],
  ...[{}, { a: 1, b: { c: "d" } }, Object.fromEntries(samplesOf(20))],
  ...[Buffer.alloc(0), Buffer.alloc(300, 7), Buffer.alloc(70000, 1)],
];

function samplesOf(count: number): [string, number][] {
  return Array.from({ length: count }, (_, i) => [`key${i}`, i]);
}

test("MessagePack is read and written as by another implementation", () => {
  for (const sample of samples) {
    const bytes = messagePack.encode(sample);
    const options = { useBigInt64: false };
    assert.deepEqual(normal(reference.decode(bytes, options)), normal(sample));
    assert.deepEqual(normal(messagePack.decode(reference.encode(sample))), normal(sample));
    assert.deepEqual(normal(messagePack.decode(bytes)), normal(sample));
  }
});

test("the sign of zero stays", () => {
  assert.ok(Object.is(messagePack.decode(messagePack.encode(-0)), -0));
  assert.ok(Object.is(json.decode(json.encode(-0)), -0));
});

function normal(value: unknown): unknown {
  return value instanceof Uint8Array ? Buffer.from(value).toString("hex") : value;
}

test("MessagePack holds integers of 64 bits exactly", () => {
  for (const value of [2n ** 64n - 1n, 2n ** 53n, -(2n ** 63n)]) {
    assert.equal(messagePack.decode(messagePack.encode(value)), value);
  }
  assert.equal(messagePack.decode(messagePack.encode(5n)), 5);
  assert.throws(() => messagePack.encode(2n ** 64n), /64 bits/);
});

test("maps may have keys that are no strings", () => {
  const map = new Map<unknown, unknown>([
    [1, "a"],
    [true, "b"],
    ["c", "d"],
  ]);
  assert.deepEqual(messagePack.decode(messagePack.encode(map)), map);
  assert.equal(json.encode(map), '{"1":"a","true":"b","c":"d"}');
});

test("bad MessagePack is an error", () => {
  const bad: [number[], RegExp][] = [
    [[], /not complete/],
    [[0x92, 1], /not complete/],
    [[0xdd, 0xff, 0xff, 0xff, 0xff], /not complete/],
    [[0xc6, 0xff, 0xff, 0xff, 0xff, 1], /not complete/],
    [[1, 2], /after the value/],
    [[0xa1, 0xff], /not UTF-8/],
    [[0xd4, 1, 2], /extensions/],
    [new Array(200).fill(0x91), /too deeply/],
  ];
  for (const [bytes, problem] of bad) {
    assert.throws(() => messagePack.decode(Buffer.from(bytes)), problem);
  }
});

test("a body has a limited number of arrays, maps and binaries", () => {
  const arrayOf = (unit: number[], count: number) => {
    const body = Buffer.alloc(5 + unit.length * count);
    body[0] = 0xdd;
    body.writeUInt32BE(count, 1);
    return body.fill(Buffer.from(unit), 5);
  };
  for (const unit of [[0x90], [0x80], [0xc4, 0], [0x81, 0, 0]]) {
    // The outer array counts too.
    const allowed = messagePack.decode(arrayOf(unit, messagePack.MAX_CONTAINERS - 1));
    assert.equal((allowed as unknown[]).length, messagePack.MAX_CONTAINERS - 1);
    const more = arrayOf(unit, messagePack.MAX_CONTAINERS);
    assert.throws(() => messagePack.decode(more), /too many arrays and maps/);
  }
  // Numbers and text do not count.
  const numbers = messagePack.decode(arrayOf([1], 2 * messagePack.MAX_CONTAINERS));
  assert.equal((numbers as unknown[]).length, 2 * messagePack.MAX_CONTAINERS);
});

test("JSON holds long integers exactly", () => {
  assert.deepEqual(json.decode("[18446744073709551615,1,1.5,1e3]"), [2n ** 64n - 1n, 1, 1.5, 1000]);
  assert.deepEqual(json.decode("[0.12345678901234567890]"), [0.12345678901234568]);
  assert.equal(json.encode(2n ** 100n), "1267650600228229401496703205376");
});

test("the keys of a map in JSON mean the same beside a long integer", () => {
  for (const number of ["1", "12345678901234567"]) {
    const map = json.decode(`{"a":1,"a":2,"a":2,"__proto__":3,"n":${number}}`) as object;
    assert.deepEqual(Object.entries(map).slice(0, 2), [
      ["a", 2],
      ["__proto__", 3],
    ]);
    assert.equal(Object.getPrototypeOf(map), Object.prototype);
  }
});

test("arrays may be nested 127 times in both codecs", () => {
  const nested = (levels: number): unknown => (levels === 0 ? 1 : [nested(levels - 1)]);
  const json128 = `${"[".repeat(128)}${"]".repeat(128)}`;
  const messagePack128 = Buffer.from([...new Array<number>(127).fill(0x91), 0x90]);
  assert.deepEqual(json.decode(json.encode(nested(127))), nested(127));
  assert.deepEqual(messagePack.decode(messagePack.encode(nested(127))), nested(127));
  for (const refused of [
    () => json.encode(nested(128)),
    () => json.decode(json128),
    () => messagePack.encode(nested(128)),
    () => messagePack.decode(messagePack128),
  ]) {
    assert.throws(refused, /too deeply/);
  }
});

test("bad JSON is an error that does not repeat it", () => {
  const of = (text: string) => {
    try {
      json.decode(text);
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  for (const text of ["secret", "{", "NaN", "[1234567890123456789,]", ""]) {
    assert.equal(of(text), "the text is no valid JSON");
  }
  assert.match(of("[".repeat(100_000)), /too deeply/);
  assert.equal(of(JSON.stringify("[".repeat(1000))), "");
  assert.throws(() => json.encode(NaN), /no NaN/);
});

test("content types have several names", () => {
  assert.equal(codecOf(undefined), "none");
  assert.equal(codecOf("application/octet-stream"), "none");
  assert.equal(codecOf("Application/X-MsgPack"), "msgpack");
  assert.equal(codecOf('application/json; charset="UTF-8"'), "json");
  assert.equal(codecOf("text/plain;charset=latin1"), "unknown");
  assert.equal(codecOf("application/xml"), "unknown");
  assert.equal(codecOf("constructor"), "unknown");
  assert.ok(isPlainEncoding("identity") && isPlainEncoding(undefined) && !isPlainEncoding("gzip"));
});

test("any text may be a key of a map", () => {
  const map = messagePack.decode(messagePack.encode(new Map([["__proto__", 1]])));
  assert.deepEqual(Object.entries(map as object), [["__proto__", 1]]);
  assert.equal(Object.getPrototypeOf(map), Object.prototype);
  const mixed = new Map<unknown, unknown>([
    ["__proto__", 1],
    [2, 3],
  ]);
  assert.deepEqual(messagePack.decode(messagePack.encode(mixed)), mixed);
});
