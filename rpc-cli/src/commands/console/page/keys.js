// The keys of the page.

import { h } from "./dom.js";

const KEYS = [
  ["/", "search"],
  ["↑ ↓", "move in the list of methods"],
  ["Enter", "open the method; call it, in a field"],
  ["Ctrl Enter", "call the method"],
  ["Esc", "stop the call; leave the search"],
  ["1 2 3", "methods, queues, workers"],
  ["?", "show these keys"],
];

/** Returns the entries of a list of the keys. */
export function keyList() {
  return KEYS.map(([key, what]) =>
    h(
      "div",
      {},
      h(
        "dt",
        {},
        key.split(" ").map((one) => h("kbd", {}, one)),
      ),
      h("dd", {}, what),
    ),
  );
}

/** Shows the keys in a dialog. */
export function showKeys() {
  const dialog = h(
    "dialog",
    { "aria-label": "Keys" },
    h(
      "form",
      { method: "dialog" },
      h("h2", {}, "Keys"),
      h("dl", { class: "key-list" }, keyList()),
      h("div", { class: "actions" }, h("button", { autofocus: true }, "Close")),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
