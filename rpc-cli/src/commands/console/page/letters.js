// The dead letters of a queue, and what can be done with them.

import { ask } from "./api.js";
import { h, plural, setText, showAge, showCount, showSize, tableHead } from "./dom.js";
import { show } from "./json.js";
import { state } from "./state.js";

/** Makes the panel with the dead letters of a queue. */
export function lettersPanel(queue) {
  const isReadOnly = state.hello?.read_only ?? false;
  const rows = h("tbody");
  const status = h("p", { class: "muted", role: "status" });
  const head = h("div", { class: "actions" });
  const element = h(
    "section",
    { class: "panel letters", "aria-label": `Dead letters of ${queue}` },
    h("div", { class: "panel-head" }, h("h2", {}, "Dead letters of ", h("code", {}, queue)), head),
    status,
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "cards" },
        tableHead(
          ["Letter", "Method", "Reason", "Attempts", "Failed", "Size", "Error", ""],
          ["Attempts", "Failed", "Size"],
        ),
        rows,
      ),
    ),
  );

  let isBusy = false;
  /** Runs `what` unless something else is running, and shows `doing` meanwhile, or the failure. */
  const work = async (doing, what) => {
    if (isBusy) return;
    isBusy = true;
    element.classList.add("is-busy");
    setText(status, doing);
    try {
      await what();
    } catch (error) {
      setText(status, failureText(error));
    }
    isBusy = false;
    element.classList.remove("is-busy");
  };

  const load = () => work("Looking at the letters…", async () => setText(status, await list()));
  /** Shows the letters. Returns what to say about them. */
  const list = async () => {
    const { letters, more, notes } = await ask("/api/letters/list", { queue });
    rows.replaceChildren(...letters.map(letterRow));
    for (const button of head.querySelectorAll(".all")) button.disabled = letters.length === 0;
    const found =
      letters.length === 0 ? "There are no dead letters." : plural(letters.length, "letter");
    return [found + (more > 0 ? `, and ${more} more that are not shown` : ""), ...notes].join(". ");
  };

  const change = (action, letters) =>
    work(action === "retry" ? "Sending again…" : "Dropping…", async () => {
      const parts = await ask("/api/letters/change", { queue, action, letters }).then(
        (changed) => changedTexts(action, changed),
        (error) => [failureText(error), ...changedTexts(action, error.details?.changed)],
      );
      // Also after a failure: letters before it were changed.
      const shown = await list().catch(failureText);
      setText(status, [...parts, shown].join(". "));
    });

  const confirmed = async (question, action, letters) => {
    if (await confirm(question, action === "retry" ? "Retry" : "Drop")) change(action, letters);
  };

  const letterRow = (letter) => {
    const cell = (label, content, className) =>
      h("td", { "data-label": label, class: className }, content);
    const age =
      letter.last_failure_ms === null
        ? "–"
        : `${showAge((Date.now() - letter.last_failure_ms) / 1000)} ago`;
    const ids = { ids: [letter.id] };
    const question = `Drop the letter ${letter.id}? It is deleted for good.`;
    const buttons = isReadOnly
      ? []
      : [
          button("Retry", "retry", () => change("retry", ids)),
          button("Drop", "quiet danger", () => confirmed(question, "drop", ids)),
        ];
    const details = h(
      "button",
      { type: "button", class: "link", "aria-expanded": "false", title: "Show everything in it" },
      h("code", {}, letter.id.slice(0, 8)),
    );
    const element = h(
      "tr",
      {},
      cell("Letter", details),
      cell("Method", letter.method ?? "–"),
      cell("Reason", letter.reason ? h("span", { class: "badge bad" }, letter.reason) : "–"),
      cell("Attempts", showCount(letter.attempts), "right"),
      cell("Failed", age, "right"),
      cell("Size", showSize(letter.bytes), "right"),
      cell("Error", h("span", { class: "error-text", title: letter.error }, letter.error ?? "–")),
      cell("", h("span", { class: "row-actions" }, buttons)),
    );
    /** The row with everything that is in the letter. `null` if it is closed. */
    let open = null;
    const close = () => {
      open.remove();
      open = null;
      details.setAttribute("aria-expanded", "false");
    };
    const unfold = async () => {
      const whole = await ask("/api/letters/show", { queue, id: letter.id });
      open = h("tr", { class: "letter-details" }, h("td", { colspan: 8 }, letterDetails(whole)));
      element.after(open);
      details.setAttribute("aria-expanded", "true");
      setText(status, "");
    };
    details.addEventListener("click", () => {
      if (open) close();
      else work("Looking at the letter…", unfold);
    });
    return element;
  };

  head.append(button("Look again", "quiet", load));
  if (!isReadOnly) {
    const retryAll = `Send all dead letters of ${queue} to the queue again?`;
    const dropAll = `Drop all dead letters of ${queue}? They are deleted for good.`;
    head.append(
      button("Retry all", "all", () => confirmed(retryAll, "retry", "all")),
      button("Drop all", "all quiet danger", () => confirmed(dropAll, "drop", "all")),
    );
  }
  return { element, load };
}

function button(text, className, onclick) {
  return h("button", { type: "button", class: className, onclick }, text);
}

function letterDetails(letter) {
  const section = (name, content) => (content ? [h("h3", {}, name), content] : []);
  const json = (text) => h("pre", { class: "json" }, ...show(text));
  return h(
    "div",
    {},
    section("Error", letter.error ? h("pre", {}, letter.error) : null),
    section(
      "Arguments",
      letter.arguments === null
        ? h("p", { class: "muted" }, "They cannot be read.")
        : json(letter.arguments),
    ),
    section("Headers", letter.headers !== "{}" ? json(letter.headers) : null),
    section("Properties", json(letter.properties)),
  );
}

function failureText(error) {
  return [error.message, error.details?.hint].filter(Boolean).join(": ");
}

/** Tells what became of letters. Nothing if the server has not begun to change them. */
function changedTexts(action, changed) {
  if (!changed) return [];
  const texts = [
    `${plural(changed.done, "letter")} ${action === "retry" ? "sent to the queue again" : "dropped"}`,
  ];
  if (changed.stayed > 0)
    texts.push(`${plural(changed.stayed, "letter")} stayed: ${changed.reasons[0]?.reason ?? ""}`);
  return [...texts, ...changed.notes];
}

/** Asks the user, and returns whether the answer is yes. */
function confirm(question, yes) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-label": question },
      h(
        "form",
        { method: "dialog" },
        h("p", {}, question),
        h(
          "div",
          { class: "actions" },
          h("button", { value: "no", autofocus: true }, "Cancel"),
          h("button", { value: "yes", class: yes === "Drop" ? "danger" : "primary" }, yes),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
