// The panel that calls a method: its arguments, its buttons, and its answer.

import { Answer } from "./answer.js";
import { lines } from "./api.js";
import { h, newId, setText, showMillis } from "./dom.js";
import { argumentsEditor, itemsField } from "./editor.js";
import { Mistake } from "./form.js";
import { changed, noteCall, state } from "./state.js";

/** Makes the panel of a method, with functions to call the method and to stop the call. */
export function callPanel(service, method) {
  const message = h("p", { class: "mistake", role: "alert" });
  const showMistake = (mistake) => showIn(message, mistake);
  const editor = argumentsEditor(method, service.definitions, showMistake);
  const items = method.incoming ? itemsField(method.incoming) : null;
  const options = optionsOf(method);
  const button = h(
    "button",
    { type: "submit", class: "primary call" },
    callWord(method),
    h("kbd", {}, "Ctrl ⏎"),
  );
  const stop = h(
    "button",
    { type: "button", class: "danger stop", hidden: true, onclick: () => running?.abort() },
    "Stop",
    h("kbd", {}, "Esc"),
  );
  const answer = h("div", { class: "answer" });
  // Screen readers read this, rather than each item of the answer.
  const heard = h("span", { class: "only-heard", role: "status" });
  const isReadOnly = state.hello?.read_only ?? false;
  const onsubmit = (event) => {
    event.preventDefault();
    run();
  };
  const element = h(
    "section",
    { class: "panel call-panel", "aria-label": "Call" },
    h(
      "form",
      { novalidate: true, onsubmit },
      editor.element,
      items?.element,
      message,
      isReadOnly
        ? h("p", { class: "muted" }, "This console is read-only: it calls nothing.")
        : h("div", { class: "actions" }, button, stop, options.element),
    ),
    answer,
    heard,
  );

  /** The running call. `null` if there is none. */
  let running = null;
  const setRunning = (controller) => {
    const hadFocus = document.activeElement === stop;
    running = controller;
    button.disabled = running !== null;
    stop.hidden = running === null;
    if (hadFocus) button.focus();
    changed("running");
  };

  /** Returns the request, or `null` if the user has to correct something. */
  const request = () => {
    setText(message, "");
    const { name } = method;
    try {
      const sent = items ? { items: items.read() } : {};
      return {
        service: service.name,
        queue: service.queue,
        method: name,
        arguments: editor.read(),
        ...sent,
        ...options.read(),
      };
    } catch (mistake) {
      showMistake(mistake);
      return null;
    }
  };

  const run = async () => {
    if (running || isReadOnly) return;
    const wanted = request();
    if (wanted === null) return;
    setRunning(new AbortController());
    const shown = new Answer(method, answer);
    try {
      await lines("/api/call", wanted, running.signal, (line) => shown.add(line));
      shown.close();
    } catch (error) {
      if (error.name === "AbortError") shown.stopped();
      else shown.refused(error);
    }
    setRunning(null);
    const { outcome } = shown;
    setText(heard, `${outcome.outcome}, ${showMillis(outcome.millis)}`);
    noteCall({
      ...outcome,
      at: Date.now(),
      service: service.name,
      queue: service.queue,
      method: method.name,
    });
  };

  return { element, run, stop: () => running?.abort(), isRunning: () => running !== null };
}

/** Tells the user what to correct, until the input changes. Throws what is no mistake of theirs. */
function showIn(message, mistake) {
  if (!(mistake instanceof Mistake)) throw mistake;
  const { input } = mistake;
  setText(message, mistake.message);
  input.setAttribute("aria-invalid", "true");
  input.focus();
  const clear = () => {
    input.removeAttribute("aria-invalid");
    setText(message, "");
  };
  input.addEventListener("input", clear, { once: true });
}

function callWord(method) {
  if (method.oneway) return "Send";
  if (method.stream) return "Start";
  return "Call";
}

/** Makes the fields for how to call. `read()` returns the options for the request. */
function optionsOf(method) {
  const placeholder = String((method.timeout_ms ?? 30_000) / 1000);
  const timeout = h("input", {
    type: "text",
    id: newId(),
    class: "number",
    inputmode: "decimal",
    placeholder,
    autocomplete: "off",
  });
  const names = [
    ["json", "JSON"],
    ["msgpack", "MessagePack"],
    ["text", "plain text"],
  ];
  const codec = h(
    "select",
    { id: newId() },
    names.map(([value, name]) => h("option", { value }, name)),
  );
  const option = (text, field) =>
    h("div", { class: "option" }, h("label", { for: field.id }, text), field);
  return {
    element: h(
      "details",
      { class: "options" },
      h("summary", {}, "Options"),
      option(
        method.stream ? "Longest wait for an item, in seconds" : "Longest wait, in seconds",
        timeout,
      ),
      option("Format on the wire", codec),
    ),
    read() {
      const seconds = timeout.value.trim();
      if (seconds === "") return { codec: codec.value };
      const millis = Math.round(Number(seconds) * 1000);
      if (!(millis > 0)) throw new Mistake("write a number of seconds", timeout);
      return { codec: codec.value, timeout_ms: millis };
    },
  };
}
