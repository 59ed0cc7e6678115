// The frame of the page: the header, the list of methods, the views, and the keyboard.

import { hasToken, takeToken } from "./api.js";
import { h, plural, setText, showCount } from "./dom.js";
import { keyList, showKeys } from "./keys.js";
import {
  fillList,
  focusSearch,
  leaveSearch,
  markRunning,
  onListKey,
  setCurrent,
  sidebar,
  updateRates,
} from "./list.js";
import { methodView } from "./method.js";
import { queuesView } from "./queues.js";
import { follow, listen, state } from "./state.js";
import { workersView } from "./workers.js";

const light = h("span", { class: "light", "aria-hidden": "true" });
const status = h("span", { class: "status", role: "status" }, "connecting…");
const broker = h("code", { class: "broker" });
const readOnly = h("span", { class: "badge", hidden: true }, "read-only");
const tabs = [
  ["methods", "#/", "Methods"],
  ["queues", "#/queues", "Queues"],
  ["workers", "#/workers", "Workers"],
].map(([kind, href, name]) => {
  const count = h("span", { class: "count" });
  return { kind, count, element: h("a", { href }, name, count) };
});
const main = h("main", { id: "main", tabindex: -1 });
const notice = h("p", { class: "trouble", role: "alert", hidden: true });

/** What is shown, with `element`, `update()`, and what else the view offers. */
let view = null;
/** The key of the method that is shown. */
let shownKey = "";

function start() {
  takeToken();
  document.body.append(
    h(
      "a",
      {
        class: "skip",
        href: "#main",
        onclick: (event) => {
          event.preventDefault();
          main.focus();
        },
      },
      "Skip to the content",
    ),
    h(
      "header",
      { class: "top" },
      h(
        "a",
        { class: "logo", href: "#/", "aria-label": "rpc console" },
        h("img", { src: "/icon.svg", alt: "", width: 18, height: 18 }),
        h("b", {}, "rpc"),
        " console",
      ),
      h(
        "nav",
        { class: "tabs", "aria-label": "Views" },
        tabs.map(({ element }) => element),
      ),
      h("span", { class: "where" }, light, status, broker, readOnly),
      h(
        "button",
        {
          type: "button",
          class: "quiet keys",
          "aria-label": "Show the keys",
          title: "Keys",
          onclick: showKeys,
        },
        "?",
      ),
    ),
    notice,
    h("div", { class: "frame" }, sidebar, main),
  );
  listen(update);
  addEventListener("hashchange", () => {
    // The address of a console that was started again.
    if (takeToken()) location.reload();
    else showView();
  });
  addEventListener("keydown", onKey);
  document.addEventListener("method-opened", () => view?.focus?.());
  if (!hasToken()) {
    state.isRefused = true;
    state.trouble = "this page has no token: open the address that rpc console printed";
    update("trouble");
    return;
  }
  showView();
  follow();
}

/** Where the address says to be: `#/method/SERVICE@QUEUE/METHOD`, `#/queues/QUEUE`, `#/workers`. */
function place() {
  try {
    const parts = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
    return { kind: parts[0] || "methods", key: parts.slice(1) };
  } catch {
    // Somebody has changed the address.
    return { kind: "methods", key: [] };
  }
}

function showView() {
  if (state.isRefused) return showRefusal();
  const { kind, key } = place();
  document.body.dataset.view = kind;
  const tabKind = ["queues", "workers"].includes(kind) ? kind : "methods";
  for (const tab of tabs) {
    if (tab.kind === tabKind) tab.element.setAttribute("aria-current", "page");
    else tab.element.removeAttribute("aria-current");
  }
  view = makeView(kind, key);
  shownKey = kind === "method" ? key.join("/") : "";
  main.replaceChildren(view.element);
  main.scrollTop = 0;
  setCurrent(kind === "method" ? shownKey : null);
}

function makeView(kind, key) {
  if (kind === "queues") return queuesView(key[0] ?? null);
  if (kind === "workers") return workersView();
  const service = kind === "method" ? state.services.get(key[0]) : undefined;
  const method = service?.methods.find((of) => of.name === key[1]);
  return method ? methodView(service, method) : emptyView(kind === "method" ? key : null);
}

function emptyText(missing) {
  if (state.at === 0) return "Looking for workers…";
  if (missing) return "No worker serves this method now.";
  if (state.services.size === 0)
    return "No worker answers. Is one running, and on this virtual host?";
  return "Choose a method, or press / to find one.";
}

/** The view without a method. `missing` is the one that the address names, if no worker has it. */
function emptyView(missing) {
  const text = h("p", { class: "muted" });
  const update = () => setText(text, emptyText(missing));
  update();
  return {
    element: h(
      "div",
      { class: "empty" },
      text,
      missing ? null : h("dl", { class: "key-list" }, keyList()),
    ),
    update,
  };
}

function showRefusal() {
  document.body.dataset.view = "refused";
  view = null;
  main.replaceChildren(
    h(
      "div",
      { class: "empty" },
      h("h1", {}, "Open the printed address"),
      h(
        "p",
        {},
        "rpc console prints the address of this page when it starts. The address has a token, which is another one each time.",
      ),
      h("p", { class: "muted" }, state.trouble ?? ""),
    ),
  );
}

/** Shows what has changed: `what` is as in `listen`. */
function update(what) {
  if (what === "hello") {
    setText(broker, state.hello.broker);
    broker.title = `rpc ${state.hello.version}`;
    const wasReadOnly = !readOnly.hidden;
    if (wasReadOnly !== state.hello.read_only) {
      readOnly.hidden = !state.hello.read_only;
      // The view has other buttons then.
      showView();
    }
  }
  if (what === "catalog") {
    fillList();
    // A method whose form is in use stays as it is.
    const { kind, key } = place();
    if (kind === "method" && (shownKey !== key.join("/") || !view?.call)) showView();
  }
  if (what === "running") markRunning();
  if (what === "calls") view?.updateCalls?.();
  if (what === "sample" || what === "catalog") {
    updateRates();
    view?.update();
  }
  showStatus();
  if (what === "trouble" && state.isRefused) showRefusal();
}

function showStatus() {
  const workers = state.workers.size;
  light.className = `light ${state.trouble ? "bad" : state.at === 0 ? "" : "good"}`;
  setText(
    status,
    state.trouble ? "not connected" : state.at === 0 ? "connecting…" : plural(workers, "worker"),
  );
  const notes = [];
  if (state.trouble && !state.isRefused) notes.push(state.trouble);
  else if (state.refused > 0) notes.push(`${plural(state.refused, "worker")} refused to answer`);
  notice.hidden = notes.length === 0;
  setText(notice, notes.join(". "));
  const running = [...state.services.values()].filter((service) => !service.isGone);
  const methods = running.reduce((sum, service) => sum + service.methods.length, 0);
  const dead = [...state.queues.values()].reduce((sum, queue) => sum + (queue.dead ?? 0), 0);
  const counts = { methods, queues: state.queues.size, workers };
  for (const { kind, count, element } of tabs) {
    setText(count, state.at === 0 ? "" : showCount(counts[kind]));
    if (kind !== "queues") continue;
    element.classList.toggle("has-dead", dead > 0);
    element.title = dead > 0 ? plural(dead, "dead letter") : "";
  }
}

// The keyboard.

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  const isTyping = event.target.matches?.("input, textarea, select");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    view?.call?.();
  } else if (event.key === "Escape") {
    if (leaveSearch()) main.focus();
    else view?.stop?.();
  } else if (!onListKey(event) && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    onPlainKey(event);
  }
}

function onPlainKey(event) {
  if (event.key === "/") {
    event.preventDefault();
    goToSearch();
  } else if (event.key === "?") {
    showKeys();
  } else if (["1", "2", "3"].includes(event.key)) {
    location.hash = tabs[Number(event.key) - 1].element.getAttribute("href");
  }
}

/** Focuses the search. A narrow screen shows it only in the view of all methods. */
function goToSearch() {
  if (getComputedStyle(sidebar).display !== "none") return focusSearch();
  addEventListener("hashchange", focusSearch, { once: true });
  location.hash = "#/";
}

start();
