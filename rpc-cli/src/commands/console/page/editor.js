// Where the arguments of a method are written: in a form, or as JSON.

import { h, newId } from "./dom.js";
import { Mistake, argumentsForm, jsonField } from "./form.js";
import { parse, pretty } from "./json.js";

/**
 * Makes the editor. `showMistake` tells the user what to correct. `read()` returns JSON text, or
 * throws a `Mistake`.
 */
export function argumentsEditor(method, definitions, showMistake) {
  const form = argumentsForm(method, definitions);
  const label = newId();
  const json = jsonField(label, "{}", 6);
  const jsonElement = h(
    "div",
    {},
    h("label", { id: label, for: json.inputId, class: "label" }, "Arguments by name"),
    json.element,
  );
  const body = h("div", { class: "call-body" }, form.element);
  const buttons = ["Form", "JSON"].map((name) =>
    h("button", { type: "button", "aria-pressed": String(name === "Form") }, name),
  );
  let isJson = false;

  const show = (wantsJson) => {
    isJson = wantsJson;
    body.replaceChildren(isJson ? jsonElement : form.element);
    buttons.forEach((button, index) =>
      button.setAttribute("aria-pressed", String((index === 1) === isJson)),
    );
  };
  const toJson = () => {
    json.input.value = pretty(form.read());
    show(true);
  };
  const toForm = () => {
    const value = parse(json.read());
    if (!form.fill(value))
      throw new Mistake("the form cannot show this JSON: it can be sent as it is", json.input);
    show(false);
  };
  buttons.forEach((button, index) =>
    button.addEventListener("click", () => {
      const wantsJson = index === 1;
      if (wantsJson === isJson) return;
      try {
        if (wantsJson) toJson();
        else toForm();
      } catch (mistake) {
        showMistake(mistake);
      }
    }),
  );

  const head =
    method.arguments.length > 0
      ? [
          h("h2", {}, "Arguments"),
          h(
            "div",
            { class: "modes", role: "group", "aria-label": "How to write the arguments" },
            buttons,
          ),
        ]
      : [h("h2", {}, "No arguments")];
  return {
    element: h("div", {}, h("div", { class: "panel-head" }, head), body),
    read: () => (isJson ? json.read() : form.read()),
  };
}

/** Makes a field for the items that a method receives. */
export function itemsField(incoming) {
  const input = h("textarea", {
    class: "code",
    id: newId(),
    rows: 4,
    autocomplete: "off",
    spellcheck: "false",
  });
  return {
    element: h(
      "div",
      { class: "field" },
      h(
        "div",
        { class: "label" },
        h("label", { for: input.id }, "Items to send, one a line, as JSON"),
        h("span", { class: "muted" }, incoming.type),
      ),
      input,
    ),
    read() {
      for (const [index, line] of input.value.split("\n").entries()) {
        if (line.trim() === "") continue;
        try {
          parse(line);
        } catch (error) {
          throw new Mistake(`line ${index + 1} is not JSON: ${error.message}`, input);
        }
      }
      return input.value;
    },
  };
}
