import assert from "node:assert/strict";
import { test } from "node:test";

import { repairFirstFrame } from "../../src/transport/guard.js";

function headerFrame(properties: Buffer): Buffer {
  const payload = Buffer.concat([Buffer.of(0, 60, 0, 0), Buffer.alloc(8), properties]);
  const head = Buffer.of(2, 0, 1, 0, 0, 0, 0);
  head.writeUInt32BE(payload.length, 3);
  return Buffer.concat([head, payload, Buffer.of(0xce)]);
}

const long = (bytes: Buffer) => {
  const size = Buffer.alloc(4);
  size.writeUInt32BE(bytes.length);
  return Buffer.concat([size, bytes]);
};
const short = (text: string | Buffer) => {
  const bytes = Buffer.from(text);
  return Buffer.concat([Buffer.of(bytes.length), bytes]);
};
const correlation = 1 << 10;
const withFlags = (flags: number, ...parts: Buffer[]) =>
  headerFrame(Buffer.concat([Buffer.of(flags >> 8, flags & 0xff), ...parts]));

test("valid frames, and those that are not complete, stay as they are", () => {
  const table = Buffer.from([0, 0, 0, 4, 1, 0x78, 0x74, 1]);
  const valid = withFlags((1 << 13) | (1 << 12) | correlation, table, Buffer.of(2), short("é"));
  assert.equal(repairFirstFrame(valid), valid);
  const bad = withFlags(correlation, short(Buffer.of(0xff)));
  for (let size = 0; size < bad.length; size++) {
    const part = bad.subarray(0, size);
    assert.equal(repairFirstFrame(part), part);
  }
  const other = Buffer.from(bad);
  other[0] = 1;
  assert.equal(repairFirstFrame(other), other);
});

test("malformed properties are replaced, and what follows stays", () => {
  const next = Buffer.from("next");
  const frames: [Buffer, string][] = [
    [withFlags(correlation, short(Buffer.of(0xff))), "correlation_id is not UTF-8"],
    [withFlags(correlation), "the properties are not complete"],
    [withFlags(1 << 13, Buffer.from([0, 0, 0, 3, 1, 0x78, 0x3f])), "a header has an unknown type"],
    [
      withFlags(1 << 13, Buffer.from([0, 0, 0, 3, 9, 0x78, 0x3f])),
      "the headers are not a valid table",
    ],
  ];
  for (const [frame, problem] of frames) {
    const repaired = repairFirstFrame(Buffer.concat([frame, next]));
    assert.ok(repaired.includes(Buffer.from(problem)), problem);
    assert.ok(repaired.subarray(-4).equals(next));
    assert.equal(repaired.readUInt32BE(3) + 8, repaired.length - next.length);
    // What was repaired is valid.
    assert.equal(repairFirstFrame(repaired), repaired);
  }
});

test("what can be read of malformed properties is kept", () => {
  const flags = correlation | (1 << 9) | (1 << 5);
  const frame = withFlags(flags, short("the id"), short("the address"), short(Buffer.of(0xff)));
  const repaired = repairFirstFrame(frame);
  assert.ok(repaired.includes("the id") && repaired.includes("the address"));
});

test("what follows the first malformed property is kept too", () => {
  const deaths = Buffer.concat([short("x-death"), Buffer.from("A"), long(Buffer.alloc(9, "V"))]);
  const flags = (1 << 15) | (1 << 13) | correlation | (1 << 9);
  const bad = short(Buffer.of(0xff));
  for (const table of [Buffer.alloc(0), deaths, Buffer.from([1, 0x78, 0x3f])]) {
    const frame = withFlags(flags, bad, long(table), short("the id"), short("the address"));
    const repaired = repairFirstFrame(frame);
    assert.ok(repaired.includes("content_type is not UTF-8"));
    assert.ok(repaired.includes(Buffer.concat([short("the id"), short("the address")])));
    assert.equal(repaired.includes(deaths), table === deaths);
    assert.equal(repaired.includes("rpc-unknown-deaths"), table.length === 3);
  }
});

test("no bytes make the guard throw", () => {
  let seed = 1;
  for (let i = 0; i < 20_000; i++) {
    const bytes = Buffer.from(
      Array.from({ length: 40 }, () => {
        seed = (seed * 1103515245 + 12345) & 0x7fffffff;
        return (seed >> 16) & 0xff;
      }),
    );
    const repaired = repairFirstFrame(headerFrame(bytes));
    assert.equal(repairFirstFrame(repaired), repaired);
  }
});

test("the history of a malformed message is kept, or said to be unknown", () => {
  const bad = Buffer.concat([short(Buffer.of(0xff)), Buffer.from("t"), Buffer.of(1)]);
  const history = (size: number) =>
    Buffer.concat([short("x-death"), Buffer.from("A"), long(Buffer.alloc(size, "V"))]);
  const repaired = (...fields: Buffer[]) =>
    repairFirstFrame(withFlags(1 << 13, long(Buffer.concat(fields))));
  const unknown = "rpc-unknown-deaths";
  for (const kept of [repaired(bad, history(9)), repaired(history(9), bad)]) {
    assert.ok(kept.includes(history(9)) && !kept.includes(unknown));
  }
  assert.ok(!repaired(bad).includes(unknown));
  for (const fields of [
    [bad, history(2000)],
    [bad, history(9), history(9)],
    [history(9), bad, short("y"), Buffer.from("?")],
    [bad, short("x-death"), Buffer.from("A"), long(Buffer.from("?"))],
  ]) {
    assert.ok(repaired(...fields).includes(unknown));
    assert.equal(repairFirstFrame(repaired(...fields)).includes("x-death"), false);
  }
});
