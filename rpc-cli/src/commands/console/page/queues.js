// The view of queues.

import { h, showCount, showTime, tableHead } from "./dom.js";
import { lettersPanel } from "./letters.js";
import { state } from "./state.js";

/** Makes the view of queues. `selected` is the one whose dead letters are shown, or `null`. */
export function queuesView(selected) {
  const rows = h("tbody");
  const letters = selected === null ? null : lettersPanel(selected);
  const element = h(
    "article",
    { class: "wide" },
    h("h1", {}, "Queues"),
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
            [
              "Queue",
              "Services",
              "Waiting",
              "Consumers",
              "Time in queue",
              "For a retry",
              "Dead letters",
            ],
            ["Waiting", "Consumers", "Time in queue", "For a retry"],
          ),
          rows,
        ),
      ),
    ),
    letters?.element,
  );

  /** What the rows were made of. Unchanged rows are not made again, so that they keep the focus. */
  let shown = "";
  const update = () => {
    const queues = [...state.queues.values()].map((queue) => ({
      ...queue,
      ...servicesOf(queue.queue),
    }));
    const signature = JSON.stringify(queues);
    if (signature === shown) return;
    shown = signature;
    const focused = document.activeElement?.dataset?.queue;
    rows.replaceChildren(
      ...(queues.length > 0
        ? queues.map((queue) => row(queue, selected))
        : [h("tr", {}, h("td", { colspan: 7, class: "muted" }, "No service was found."))]),
    );
    if (focused !== undefined) rows.querySelector(`[data-queue="${CSS.escape(focused)}"]`)?.focus();
  };
  update();
  letters?.load();
  return { element, update };
}

function servicesOf(queue) {
  const services = [...state.services.values()].filter(
    (service) => service.queue === queue && !service.isGone,
  );
  const times = [...state.methods.values()]
    .filter((row) => row.queue === queue)
    .map((row) => row.queue_time_ns);
  return {
    services: services.map((service) => service.name).join(", "),
    hasJobs: services.some((service) => service.jobs),
    queueTime: Math.max(0, ...times),
  };
}

function row(queue, selected) {
  const cell = (label, content, className) =>
    h("td", { "data-label": label, class: className }, content);
  const hasLetters = queue.hasJobs || queue.dead !== null;
  return h(
    "tr",
    { class: queue.queue === selected ? "selected" : "" },
    cell("Queue", h("code", {}, queue.queue)),
    cell("Services", queue.services),
    cell("Waiting", showCount(queue.depth), "right"),
    cell("Consumers", showCount(queue.consumers), "right"),
    cell("Time in queue", queue.queueTime > 0 ? showTime(queue.queueTime) : "–", "right"),
    cell("For a retry", hasLetters ? showCount(queue.waiting) : "–", "right"),
    cell(
      "Dead letters",
      hasLetters
        ? h(
            "a",
            {
              class: `button ${queue.dead > 0 ? "warn" : ""}`,
              "data-queue": queue.queue,
              href: `#/queues/${encodeURIComponent(queue.queue)}`,
            },
            `${showCount(queue.dead)} · open`,
          )
        : "–",
    ),
  );
}
