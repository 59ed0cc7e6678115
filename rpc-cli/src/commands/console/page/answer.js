// What a call has answered so far.

import { Refused } from "./api.js";
import { copyButton, h, plural, setText, showMillis } from "./dom.js";
import { show } from "./json.js";

/** How many items of a stream are shown. */
const MAX_ITEMS = 500;

/** How much of an item is shown, in characters. */
const MAX_ITEM = 10_000;

/** What `executed` says about the method. */
const EXECUTED = {
  no: "the method did not run: it is safe to call it again",
  maybe: "the method may have run",
  yes: "the method ran",
};

/** What a call has answered so far. */
export class Answer {
  constructor(method, element) {
    this.method = method;
    /** How many items or answers have come. */
    this.count = 0;
    /** The rows that are not in the list yet. */
    this.waiting = [];
    this.trace = null;
    this.begun = performance.now();
    /** What the table of calls shows of this one, once it has ended. */
    this.outcome = { outcome: "stopped", kind: "stopped" };
    this.state = h("span", { class: "outcome running" }, "running");
    this.facts = h("span", { class: "facts" });
    this.traced = h("span", { class: "trace" });
    this.body = h("div", { class: "answer-body" });
    this.list = null;
    element.replaceChildren(
      h("div", { class: "answer-head" }, this.state, this.facts, this.traced),
      this.body,
    );
    this.timer = setInterval(() => this.showFacts(), 100);
  }

  /** Shows a line that the server has sent about the call. */
  add(line) {
    switch (line.event) {
      case "begin":
        this.trace = line.trace;
        this.traced.replaceChildren(
          h("span", { class: "muted" }, "trace "),
          h("code", { title: "The trace id of this call" }, line.trace),
          copyButton(line.trace, "the trace id") ?? "",
        );
        break;
      case "item":
        this.addRow([
          h(
            "code",
            {},
            ...show(line.value.slice(0, MAX_ITEM), true),
            line.value.length > MAX_ITEM ? " …" : "",
          ),
        ]);
        break;
      case "answer":
        this.addRow(
          line.failed
            ? [workerOf(line.worker), ...failureOf(line.failed)]
            : [workerOf(line.worker), h("code", {}, ...show(line.value, true))],
          line.failed ? "failed" : "",
        );
        break;
      case "result":
        this.showValue(line.value);
        this.end("ok", "ok", "yes", line.ms);
        break;
      case "sent":
        this.body.replaceChildren(
          h("p", { class: "muted" }, "The broker has the request. Nobody answers it."),
        );
        this.end("sent", "ok", null, line.ms);
        break;
      case "end":
        if (line.answered === 0)
          this.body.append(h("p", { class: "muted" }, "No worker answered in time."));
        if (line.confirmed === false)
          this.body.append(
            h(
              "p",
              { class: "muted" },
              "The broker did not confirm the request: a worker may not have got it.",
            ),
          );
        this.end("ended", "ok", "yes", line.ms);
        break;
      case "failure":
        this.body.append(h("div", { class: "failure" }, failureOf(line)));
        this.end(
          line.error !== null ? "error" : (line.fault ?? "failed"),
          "failed",
          line.executed,
          line.ms,
        );
        break;
    }
  }

  showValue(text) {
    this.body.replaceChildren(
      h(
        "div",
        { class: "value" },
        h("pre", { class: "json", tabindex: 0, "aria-label": "The result" }, ...show(text)),
        copyButton(text, "the result") ?? "",
      ),
    );
  }

  addRow(children, className = "") {
    this.count += 1;
    this.waiting.push(h("li", { value: this.count, class: className }, children));
    if (this.waiting.length > MAX_ITEMS) this.waiting.shift();
    // Rows wait for the next frame: many items may come before the screen shows one.
    this.frame ??= requestAnimationFrame(() => this.showRows());
  }

  showRows() {
    this.frame = null;
    if (this.waiting.length === 0) return;
    if (!this.list) {
      this.list = h("ol", {
        class: "items",
        tabindex: 0,
        "aria-label": this.method.broadcast ? "The answers" : "The items",
      });
      this.body.prepend(this.list);
    }
    const list = this.list;
    // The list follows its end, unless the user has scrolled up. Heights may be rounded.
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 8;
    list.append(...this.waiting);
    this.waiting = [];
    while (list.childElementCount > MAX_ITEMS) list.firstElementChild.remove();
    if (isAtEnd) list.scrollTop = list.scrollHeight;
  }

  /** Shows how long the call takes, and how much has come. */
  showFacts(millis = performance.now() - this.begun) {
    const what = this.method.broadcast ? "answer" : "item";
    const parts = [showMillis(millis)];
    if (this.count > 0 || this.method.stream) parts.push(plural(this.count, what));
    if (this.count > MAX_ITEMS) parts.push(`the last ${MAX_ITEMS} are shown`);
    setText(this.facts, parts.join(" · "));
  }

  /** Shows that the call has ended: `word` says how, in the color of `kind`. */
  end(word, kind, executed, millis) {
    clearInterval(this.timer);
    this.showRows();
    this.showFacts(millis);
    setText(this.state, word);
    this.state.className = `outcome ${kind}`;
    if (executed) {
      this.facts.append(
        " · ",
        h(
          "span",
          { class: `executed ${executed}`, title: EXECUTED[executed] },
          `executed: ${executed}`,
        ),
      );
    }
    this.outcome = {
      outcome: word,
      kind,
      executed,
      millis: millis ?? performance.now() - this.begun,
      trace: this.trace,
    };
  }

  /** The user has stopped the call. */
  stopped() {
    this.end("stopped", "stopped", null);
    this.body.append(
      h(
        "p",
        { class: "muted" },
        this.method.stream || this.method.idempotent || this.method.cancel
          ? "The call was dropped, and its worker cancels the method."
          : "The call was dropped. The method may still run to its end.",
      ),
    );
  }

  /** The console has not made the call, or the connection to it has ended. */
  refused(error) {
    const details =
      error instanceof Refused
        ? { ...error.details, message: error.message, executed: this.trace ? "maybe" : "no" }
        : {
            message: "the connection to the console has ended",
            executed: this.trace ? "maybe" : "no",
          };
    this.body.append(h("div", { class: "failure" }, failureOf(details)));
    this.end("refused", "failed", details.executed);
  }

  /** The lines have ended. The last one should have said how the call ended. */
  close() {
    if (this.state.classList.contains("running")) this.refused(new Error("the answer breaks off"));
  }
}

function workerOf(worker) {
  return h(
    "span",
    { class: "muted" },
    `${worker.name ?? worker.id.slice(0, 8)} on ${worker.host ?? "?"} `,
  );
}

/** Returns what is shown of a failure. */
function failureOf({ message, error, executed, hint }) {
  return [
    h("p", { class: "failure-text" }, message),
    error ? h("pre", { class: "json" }, ...show(error)) : null,
    hint ? h("p", { class: "muted" }, hint) : null,
    executed ? h("p", { class: "muted" }, `Executed: ${executed} – ${EXECUTED[executed]}.`) : null,
  ];
}
