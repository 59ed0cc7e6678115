import assert from "node:assert/strict";
import { test } from "node:test";

import * as messagePack from "../../src/codec/message-pack.js";
import * as control from "../../src/protocol/control.js";
import { uuidBytes } from "../../src/protocol/uuid.js";

const id = "00112233-4455-4677-8899-aabbccddeeff";
const hex = (bytes: Buffer) => bytes.toString("hex");

test("the messages of streams are those of the protocol's page", () => {
  const items = control.encodeItems({
    first: 0,
    items: [Buffer.from("99"), Buffer.from("101")],
    credit: { items: 2, bytes: null },
  });
  assert.equal(hex(items), "930092c4023939c40331303102");
  assert.equal(
    hex(control.encodeGrant(id, { items: 3, bytes: null })),
    "9192c41000112233445546778899aabbccddeeff03",
  );
  assert.equal(
    hex(control.encodeCancellations([{ id, leftMs: 30_000 }])),
    "9192c41000112233445546778899aabbccddeeffcd7530",
  );
  assert.equal(
    hex(control.encodeIncomingGrant({ credit: 1024, taken: 0, asks: 0 })),
    "93cd04000000",
  );
});

test("messages of streams are read as they were written, and further elements are skipped", () => {
  const body = { first: 7, items: [Buffer.from("a")], credit: { items: 9, bytes: 1e9 } };
  assert.deepEqual(control.decodeItems(control.encodeItems(body)), body);
  const grant = { id, credit: { items: 1, bytes: 2 } };
  assert.deepEqual(control.decodeGrants(control.encodeGrant(id, grant.credit)), [grant]);
  assert.deepEqual(control.decodeGrants(Buffer.from("9192c40161 01".replace(" ", ""), "hex")), []);
  const longer = Buffer.from("94010200a178", "hex");
  assert.deepEqual(control.decodeIncomingGrant(longer), { credit: 1, taken: 2, asks: 0 });
});

test("messages that cannot be read are errors", () => {
  const bad = ["c0", "90", "93ff90 00", "930091a16100", "93cb3ff80000000000009000"];
  for (const body of bad) {
    assert.throws(() => control.decodeItems(Buffer.from(body.replace(" ", ""), "hex")), body);
  }
  assert.throws(() => control.decodeGrants(Buffer.from("dd00000401", "hex")));
});

test("a message with millions of values is not read", () => {
  // An array of 2^22 elements, each of them an empty map.
  const body = Buffer.alloc(5 + 2 ** 22, 0x80);
  body[0] = 0xdd;
  body.writeUInt32BE(2 ** 22, 1);
  const items = Buffer.concat([Buffer.of(0x92, 0), body]);
  for (const decode of [
    control.decodeGrants,
    control.decodeCancellations,
    control.decodeIncomingGrant,
  ]) {
    assert.throws(() => decode(body), /too many values/);
  }
  assert.throws(() => control.decodeItems(items), /too many values/);
  // As many elements as there may be, each with further ones, are fine.
  const grant = [uuidBytes(id), 1, 2, 3, 4, 5];
  assert.equal(control.decodeGrants(messagePack.encode(new Array(1024).fill(grant))).length, 1024);
  const all = {
    first: 0,
    items: new Array(16_384).fill(Buffer.alloc(0)),
    credit: { items: 0, bytes: null },
  };
  assert.equal(control.decodeItems(control.encodeItems(all)).items.length, 16_384);
});
