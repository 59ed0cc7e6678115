// The view of one method: what it is, a panel to call it, and its charts.

import { callPanel } from "./call.js";
import { callsTable } from "./calls.js";
import { charts } from "./charts.js";
import { docs, h, plural, setText, showCount, showRate, showTime } from "./dom.js";
import { methodKey, serviceKey, state } from "./state.js";

/** How many panels keep what was entered and answered. */
const MAX_PANELS = 40;

/** The totals that are shown: fields of a row of statistics, and their names. */
const TOTALS = [
  ["calls", "calls"],
  ["errors", "errors"],
  ["failures", "faults"],
  ["shed", "shed"],
  ["cancelled", "cancelled"],
  ["in_flight", "running"],
  ["mean_ns", "mean"],
  ["p50_ns", "p50"],
  ["p99_ns", "p99"],
];

/** Panels by the key of their method, the last used at the end. */
const panels = new Map();

/** Returns the panel of a method: its call goes on while another method is shown. */
function panelOf(service, method) {
  const key = methodKey(service, method.name);
  const signature = JSON.stringify([method, service.definitions]);
  let panel = panels.get(key);
  // A new version of the service gets a new form, unless a call would be lost with the old one.
  if (!panel || (panel.signature !== signature && !panel.isRunning()))
    panel = { ...callPanel(service, method), signature };
  panels.delete(key);
  panels.set(key, panel);
  for (const [other, old] of panels) {
    if (panels.size <= MAX_PANELS) break;
    if (!old.isRunning()) panels.delete(other);
  }
  return panel;
}

export function isRunning(key) {
  return panels.get(key)?.isRunning() ?? false;
}

/** Makes the view of a method. Its panel may be one that was shown before. */
export function methodView(service, method) {
  const key = methodKey(service, method.name);
  const panel = panelOf(service, method);
  const facts = h("p", { class: "muted facts" });
  const gone = h("p", { class: "notice", hidden: true }, "No worker serves this method now.");
  const calls = callsTable();
  const pictures = charts([
    {
      title: "Calls per second",
      show: showRate,
      series: [{ key: "calls", label: "", color: "calls" }],
    },
    {
      title: "Failures per second",
      show: showRate,
      series: [
        { key: "failures", label: "faults", color: "failures" },
        { key: "errors", label: "errors", color: "errors" },
        { key: "shed", label: "shed", color: "shed" },
      ],
    },
    {
      title: "Time in queue",
      show: showTime,
      series: [{ key: "queueTime", label: "", color: "queue" }],
    },
    {
      title: "Duration",
      show: showTime,
      series: [
        { key: "p50", label: "p50", color: "p50" },
        { key: "p99", label: "p99", color: "p99" },
        { key: "mean", label: "mean", color: "mean", isRare: true },
      ],
    },
  ]);
  const cells = new Map(TOTALS.map(([field]) => [field, h("dd", {}, "–")]));
  const totals = h(
    "dl",
    { class: "totals" },
    TOTALS.map(([field, name]) => h("div", {}, h("dt", {}, name), cells.get(field))),
  );

  const element = h(
    "article",
    { class: "method" },
    h(
      "header",
      { class: "method-head" },
      h("a", { class: "back", href: "#/" }, "‹ Methods"),
      h("h1", {}, h("span", { class: "muted" }, `${service.name}.`), method.name),
      h("div", { class: "badges" }, badges(method)),
      facts,
      gone,
      h(
        "pre",
        { class: "signature" },
        [method.attribute, method.signature].filter(Boolean).join("\n"),
      ),
      method.docs ? docs(method.docs) : null,
    ),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "column" }, panel.element, calls.element),
      h(
        "div",
        { class: "column" },
        h(
          "section",
          { class: "panel", "aria-label": "Statistics" },
          h(
            "div",
            { class: "panel-head" },
            h("h2", {}, "Last minutes"),
            h("span", { class: "muted" }, "all workers"),
          ),
          h("div", { class: "charts" }, pictures.elements),
          h("div", { class: "panel-head" }, h("h2", {}, "Since the workers started")),
          totals,
        ),
        service.type_lines.length > 0
          ? h(
              "details",
              { class: "panel types", open: true },
              h("summary", {}, "Types"),
              h("pre", {}, service.type_lines.map((line) => line.replace(/^ {4}/, "")).join("\n")),
            )
          : null,
        service.docs
          ? h(
              "section",
              { class: "panel" },
              h("div", { class: "panel-head" }, h("h2", {}, service.name)),
              docs(service.docs),
            )
          : null,
      ),
    ),
  );

  const update = () => {
    const known = state.services.get(serviceKey(service)) ?? service;
    const queue = state.queues.get(service.queue);
    const row = state.methods.get(key);
    gone.hidden = !known.isGone;
    const parts = [`on ${service.queue}`, plural(known.workers.length, "worker")];
    if (queue?.depth !== null && queue?.depth !== undefined)
      parts.push(`${showCount(queue.depth)} waiting`);
    if (known.versions > 1) parts.push(`${known.versions} versions, the most common one is shown`);
    setText(facts, parts.join(" · "));
    pictures.update(state.points.get(key) ?? []);
    for (const [field, cell] of cells) {
      const value = row?.[field];
      setText(
        cell,
        field.endsWith("_ns") ? showTime(value && row.calls > 0 ? value : null) : showCount(value),
      );
    }
  };
  update();
  return {
    element,
    update,
    call: panel.run,
    stop: panel.stop,
    updateCalls: calls.update,
    focus: () =>
      panel.element
        .querySelector(".call-body input, .call-body select, .call-body textarea, button.call")
        ?.focus({ preventScroll: true }),
  };
}

/** Returns a badge for each thing that is special about a method. */
export function badges(method) {
  return [
    method.stream && ["stream", "It replies with a stream of items"],
    method.incoming && ["receives", "It receives a stream of items"],
    method.broadcast && ["broadcast", "All workers of the queue run it"],
    method.oneway && [
      method.idempotent ? "job" : "one-way",
      method.idempotent ? "It has no reply, and is retried if it fails" : "It has no reply",
    ],
    method.idempotent && !method.oneway && ["idempotent", "It may run more than once"],
  ]
    .filter(Boolean)
    .map(([name, title]) => h("span", { class: `badge ${name}`, title }, name));
}
