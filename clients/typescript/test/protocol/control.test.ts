import assert from "node:assert/strict";
import { test } from "node:test";

import * as control from "../../src/protocol/control.js";

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
