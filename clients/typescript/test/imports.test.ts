import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

/** The sources in TypeScript: compiled ones lack the imports of types. */
const ROOT = fileURLToPath(new URL("../../src", import.meta.url));

/** The files that a file imports, or exports something of. */
function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), "utf8");
  const imported = text.matchAll(/^(?:import|export)[^;"]*? from "(\.[^"]*)\.js";/gm);
  return [...imported].map(([, path]) => normalize(join(dirname(file), `${path}.ts`)));
}

/** The files that are in circles, and those between two circles. */
function circle(imports: ReadonlyMap<string, readonly string[]>): string[] {
  let left = new Map(imports);
  for (;;) {
    const imported = new Set([...left.values()].flat());
    // A file that imports none of the others, or that none imports, is in no circle.
    const stays = [...left].filter(([file, uses]) => uses.length > 0 && imported.has(file));
    if (stays.length === left.size) return [...left.keys()].sort();
    const names = new Set(stays.map(([file]) => file));
    left = new Map(stays.map(([file, uses]) => [file, uses.filter((use) => names.has(use))]));
  }
}

test("a circle is found", () => {
  const chain = { a: ["b", "c"], b: ["c"], c: [] };
  assert.deepEqual(circle(new Map(Object.entries(chain))), []);
  const round = { a: ["b"], b: ["c"], c: ["b", "d"], d: [] };
  assert.deepEqual(circle(new Map(Object.entries(round))), ["b", "c"]);
});

test("no files import each other in a circle", () => {
  const paths = readdirSync(ROOT, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)));
  const imports = new Map(paths.map((file) => [file, importsOf(file)]));
  // The test reads the imports: those over several lines, and those of types only.
  assert.ok(imports.get("client/running-call.ts")!.includes("errors.ts"));
  assert.ok(imports.get("client/running-call.ts")!.includes("client/replies.ts"));
  for (const imported of [...imports.values()].flat()) assert.ok(imports.has(imported), imported);
  assert.deepEqual(circle(imports), []);
});
