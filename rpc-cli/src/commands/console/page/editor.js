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
  const formButton = h("button", { type: "button", "aria-pressed": "true" }, "Form");
  const jsonButton = h("button", { type: "button", "aria-pressed": "false" }, "JSON");
  let isJson = false;

  const show = (wantsJson) => {
    isJson = wantsJson;
    body.replaceChildren(isJson ? jsonElement : form.element);
    formButton.setAttribute("aria-pressed", String(!isJson));
    jsonButton.setAttribute("aria-pressed", String(isJson));
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
  const convert = (conversion) => {
    try {
      conversion();
    } catch (mistake) {
      showMistake(mistake);
    }
  };
  formButton.addEventListener("click", () => isJson && convert(toForm));
  jsonButton.addEventListener("click", () => !isJson && convert(toJson));

  const head =
    method.arguments.length > 0
      ? [
          h("h2", {}, "Arguments"),
          h(
            "div",
            { class: "modes", role: "group", "aria-label": "How to write the arguments" },
            formButton,
            jsonButton,
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
