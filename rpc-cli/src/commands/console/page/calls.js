// The table of the calls that this page has made.

import { h, showClock, showMillis, tableHead } from "./dom.js";
import { state } from "./state.js";

/** The table of the calls of this page. */
export function callsTable() {
  const rows = h("tbody");
  const element = h(
    "section",
    { class: "panel", "aria-label": "Calls of this page" },
    h("div", { class: "panel-head" }, h("h2", {}, "Calls of this page")),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "cards" },
        tableHead(["Time", "Method", "Outcome", "Executed", "Took", "Trace"]),
        rows,
      ),
    ),
  );
  const update = () => {
    element.hidden = state.calls.length === 0;
    rows.replaceChildren(
      ...state.calls.map((call) =>
        h(
          "tr",
          {},
          h("td", { "data-label": "Time" }, showClock(call.at)),
          h("td", { "data-label": "Method" }, `${call.service}.${call.method}`),
          h(
            "td",
            { "data-label": "Outcome" },
            h("span", { class: `outcome ${call.kind}` }, call.outcome),
          ),
          h("td", { "data-label": "Executed" }, call.executed ?? "–"),
          h("td", { class: "right", "data-label": "Took" }, showMillis(call.millis)),
          h("td", { "data-label": "Trace" }, call.trace ? h("code", {}, call.trace) : "–"),
        ),
      ),
    );
  };
  update();
  return { element, update };
}
