// Makes elements. Text from workers only ever becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** The attributes whose text people read. */
const READ_BY_PEOPLE = new Set(["title", "aria-label", "placeholder", "data-label"]);

/** Makes an element: `h("a", { href: "#", onclick: f, class: "x" }, "text", child)`. */
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Makes an element of a picture. */
export function svg(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

/** Sets the properties, and appends the children. Leaves out those that are `null` or `false`. */
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else
      element.setAttribute(name, READ_BY_PEOPLE.has(name) ? visible(String(value)) : String(value));
  }
  const shown = children
    .flat()
    .filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

/**
 * Escapes control characters, among them those that change the direction of text: a name must not
 * look like another one.
 */
export function visible(text) {
  return text.replace(
    /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Sets the text of an element if it differs, so that a selection in unchanged text stays. */
export function setText(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** Shows documentation. What is in backticks is code; all other markup stays text. */
export function docs(text) {
  const parts = text.split(/`([^`\n]+)`/);
  return h(
    "p",
    { class: "docs" },
    parts.map((part, index) => (index % 2 === 1 ? h("code", {}, part) : part)),
  );
}

let ids = 0;

/** Returns an id that no other element has. */
export function newId() {
  ids += 1;
  return `e${ids}`;
}

/** Makes the head of a table. The columns with `numbers` are aligned to the right. */
export function tableHead(names, numbers = []) {
  const cells = names.map((name) =>
    h("th", { scope: "col", class: numbers.includes(name) ? "right" : "" }, name),
  );
  return h("thead", {}, h("tr", {}, cells));
}

/** Returns a button that copies a text, or nothing if the browser does not let pages copy. */
export function copyButton(text, what) {
  if (!navigator.clipboard) return null;
  const label = `Copy ${what}`;
  const button = h(
    "button",
    { type: "button", class: "quiet copy", title: label, "aria-label": label },
    "copy",
  );
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "failed";
    }
    setTimeout(() => (button.textContent = "copy"), 1200);
  });
  return button;
}

/** Shows a duration in nanoseconds with three digits, as `rpc stats` does. */
export function showTime(nanos) {
  if (nanos === null || nanos === undefined) return "–";
  if (nanos === 0) return "0";
  const [value, unit] =
    nanos < 999.5
      ? [nanos, "ns"]
      : nanos < 999500
        ? [nanos / 1e3, "µs"]
        : nanos < 999500000
          ? [nanos / 1e6, "ms"]
          : [nanos / 1e9, "s"];
  const digits = unit === "ns" || value >= 99.95 ? Math.round(value) : value.toPrecision(3);
  return `${digits} ${unit}`;
}

/** Shows how long a call took, in milliseconds. */
export function showMillis(millis) {
  if (millis === undefined || millis === null) return "–";
  return millis < 1000
    ? `${millis < 10 ? millis.toFixed(1) : Math.round(millis)} ms`
    : `${(millis / 1000).toFixed(1)} s`;
}

/** Shows how many things happen per second. */
export function showRate(rate) {
  if (rate === null || rate === undefined) return "–";
  if (rate === 0) return "0";
  if (rate < 0.05) return "<0.1";
  return rate < 99.95 ? rate.toFixed(1) : showCount(Math.round(rate));
}

export function showCount(count) {
  return count === null || count === undefined ? "–" : count.toLocaleString("en");
}

/** Shows an age in seconds with at most two units. */
export function showAge(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return `${s}s`;
  if (s < 7200) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 172800) return `${Math.floor(s / 3600)}h ${Math.floor(s / 60) % 60}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor(s / 3600) % 24}h`;
}

export function showSize(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 * 1024) return `${(bytes / 1024).toFixed(1)} KiB`;
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}

export function showClock(millis) {
  return new Date(millis).toLocaleTimeString("en-GB");
}

/** Shows a number of things: `1 worker`, `2 workers`. */
export function plural(count, what) {
  return `${showCount(count)} ${what}${count === 1 ? "" : "s"}`;
}
