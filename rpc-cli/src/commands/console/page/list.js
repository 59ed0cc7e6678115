// The list of all methods, with a search and their rates.

import { sparkline } from "./charts.js";
import { h, plural, setText, showRate } from "./dom.js";
import { badges, isRunning } from "./method.js";
import { methodKey, serviceKey, state } from "./state.js";

const search = h("input", {
  type: "search",
  id: "search",
  placeholder: "Find a method",
  "aria-label": "Find a method",
  autocomplete: "off",
  spellcheck: "false",
});
const list = h("div", { class: "services" });

export const sidebar = h(
  "nav",
  { class: "sidebar", "aria-label": "Methods" },
  h("div", { class: "search" }, search, h("kbd", {}, "/")),
  list,
);

/** The methods in the list. `text` is what the search looks at. */
let entries = [];

/** The key of the method that is shown. `null` if it is none. */
let current = null;

search.addEventListener("input", filter);

/** Fills the list with the methods that are known now. */
export function fillList() {
  const focused = document.activeElement?.dataset?.key;
  entries = [];
  const groups = [...state.services.values()].map((service) => {
    const items = service.methods.map((method) => entryOf(service, method));
    entries = entries.concat(items);
    return h(
      "section",
      { class: `service ${service.isGone ? "is-gone" : ""}`, "aria-label": service.name },
      h(
        "h2",
        {},
        service.name,
        h("span", { class: "muted" }, service.isGone ? "no worker" : service.queue),
      ),
      h(
        "ul",
        {},
        items.map(({ element }) => element),
      ),
    );
  });
  const hidden = [
    state.hidden.services > 0 ? `${plural(state.hidden.services, "service")}` : null,
    state.hidden.methods > 0 ? `${plural(state.hidden.methods, "method")}` : null,
  ].filter(Boolean);
  const more = h("p", { class: "muted" }, `${hidden.join(" and ")} more are not shown.`);
  list.replaceChildren(...groups, ...(hidden.length > 0 ? [more] : []));
  filter();
  updateRates();
  markCurrent();
  markRunning();
  if (focused) entries.find(({ key }) => key === focused)?.link.focus();
}

function entryOf(service, method) {
  const key = methodKey(service, method.name);
  const href = `#/method/${encodeURIComponent(serviceKey(service))}/${encodeURIComponent(method.name)}`;
  const rate = h("span", { class: "rate" });
  const spark = sparkline();
  const link = h(
    "a",
    { href, "data-key": key },
    h("span", { class: "name" }, method.name),
    h(
      "span",
      { class: "kinds" },
      badges(method).filter((badge) => badge.textContent !== "idempotent"),
    ),
    spark.element,
    rate,
  );
  const text = `${service.name}.${method.name} ${service.queue} ${method.docs}`.toLowerCase();
  return { key, link, rate, spark, text, element: h("li", {}, link) };
}

/** Hides the methods that do not have all words of the search, and services without others. */
function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const entry of entries)
    entry.element.hidden = !words.every((word) => entry.text.includes(word));
  for (const group of list.querySelectorAll(".service")) {
    group.hidden = !group.querySelector("li:not([hidden])");
  }
}

export function updateRates() {
  for (const { key, rate, spark } of entries) {
    const row = state.methods.get(key);
    const perSecond = row?.calls_per_second;
    setText(rate, perSecond > 0 ? `${showRate(perSecond)}/s` : "");
    rate.classList.toggle(
      "failing",
      (row?.failures_per_second ?? 0) + (row?.shed_per_second ?? 0) > 0,
    );
    spark.update(state.points.get(key) ?? []);
  }
}

/** Marks the method that is shown. */
export function setCurrent(key) {
  current = key;
  markCurrent();
}

function markCurrent() {
  for (const entry of entries) {
    if (entry.key === current) entry.link.setAttribute("aria-current", "page");
    else entry.link.removeAttribute("aria-current");
  }
}

export function markRunning() {
  for (const { key, link } of entries) link.classList.toggle("is-running", isRunning(key));
}

// The keyboard.

/** Handles a key that was pressed in the list or the search. Returns whether it was for them. */
export function onListKey(event) {
  const isInSearch = event.target === search;
  const isInList = Boolean(event.target.dataset?.key);
  if (isInSearch && event.key === "Enter") openEntry(shownEntries()[0]);
  else if (isInSearch && event.key === "ArrowDown") shownEntries()[0]?.link.focus();
  else if (isInList && event.key === "ArrowDown") move(event.target, 1);
  else if (isInList && event.key === "ArrowUp") move(event.target, -1);
  else return false;
  event.preventDefault();
  return true;
}

export function focusSearch() {
  search.focus();
  search.select();
}

/** Clears the search. Returns whether it had the focus. */
export function leaveSearch() {
  if (document.activeElement !== search) return false;
  search.value = "";
  filter();
  return true;
}

const shownEntries = () => entries.filter(({ link }) => link.offsetParent !== null);

/** Opens a method, and tells its view to take the focus. */
function openEntry(entry) {
  if (!entry) return;
  const href = entry.link.getAttribute("href");
  const focus = () => document.dispatchEvent(new Event("method-opened"));
  if (location.hash === href) return focus();
  addEventListener("hashchange", focus, { once: true });
  location.hash = href;
}

/** Moves the focus in the list, or from its beginning to the search. */
function move(from, step) {
  const shown = shownEntries();
  const index = shown.findIndex(({ link }) => link === from) + step;
  if (index < 0) search.focus();
  else shown[index]?.link.focus();
}
