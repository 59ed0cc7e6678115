import assert from "node:assert/strict";
import { test } from "node:test";

import { t, ValueError, type Type } from "rpc-runtime";

import { decodeValue, encodeValue } from "../../src/codec/values.js";
import { Color, Event, Everything, Id, Setting, Shape, Tree, User } from "../service.js";

const user: User = {
  id: "user:1",
  userName: "Ann",
  age: 41,
  balance: -(2n ** 62n) - 1n,
  color: "dark-green",
  tags: ["a", "b"],
  note: null,
};

function roundTrip<T>(codec: "msgpack" | "json", type: Type<T>, value: T): T {
  return decodeValue(codec, type, encodeValue(codec, type, value));
}

function problemOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof ValueError, String(error));
    return error.message;
  }
  return "";
}

const everything: Everything = {
  small: -32768,
  wide: 2n ** 128n - 1n,
  real: 0.1,
  data: Uint8Array.of(0, 255),
  byNumber: new Map([[4294967295, "x"]]),
  byName: { __proto__x: 1, "": 2 },
  pair: [true, "é"],
  shapes: [
    { kind: "Circle", value: { radius: 1.5 } },
    { kind: "Square", value: 2 },
    { kind: "Line", value: [1, 2.5] },
    { kind: "Point" },
  ],
  events: [{ type: "created", by: "Ann" }, { type: "deleted" }],
  settings: [{ t: "size", c: 7 }, { t: "names", c: ["x"] }, { t: "off" }],
  ids: [18446744073709551615n, "text"],
  tree: { value: 1, children: [{ value: -1, children: [] }] },
  anything: { nested: [1, null] },
};

test("values return from both codecs as they were", () => {
  for (const codec of ["msgpack", "json"] as const) {
    assert.deepEqual(roundTrip(codec, Everything, everything), {
      ...everything,
      data: codec === "msgpack" ? Buffer.from(everything.data) : everything.data,
    });
    assert.deepEqual(roundTrip(codec, User, user), user);
  }
});

test("JSON is what serde writes", () => {
  const json = <T>(type: Type<T>, value: T) => encodeValue("json", type, value).toString();
  assert.equal(
    json(Shape, { kind: "Circle", value: { radius: 1.5 } }),
    '{"Circle":{"radius":1.5}}',
  );
  assert.equal(json(Shape, { kind: "Square", value: 2 }), '{"Square":2}');
  assert.equal(json(Shape, { kind: "Line", value: [1, 2] }), '{"Line":[1,2]}');
  assert.equal(json(Shape, { kind: "Point" }), '"Point"');
  assert.equal(json(Event, { type: "created", by: "x" }), '{"type":"created","by":"x"}');
  assert.equal(json(Event, { type: "deleted" }), '{"type":"deleted"}');
  assert.equal(json(Setting, { t: "size", c: 1 }), '{"t":"size","c":1}');
  assert.equal(json(Setting, { t: "off" }), '{"t":"off"}');
  assert.equal(json(Id, 2n ** 64n - 1n), "18446744073709551615");
  assert.equal(json(t.u128, 2n ** 100n), "1267650600228229401496703205376");
  assert.equal(json(t.bytes, Uint8Array.of(1, 2)), "[1,2]");
  assert.equal(json(t.map(t.bool, t.u8), new Map([[true, 1]])), '{"true":1}');
  assert.equal(json(t.unit, null), "null");
});

test("text is valid Unicode", () => {
  for (const type of [t.string, t.char]) {
    assert.throws(() => type.toPlain("\ud800"), /lone surrogates/);
    assert.throws(() => type.fromPlain("\ud800"), /lone surrogates/);
  }
  assert.equal(t.string.fromPlain("\ud83e\udd80"), "\u{1f980}");
});

test("floats of 32 bits are rounded to them", () => {
  assert.equal(t.f32.fromPlain(0.1), Math.fround(0.1));
  assert.equal(t.f64.fromPlain(0.1), 0.1);
  assert.equal(t.f32.fromPlain(Infinity), Infinity);
});

test("floats in plain text are those of Rust", () => {
  for (const type of [t.f32, t.f64]) {
    for (const [value, text] of [
      [1.5, "1.5"],
      [0, "0"],
      [-0, "-0"],
      [Infinity, "inf"],
      [-Infinity, "-inf"],
      [NaN, "NaN"],
      [100, "100"],
      [2 ** -4, "0.0625"],
    ] as const) {
      assert.equal(encodeValue("text", type, value).toString(), text);
      assert.equal(decodeValue("text", type, Buffer.from(text)), value);
    }
    for (const text of ["+infinity", " INF\n"]) assert.equal(type.text!.parse(text), Infinity);
    assert.equal(type.text!.parse("nan"), NaN);
    const invalid = ["toString", "constructor", "__proto__", "", "+", "1_0", "1 0", "0x1"];
    for (const text of invalid) assert.throws(() => type.text!.parse(text), /expected a number/);
  }
  // Rust writes no exponent, and the fewest digits that a type needs.
  for (const [type, value, text] of [
    [t.f64, 2 ** 70, "1180591620717411300000"],
    [t.f64, -1.5e-7, "-0.00000015"],
    [t.f64, 5e-324, `0.${"0".repeat(323)}5`],
    [t.f64, 1.7976931348623157e308, `17976931348623157${"0".repeat(292)}`],
    [t.f64, 123456.789, "123456.789"],
    [t.f64, 0.1 + 0.2, "0.30000000000000004"],
    [t.f32, 2 ** 70, "1180591600000000000000"],
    [t.f32, Math.fround(0.1), "0.1"],
    [t.f32, Math.fround(1.1e-12), "0.0000000000011"],
    [t.f32, 16777217, "16777216"],
    [t.f32, 1e300, "inf"],
    [t.f32, 2 ** -149, `0.${"0".repeat(44)}1`],
    [t.f32, Math.fround(3.4028235e38), `34028235${"0".repeat(31)}`],
  ] as const) {
    assert.equal(encodeValue("text", type, value).toString(), text);
  }
  assert.equal(t.f32.text!.parse("0.1"), Math.fround(0.1));
  assert.equal(t.f64.text!.parse("0.1"), 0.1);
});

test("white space around numbers and booleans in plain text is ignored", () => {
  const types: [Type<any>, unknown][] = [
    [t.u8, 7],
    [t.i64, 7n],
    [t.u128, 7n],
    [t.f64, 7],
  ];
  for (const [type, value] of types) assert.equal(type.text!.parse(" 7\n"), value);
  assert.equal(t.bool.text!.parse(" true\n"), true);
  assert.equal(t.string.text!.parse(" 7\n"), " 7\n");
});

test("an integer is never a negative zero", () => {
  for (const type of [t.i32, t.u8]) {
    assert.equal(type.toPlain(-0), 0);
    assert.equal(type.fromPlain(-0), 0);
    assert.equal(encodeValue("json", type, -0).toString(), "0");
  }
});

test("a struct without fields is an empty array or null", () => {
  assert.equal(t.unit.fromPlain([]), null);
  assert.equal(t.unit.fromPlain(null), null);
  assert.throws(() => t.unit.fromPlain([1]), /expected nothing/);
});

test("integers have limits", () => {
  const limits: [Type<any>, number | bigint, number | bigint][] = [
    [t.i8, -128, 127],
    [t.u8, 0, 255],
    [t.i16, -32768, 32767],
    [t.u16, 0, 65535],
    [t.i32, -2147483648, 2147483647],
    [t.u32, 0, 4294967295],
    [t.i64, -(2n ** 63n), 2n ** 63n - 1n],
    [t.u64, 0n, 2n ** 64n - 1n],
    [t.i128, -(2n ** 127n), 2n ** 127n - 1n],
    [t.u128, 0n, 2n ** 128n - 1n],
  ];
  for (const [type, min, max] of limits) {
    for (const codec of ["msgpack", "json"] as const) {
      assert.equal(roundTrip(codec, type, min), min);
      assert.equal(roundTrip(codec, type, max), max);
    }
    const expected = `expected an integer from ${min} to ${max}`;
    const [below, above] =
      typeof min === "bigint" ? [min - 1n, (max as bigint) + 1n] : [min - 1, (max as number) + 1];
    assert.equal(
      problemOf(() => type.toPlain(below)),
      expected,
    );
    assert.equal(
      problemOf(() => type.fromPlain(above)),
      expected,
    );
    assert.equal(
      problemOf(() => type.fromPlain(0.5)),
      expected,
    );
    assert.match(
      problemOf(() => type.fromPlain(true)),
      /^expected an integer .* not a boolean$/,
    );
  }
  assert.match(
    problemOf(() => t.u64.toPlain(1 as unknown as bigint)),
    /^expected a bigint/,
  );
});

test("large integers are text in MessagePack, and their 16 bytes are read too", () => {
  assert.deepEqual([...encodeValue("msgpack", t.i128, -1n)], [0xa2, 0x2d, 0x31]);
  assert.equal(t.i128.fromPlain(Buffer.alloc(16, 0xff)), -1n);
  assert.equal(t.u128.fromPlain(Buffer.alloc(16, 0xff)), 2n ** 128n - 1n);
});

test("errors name the path", () => {
  const users = t.list(User);
  const plain = (change: object) => [users.toPlain([user]), change].flat();
  const read = (changed: object) =>
    problemOf(() => t.struct({ users }).fromPlain({ users: [{ ...user, ...changed }] }));
  assert.ok(plain({}));
  assert.equal(read({ age: 300 }), "users[0].age: expected an integer from 0 to 255");
  assert.equal(read({ tags: ["a", 1] }), "users[0].tags[1]: expected a string, not an integer");
  assert.equal(read({ id: undefined }), "users[0].id: is missing");
  assert.equal(read({ color: "Blue" }), 'users[0].color: expected one of "Red", "dark-green"');
  assert.equal(
    problemOf(() => t.record(t.u8).fromPlain({ "a b": -1 })),
    '["a b"]: expected an integer from 0 to 255',
  );
  assert.equal(
    problemOf(() => Shape.fromPlain({ Circle: { radius: "x" } })),
    "Circle.radius: expected a number, not a string",
  );
});

test("absent fields are read as serde reads them", () => {
  const { note: _, ...absent } = { ...user, balance: 1 };
  const read = User.fromPlain({ ...absent, unknown: [1] });
  assert.equal(read.note, null);
  assert.ok(!("level" in read) && !("unknown" in read));
  assert.equal(User.fromPlain({ ...absent, level: 3 }).level, 3);
  assert.ok(!encodeValue("json", User, user).toString().includes("level"));
});

test("arguments have aliases and positions", () => {
  const args = t.struct({ text: t.string, limit: t.option(t.u8) }, { text: ["query"] });
  assert.deepEqual(args.fromPlain({ query: "x" }), { text: "x", limit: null });
  assert.deepEqual(args.fromPlain(["x", 3, "later"]), { text: "x", limit: 3 });
  assert.equal(
    problemOf(() => args.fromPlain([])),
    "text: is missing",
  );
});

test("enums accept the other forms of serde", () => {
  assert.equal(Color.fromPlain({ Red: null }), "Red");
  assert.deepEqual(Shape.fromPlain({ Point: null }), { kind: "Point" });
  assert.match(
    problemOf(() => Shape.fromPlain("Circle")),
    /^Circle: has no content$/,
  );
  assert.match(
    problemOf(() => Shape.fromPlain({})),
    /one entry, not 0/,
  );
  assert.match(
    problemOf(() => Shape.fromPlain("Hexagon")),
    /^expected one of "Circle"/,
  );
  assert.match(
    problemOf(() => Event.fromPlain({ by: "x" })),
    /^type: is missing$/,
  );
  assert.equal(
    problemOf(() => Id.fromPlain(-1)),
    "fits none of the variants",
  );
  assert.match(
    problemOf(() => Shape.toPlain({ kind: "Nope" } as never)),
    /^kind: expected one of/,
  );
});

test("a key such as __proto__ is an ordinary key", () => {
  const hostile = JSON.parse('{"__proto__": 1}') as Record<string, number>;
  for (const codec of ["msgpack", "json"] as const) {
    const read = roundTrip(codec, t.record(t.u8), hostile);
    assert.deepEqual(Object.entries(read), [["__proto__", 1]]);
    assert.equal(Object.getPrototypeOf(read), Object.prototype);
  }
  assert.equal(
    problemOf(() => t.struct({ toString: t.string }).fromPlain({})),
    "toString: is missing",
  );
});

test("types that contain themselves are read to any depth that the codecs allow", () => {
  const nested = (depth: number): Tree =>
    depth === 0 ? { value: 0, children: [] } : { value: depth, children: [nested(depth - 1)] };
  assert.deepEqual(roundTrip("json", Tree, nested(50)), nested(50));
  assert.match(
    problemOf(() => encodeValue("msgpack", Tree, nested(100))),
    /nested too deeply/,
  );
});

test("plain text is a value without quotes", () => {
  const text = <T>(type: Type<T>, value: T) => encodeValue("text", type, value).toString();
  const read = <T>(type: Type<T>, value: string) => decodeValue("text", type, Buffer.from(value));
  assert.equal(text(t.string, 'a"b'), 'a"b');
  assert.equal(text(t.u64, 5n), "5");
  assert.equal(text(Color, "Red"), "Red");
  assert.equal(text(t.unit, null), "");
  assert.equal(read(t.bool, "true"), true);
  assert.equal(read(t.i64, "-7"), -7n);
  assert.equal(read(t.f64, "inf"), Infinity);
  assert.deepEqual(read(t.bytes, "ab"), Buffer.from("ab"));
  assert.match(
    problemOf(() => read(t.u8, "256")),
    /from 0 to 255/,
  );
  assert.match(
    problemOf(() => read(t.u8, "0x1")),
    /from 0 to 255/,
  );
  assert.match(
    problemOf(() => decodeValue("text", t.string, Buffer.of(0xff))),
    /not UTF-8/,
  );
});

test("a field cannot hide the tag of its variant", () => {
  const type = t.tagged("type", { circle: t.struct({ type: t.option(t.string) }), dot: null });
  // No value of this type can be written in TypeScript either.
  const circle = { type: "circle" } as never;
  for (const codec of ["msgpack", "json"] as const) {
    assert.match(
      problemOf(() => encodeValue(codec, type, circle)),
      /^circle: is the name of the tag/,
    );
  }
});
