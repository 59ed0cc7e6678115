// Checks how the page reads and writes JSON, without a browser.

import assert from "node:assert/strict";

import { parse, pretty, write } from "../../rpc-cli/src/commands/console/page/json.js";

const LARGE = "18446744073709551616.0000000000000000001e+400";

// All digits stay.
assert.equal(
  pretty(`{"n":[${LARGE},-0,1E5]}`),
  `{\n  "n": [\n    ${LARGE},\n    -0,\n    1E5\n  ]\n}`,
);
assert.equal(write(parse(`[ ${LARGE} ,{"a":  null}]`)), `[${LARGE}, {"a": null}]`);

// The same as the browser's own, for values that it can hold.
const values = [
  null,
  true,
  "",
  'a"b\\c\n\u2028é{[,:',
  [],
  {},
  [[], {}],
  { "": { "a:b": [1, -2.5, 1e-7] } },
  [[[["deep"]]]],
  { a: [{}, []], b: "]" },
];
for (const value of values) {
  const text = JSON.stringify(value);
  assert.equal(pretty(text), JSON.stringify(value, null, 2));
  assert.deepEqual(JSON.parse(write(parse(text))), value);
  assert.deepEqual(JSON.parse(write(parse(JSON.stringify(value, null, 7)))), value);
}

// Lines do not begin with more spaces than a page can show.
const deep = `${"[".repeat(150)}${"1,".repeat(20_000)}1${"]".repeat(150)}`;
assert.equal(pretty(deep), deep);

// What is no JSON is refused.
for (const text of ["", "{", "[1,]", "{a:1}", "1 2", "01", "'a'", '"\n"', "nul", "[1}"]) {
  assert.throws(() => parse(text), SyntaxError, text);
}
assert.throws(() => parse("[".repeat(1000) + "]".repeat(1000)), /nested/);
