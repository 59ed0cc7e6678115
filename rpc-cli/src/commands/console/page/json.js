// Reads and shows JSON text with all its digits: JSON.parse would round large numbers.

import { h } from "./dom.js";

/** A token, as one of: a mark, a string, a number, a word. */
const TOKEN =
  /\s*(?:([{}[\],:])|("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(true|false|null))/y;

/** How deep values may be nested. */
const MAX_DEPTH = 200;

/** How long a text may be to be shown in colors. */
const MAX_COLORED = 100_000;

/** How many spaces `pretty` puts at the beginnings of lines, in all. */
const MAX_SPACES = 2_000_000;

/** How much of a text is shown. */
const MAX_SHOWN = 1_000_000;

/** Yields the tokens. The `kind` of a mark is the mark itself. */
function* tokens(text) {
  let at = 0;
  while (at < text.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match) {
      if (text.slice(at).trim() === "") return;
      throw new SyntaxError(`not JSON from character ${at + 1} on`);
    }
    at = TOKEN.lastIndex;
    const [, mark, string, number, word] = match;
    yield mark
      ? { kind: mark, text: mark }
      : string
        ? { kind: "string", text: string }
        : number
          ? { kind: "number", text: number }
          : { kind: "word", text: word };
  }
}

/**
 * Parses a text. Values are `{ kind: "object", entries: [[name, value]] }`,
 * `{ kind: "array", items }`, or `{ kind: "string" | "number" | "word", text }`.
 */
export function parse(text) {
  // The browser's parser names what is wrong. What it accepts, the loops below can rely on.
  JSON.parse(text);
  const all = [...tokens(text)];
  let next = 0;
  const value = (depth) => {
    if (depth > MAX_DEPTH) throw new SyntaxError(`values are nested more than ${MAX_DEPTH} times`);
    const token = all[next++];
    if (token.kind === "[") {
      const items = [];
      while (all[next].kind !== "]") {
        items.push(value(depth + 1));
        if (all[next].kind === ",") next++;
      }
      next++;
      return { kind: "array", items };
    }
    if (token.kind === "{") {
      const entries = [];
      while (all[next].kind !== "}") {
        const name = JSON.parse(all[next].text);
        // The name and the colon.
        next += 2;
        entries.push([name, value(depth + 1)]);
        if (all[next].kind === ",") next++;
      }
      next++;
      return { kind: "object", entries };
    }
    return token;
  };
  return value(0);
}

/** Writes a parsed value on one line. */
export function write(value) {
  if (value.kind === "array") return `[${value.items.map(write).join(", ")}]`;
  if (value.kind === "object") {
    return `{${value.entries.map(([name, of]) => `${JSON.stringify(name)}: ${write(of)}`).join(", ")}}`;
  }
  return value.text;
}

/** Puts JSON text on several lines. Text that would have too many spaces then stays as it is. */
export function pretty(text) {
  try {
    return [...prettyTokens(text)].map((token) => token.text).join("");
  } catch (error) {
    if (error instanceof RangeError) return text;
    throw error;
  }
}

/** Yields the tokens, with line breaks and spaces between them. Names are of the kind `name`. */
function* prettyTokens(text) {
  let depth = 0;
  let last = "";
  let spaces = 0;
  const newLine = () => {
    // Deeply nested values would have many more spaces than text.
    spaces += 2 * depth;
    if (spaces > MAX_SPACES) throw new RangeError("the lines have too many spaces");
    return { kind: "space", text: `\n${"  ".repeat(depth)}` };
  };
  const all = [...tokens(text)];
  for (const [index, token] of all.entries()) {
    const closes = token.kind === "}" || token.kind === "]";
    if (closes) {
      depth -= 1;
      if (last !== "{" && last !== "[") yield newLine();
    } else if (last === "{" || last === "[" || last === ",") {
      yield newLine();
    }
    if (token.kind === "{" || token.kind === "[") depth += 1;
    const isName = token.kind === "string" && all[index + 1]?.kind === ":";
    yield isName ? { kind: "name", text: token.text } : token;
    if (token.kind === ":") yield { kind: "space", text: " " };
    last = token.kind;
  }
}

/** Yields the tokens, with spaces between them, for one line. */
function* lineTokens(text) {
  const all = [...tokens(text)];
  for (const [index, token] of all.entries()) {
    const isName = token.kind === "string" && all[index + 1]?.kind === ":";
    yield isName ? { kind: "name", text: token.text } : token;
    if (token.kind === ":" || token.kind === ",") yield { kind: "space", text: " " };
  }
}

/** Shows JSON text in colors, on several lines or on one. */
export function show(text, onOneLine = false) {
  if (text.length > MAX_SHOWN) {
    return [
      `${text.slice(0, MAX_SHOWN)}`,
      h("span", { class: "muted" }, ` … ${text.length - MAX_SHOWN} more characters`),
    ];
  }
  try {
    if (text.length > MAX_COLORED) return [onOneLine ? text : pretty(text)];
    const shown = onOneLine ? lineTokens(text) : prettyTokens(text);
    // Marks have no color.
    return [...shown].map(({ kind, text: part }) =>
      /^[a-z]/.test(kind) && kind !== "space" ? h("span", { class: `json-${kind}` }, part) : part,
    );
  } catch {
    return [text];
  }
}
