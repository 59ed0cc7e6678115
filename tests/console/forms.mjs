// Makes forms from schemas of many kinds, also from what is no schema.

import assert from "node:assert/strict";

import { address, done, withPage } from "./browser.mjs";

const definitions = {
  Node: {
    type: "object",
    properties: {
      value: { type: "integer" },
      next: { anyOf: [{ $ref: "#/definitions/Node" }, { type: "null" }] },
    },
    required: ["value"],
  },
  Circle: { oneOf: [{ $ref: "#/definitions/Circle" }] },
  Shape: {
    oneOf: [
      { type: "string", enum: ["Empty", "Full"] },
      {
        type: "object",
        properties: { Circle: { type: "number" } },
        required: ["Circle"],
        additionalProperties: false,
      },
      {
        type: "object",
        properties: { kind: { type: "string", enum: ["Square"] }, side: { type: "number" } },
        required: ["kind", "side"],
      },
    ],
  },
};

/** Schemas, values that their fields show, and how many of these fields are for JSON. */
const CASES = [
  [{ type: "string" }, ['""', '"a\\"b"'], 0],
  [{ type: "integer", format: "uint64", minimum: 0 }, ["0", "18446744073709551615"], 0],
  [{ type: "integer", minimum: 5 }, ["5"], 0],
  [{ type: "number" }, ["-1.25e-7"], 0],
  [{ type: "boolean" }, ["true", "false"], 0],
  [{ type: ["string", "null"] }, ["null", '"x"'], 0],
  [{ type: "array", items: { type: "integer" } }, ["[]", "[1, 2]"], 0],
  [{ enum: ["A", "B", 3] }, ['"B"', "3"], 0],
  [{ $ref: "#/definitions/Node" }, ['{"value": 1}', '{"value": 1, "next": {"value": 2}}'], 0],
  [
    { allOf: [{ $ref: "#/definitions/Shape" }] },
    ['"Full"', '{"Circle": 1.5}', '{"kind": "Square", "side": 2}'],
    0,
  ],
  [{ type: "object", additionalProperties: { type: "integer" } }, ['{\n  "a": 1\n}'], 1],
  [true, ["[\n  1\n]"], 1],
  [null, ["null"], 1],
  [7, ["null"], 1],
  [{ $ref: "#/definitions/Missing" }, ["null"], 1],
  [{ $ref: "#/definitions/Circle" }, ["null"], 1],
  [{ $ref: 7 }, ["null"], 1],
  [{ anyOf: [null, 7] }, ["null"], 1],
  [{ type: "object", properties: { a: null } }, ["{}"], 0],
  [{ type: "array", items: null }, ["[]"], 0],
  [{ enum: [] }, [], 0],
  // The page has rounded it.
  [{ enum: [1, 9007199254740993] }, ["9007199254740993"], 1],
  [{ enum: [1, Number.MAX_SAFE_INTEGER, 0.5] }, ["9007199254740991"], 0],
];

await withPage(async (page) => {
  await page.goto(address());
  for (const [schema, values, ofJson] of CASES) {
    const found = await page.evaluate(
      async ([schema, values, definitions]) => {
        const [{ argumentsForm }, { parse }] = await Promise.all([
          import("/form.js"),
          import("/json.js"),
        ]);
        const method = { arguments: [{ name: "a", type: "T", optional: false, schema }] };
        const shown = values.map((value) => {
          const form = argumentsForm(method, definitions);
          return form.fill(parse(`{"a": ${value}}`)) ? form.read() : "not shown";
        });
        return {
          shown,
          ofJson: argumentsForm(method, definitions).element.querySelectorAll("textarea").length,
        };
      },
      [schema, values, definitions],
    );
    assert.deepEqual(
      found,
      { shown: values.map((value) => `{"a": ${value}}`), ofJson },
      JSON.stringify(schema),
    );
  }
  // What a field cannot show stays JSON.
  const refused = await page.evaluate(async () => {
    const [{ argumentsForm, Mistake }, { parse }] = await Promise.all([
      import("/form.js"),
      import("/json.js"),
    ]);
    const form = argumentsForm(
      {
        arguments: [
          { name: "n", type: "u8", optional: false, schema: { type: "integer", minimum: 0 } },
        ],
      },
      {},
    );
    const fills = ['{"n": "1"}', '{"m": 1}', "[1]", "{}"].map((text) => form.fill(parse(text)));
    const input = form.element.querySelector("input");
    const reads = ["", "1.5", "-1", "1e3", "x"].map((text) => {
      input.value = text;
      try {
        return form.read();
      } catch (error) {
        return error instanceof Mistake ? "mistake" : String(error);
      }
    });
    return { fills, reads };
  });
  assert.deepEqual(refused, {
    fills: [false, false, false, false],
    reads: Array(5).fill("mistake"),
  });
  // Schemas of a hostile service have forms of limited size, in limited time.
  const hostile = await page.evaluate(async () => {
    const [{ argumentsForm }, { parse }] = await Promise.all([
      import("/form.js"),
      import("/json.js"),
    ]);
    const ref = (name) => ({ $ref: `#/definitions/${name}` });
    const names = (count, of) =>
      Object.fromEntries(Array.from({ length: count }, (_, index) => [`p${index}`, of]));
    const definitions = {
      Wide: { type: "object", properties: names(8, ref("Wide")), required: Object.keys(names(8)) },
    };
    for (let index = 0; index < 60; index++) {
      definitions[`Twice${index}`] = {
        oneOf: [ref(`Twice${index + 1}`), ref(`Twice${index + 1}`)],
      };
    }
    definitions.Twice60 = { const: 1 };
    const schemas = [
      ref("Wide"),
      ref("Twice0"),
      { type: "object", properties: names(50_000, ref("Twice0")) },
      { oneOf: Array(50_000).fill(ref("Wide")) },
      { enum: Array.from({ length: 50_000 }, (_, index) => index) },
    ];
    return schemas.map((schema) => {
      const begun = performance.now();
      const method = { arguments: [{ name: "a", type: "T", optional: false, schema }] };
      const form = argumentsForm(method, definitions);
      const isFilled = form.fill(parse('{"a": {"p0": {"p0": 1}}}'));
      return {
        isSmall: form.element.querySelectorAll("*").length < 10_000,
        isFast: performance.now() - begun < 10_000,
        isFilled: typeof isFilled,
      };
    });
  });
  assert.deepEqual(hostile, Array(5).fill({ isSmall: true, isFast: true, isFilled: "boolean" }));
  await done("forms");
});
