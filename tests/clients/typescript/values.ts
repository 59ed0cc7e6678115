// Values of every type, at their limits, which come back as they were.
import assert from "node:assert/strict";

import * as rpc from "rpc-runtime";

import type * as api from "./conformance.js";
import { echo, fails, type Case } from "./context.js";

/** Text that encoders get wrong. */
export const TEXTS = [
  "",
  "a",
  "na\u00efve \u20ac",
  "\0 in a\0text\0",
  '"quotes" \\ / \b\f\n\r\t\x1f\x7f',
  "\u2028\u2029",
  "\ufffd\uffff\ufeff",
  "\u{1d11e}\u{1f980}\u{10ffff}",
  "e\u0301\u{1f469}\u200d\u{1f52c}",
];

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, index) => index);
const F32_MAX = Math.fround(3.4028234663852886e38);

/** The limits of an integer's type, what lies between the forms of MessagePack, and 2^53. */
function integers(least: bigint, greatest: bigint): Set<bigint> {
  const found = new Set([least, 0n, 1n, greatest]);
  for (const bits of [7n, 8n, 15n, 16n, 31n, 32n, 53n, 63n, 64n, 100n, 126n, 127n]) {
    const power = 2n ** bits;
    for (const near of [power - 1n, power, power + 1n, 33n, 32n]) {
      for (const value of [near, -near]) {
        if (least <= value && value <= greatest) found.add(value);
      }
    }
  }
  return found;
}

const signed = (bits: bigint) => integers(-(2n ** (bits - 1n)), 2n ** (bits - 1n) - 1n);
const unsigned = (bits: bigint) => integers(0n, 2n ** bits - 1n);
const numbersOf = (values: Iterable<bigint>) => Array.from(values, Number);

/** A person with everything, who was invited by one with only what is necessary. */
export function personNamed(name: string, inviting: api.Person = stranger()): api.Person {
  return {
    id: 1n,
    fullName: name,
    bornOn: "2000-02-29",
    home: { street: "Stra\u00dfe 2", "ZIP-code": "01234", class: "first" },
    invitedBy: inviting,
    favourite: "dark-blue",
    nickNames: ["al", "\u{1f980}"],
  };
}

/** A person whose optional values have their defaults, as every worker answers them. */
function stranger(): api.Person {
  return {
    id: 2n ** 64n - 1n,
    fullName: "",
    bornOn: "1969-12-31",
    home: { street: "Road 1", "ZIP-code": null, class: null },
    invitedBy: null,
    favourite: "red",
    nickNames: [],
  };
}

/** One shape of each kind. */
export function shapes(): api.Shape[] {
  return [
    { kind: "Nothing" },
    { kind: "Circle", value: 0.1 },
    { kind: "Owned", value: personNamed("Alice") },
    {
      kind: "Line",
      value: [
        [0, 1],
        [-1, 1e300],
      ],
    },
    { kind: "Rectangle", value: { width: 1, height: -0.5, fill: null } },
    { kind: "Rectangle", value: { width: 1, height: -0.5, fill: "green" } },
    { kind: "Group", value: [] },
    {
      kind: "Group",
      value: [{ kind: "Nothing" }, { kind: "Group", value: [{ kind: "Circle", value: 2 }] }],
    },
  ];
}

export const values: Record<string, Case> = {
  text: ({ client }) =>
    echo((value) => client.echoText(value), [...TEXTS, "\u20ac\u{1f980}x".repeat(20_000)]),

  bytes: async ({ client }) => {
    const large = Buffer.concat(Array.from({ length: 300 }, () => EVERY_BYTE));
    const all = [new Uint8Array(), Uint8Array.of(0), new Uint8Array(300).fill(255), EVERY_BYTE];
    for (const value of [...all, large]) {
      const back = await client.echoBytes(value);
      assert(back instanceof Uint8Array);
      assert(Buffer.from(back).equals(value), `${value.length} bytes came back differently`);
    }
  },

  character: ({ client }) =>
    echo(
      (value) => client.echoChar(value),
      ["a", "\0", '"', "\u00df", "\uffff", "\u{1d11e}", "\u{10ffff}"],
    ),

  truth: ({ client }) => echo((value) => client.echoBool(value), [true, false]),

  unit: async ({ client }) => {
    await client.echoUnit(null);
  },

  i8: ({ client }) => echo((value) => client.echoI8(value), numbersOf(signed(8n))),
  i16: ({ client }) => echo((value) => client.echoI16(value), numbersOf(signed(16n))),
  i32: ({ client }) => echo((value) => client.echoI32(value), numbersOf(signed(32n))),
  i64: ({ client }) => echo((value) => client.echoI64(value), signed(64n)),
  i128: ({ client }) => echo((value) => client.echoI128(value), signed(128n)),
  u8: ({ client }) => echo((value) => client.echoU8(value), numbersOf(unsigned(8n))),
  u16: ({ client }) => echo((value) => client.echoU16(value), numbersOf(unsigned(16n))),
  u32: ({ client }) => echo((value) => client.echoU32(value), numbersOf(unsigned(32n))),
  u64: ({ client }) => echo((value) => client.echoU64(value), unsigned(64n)),
  u128: ({ client }) => echo((value) => client.echoU128(value), unsigned(128n)),

  f32: ({ client }) => {
    const limits = [F32_MAX, -F32_MAX, 2 ** -126, 2 ** -149, 2 ** -23];
    const others = [0, -0, 1, -1.5, Math.fround(0.1), 16_777_216];
    return echo((value) => client.echoF32(value), [...others, ...limits]);
  },

  f64: ({ client }) => {
    const greatest = Number.MAX_VALUE;
    const limits = [greatest, -greatest, 2 ** -1022, Number.MIN_VALUE, Number.EPSILON];
    const others = [0.1, 1 / 3, 1e21, 1e-7, 2 ** 53, 1e300];
    return echo((value) => client.echoF64(value), [0, -0, 1, -1.5, ...others, ...limits]);
  },

  not_finite_numbers: async ({ client, codec }) => {
    const methods = [
      (value: number) => client.echoF64(value),
      (value: number) => client.echoF32(value),
    ];
    for (const method of methods) {
      for (const value of [Infinity, -Infinity, NaN]) {
        if (codec === "msgpack") {
          assert.equal(await method(value), value);
          continue;
        }
        const error = await fails(method(value), rpc.EncodeFailed);
        assert.equal(error.executed, "no");
      }
    }
  },

  numbers: ({ client }) => {
    const greatest: api.Numbers = {
      i8: 127,
      i16: 32_767,
      i32: 2_147_483_647,
      i64: 2n ** 63n - 1n,
      i128: 2n ** 127n - 1n,
      u8: 255,
      u16: 65_535,
      u32: 4_294_967_295,
      u64: 2n ** 64n - 1n,
      u128: 2n ** 128n - 1n,
      f32: F32_MAX,
      f64: Number.MAX_VALUE,
    };
    const least: api.Numbers = {
      i8: -128,
      i16: -32_768,
      i32: -2_147_483_648,
      i64: -(2n ** 63n),
      i128: -(2n ** 127n),
      u8: 0,
      u16: 0,
      u32: 0,
      u64: 0n,
      u128: 0n,
      f32: -F32_MAX,
      f64: -Number.MAX_VALUE,
    };
    return echo((value) => client.echoNumbers(value), [greatest, least]);
  },

  containers: ({ client }) => {
    const full: api.Containers = {
      lists: [[], ["a", ""]],
      holes: [null, true, null, false],
      tuple: [255, "\u{1f980}", true],
      array: [-32_768, 0, 32_767],
      by_name: { "": 0n, ["__proto__"]: 2n ** 64n - 1n },
      by_number: new Map([
        [0n, []],
        [4_294_967_295n, ["max"]],
      ]),
      by_signed: new Map([
        [-(2n ** 63n), true],
        [-1n, false],
        [2n ** 63n - 1n, true],
      ]),
      bytes: Array.from(EVERY_BYTE),
      character: "\u{1d11e}",
      nothing: null,
      maybe: 4_294_967_295,
    };
    const empty: api.Containers = {
      lists: [],
      holes: [],
      tuple: [0, "", null],
      array: [0, 0, 0],
      by_name: {},
      by_number: new Map(),
      by_signed: new Map(),
      bytes: [],
      character: " ",
      nothing: null,
      maybe: null,
    };
    return echo((value) => client.echoContainers(value), [full, empty]);
  },

  person: async ({ client }) => {
    let last = personNamed("0");
    for (let number = 1; number < 10; number++) last = personNamed(String(number), last);
    await echo((value) => client.echoPerson(value), [personNamed("Alice"), last]);
    // Values that are left out may stay so, or become their defaults.
    const { favourite: _, nickNames: __, ...bare } = stranger();
    const { favourite = "red", nickNames = [], ...back } = await client.echoPerson(bare);
    assert.deepEqual({ ...back, favourite, nickNames }, stranger());
  },

  page: ({ client }) => {
    const items = [personNamed("Alice"), personNamed("Bob")];
    return echo<api.Page>(
      (value) => client.echoPage(value),
      [
        { items: [], next: null },
        { items, next: 2n ** 64n - 1n },
      ],
    );
  },

  tree: ({ client }) => {
    const leaf = (value: bigint): api.Tree => ({ value, children: [] });
    const children = Array.from({ length: 1000 }, (_, index) => leaf(BigInt(index)));
    let deep = leaf(-(2n ** 63n));
    for (let value = 0n; value < 40n; value++) deep = { value, children: [deep] };
    const trees = [leaf(2n ** 63n - 1n), { value: 0n, children }, deep];
    return echo((value) => client.echoTree(value), trees);
  },

  user_id: ({ client }) => echo((value) => client.echoUserId(value), [0n, 2n ** 64n - 1n]),

  pair: ({ client }) =>
    echo<api.Pair>(
      (value) => client.echoPair(value),
      [
        [0, ""],
        [255, "b"],
      ],
    ),

  marker: ({ client }) => echo((value) => client.echoMarker(value), [null]),

  color: ({ client }) =>
    echo<api.Color>((value) => client.echoColor(value), ["red", "green", "dark-blue"]),

  direction: ({ client }) =>
    echo<api.Direction>((value) => client.echoDirection(value), ["North", "East", "South", "West"]),

  shape: ({ client }) => echo((value) => client.echoShape(value), shapes()),

  event: ({ client }) =>
    echo<api.Event>(
      (value) => client.echoEvent(value),
      [
        { type: "started" },
        { type: "joined", street: "Road 1", "ZIP-code": null, class: null },
        { type: "joined", street: "Road 1", "ZIP-code": "1", class: "1" },
        { type: "moved", x: -2_147_483_648, y: 2_147_483_647 },
      ],
    ),

  command: ({ client }) =>
    echo<api.Command>(
      (value) => client.echoCommand(value),
      [
        { t: "Stop" },
        { t: "Wait", c: 2n ** 64n - 1n },
        { t: "Go", c: [-2_147_483_648, 2_147_483_647] },
        { t: "Say", c: { text: "hello", times: null } },
        { t: "Say", c: { text: "hello", times: 255 } },
      ],
    ),

  scalar: ({ client }) =>
    echo<api.Scalar>(
      (value) => client.echoScalar(value),
      [-(2n ** 63n), 0n, 2n ** 63n - 1n, "", "7", [true, "b"], { name: "n" }, null],
    ),

  option: ({ client }) => echo((value) => client.echoOption(value), [null, 0n, 2n ** 64n - 1n]),

  list: ({ client }) => {
    const long = Array.from({ length: 5000 }, (_, index) => BigInt(index));
    return echo((value) => client.echoList(value), [[], [-(2n ** 63n), 2n ** 63n - 1n], long]);
  },

  tuple: ({ client }) =>
    echo<[bigint, string]>(
      (value) => client.echoTuple(value),
      [
        [0n, ""],
        [2n ** 64n - 1n, "b"],
      ],
    ),

  map: ({ client }) => {
    const names = [...TEXTS, "__proto__", "constructor", "1", "-0"];
    const named = Object.fromEntries(names.map((name) => [name, 2n ** 64n - 1n]));
    return echo((value) => client.echoMap(value), [{}, named]);
  },

  numbered: ({ client }) => {
    const keys = [0n, 1n, 127n, 128n, 2n ** 53n + 1n, 2n ** 64n - 1n];
    const numbered = new Map(keys.map((key) => [key, String(key)]));
    return echo((value) => client.echoNumbered(value), [new Map(), numbered]);
  },
};
