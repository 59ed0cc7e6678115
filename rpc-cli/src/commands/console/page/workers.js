// The view of workers, and of their comings and goings.

import { h, showAge, showClock, tableHead } from "./dom.js";
import { state } from "./state.js";

export function workersView() {
  const rows = h("tbody");
  const changes = h("ol", { class: "changes" });
  const element = h(
    "article",
    { class: "wide" },
    h("h1", {}, "Workers"),
    h(
      "section",
      { class: "panel" },
      h(
        "div",
        { class: "scroll" },
        h(
          "table",
          { class: "cards" },
          tableHead(
            ["Worker", "Name", "Host", "Process", "Up", "Version", "rpc-runtime", "Serves"],
            ["Process", "Up"],
          ),
          rows,
        ),
      ),
    ),
    h(
      "section",
      { class: "panel" },
      h("div", { class: "panel-head" }, h("h2", {}, "Came and went while this page was open")),
      changes,
    ),
  );

  const update = () => {
    const serves = new Map();
    for (const service of state.services.values()) {
      for (const id of service.workers)
        serves.set(id, [...(serves.get(id) ?? []), `${service.name} on ${service.queue}`]);
    }
    const workers = [...state.workers.values()];
    rows.replaceChildren(
      ...(workers.length > 0
        ? workers.map((worker) => row(worker, serves.get(worker.id) ?? []))
        : [h("tr", {}, h("td", { colspan: 8, class: "muted" }, "No worker answers."))]),
    );
    changes.replaceChildren(
      ...(state.changes.length > 0
        ? state.changes.map(change)
        : [h("li", { class: "muted" }, "None so far.")]),
    );
  };
  update();
  return { element, update };
}

function row(worker, serves) {
  const cell = (label, content, className) =>
    h("td", { "data-label": label, class: className }, content);
  return h(
    "tr",
    {},
    cell("Worker", h("code", { title: worker.id }, worker.id.slice(0, 8))),
    cell("Name", worker.name ?? worker.app_id ?? "–"),
    cell("Host", worker.host ?? "–"),
    cell("Process", String(worker.pid), "right"),
    cell("Up", showAge(worker.uptime_ms / 1000), "right"),
    cell("Version", worker.version ?? "–"),
    cell("rpc-runtime", worker.runtime_version || "–"),
    cell("Serves", serves.join(", ") || "–"),
  );
}

function change({ at, worker, what }) {
  const name = worker.name ?? worker.app_id;
  return h(
    "li",
    {},
    h("span", { class: "muted" }, showClock(at)),
    " ",
    h("span", { class: `badge ${what === "came" ? "good" : "bad"}` }, what),
    " ",
    h("code", {}, worker.id.slice(0, 8)),
    name ? ` ${name}` : "",
    ` on ${worker.host ?? "?"}, process ${worker.pid}`,
  );
}
