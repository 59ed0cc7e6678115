// Makes forms from JSON Schemas (draft 7, as descriptions of services have them). What has no form
// gets a field for JSON.
//
// A field has:
// - `element`,
// - `inputId`, the id of the input that its label is for, if it has only one,
// - `read()`, which returns JSON text and throws a `Mistake`,
// - `fill(value)`, which takes a parsed value and returns whether the field can show it,
// - `clear()`, if it is optional: it leaves the value out, and returns whether that is possible.
//
// `labelledBy` is the id of a field's label.

import { h, newId } from "./dom.js";
import { parse, pretty, write } from "./json.js";

/** How deep fields may be nested. */
const MAX_DEPTH = 6;

/** How many items a list shows. */
const MAX_ITEMS = 200;

/** What an optional field may be without a value. */
const NULL = "null";
const LEFT_OUT = "left out";

/** What a user has entered and cannot be sent. */
export class Mistake extends Error {
  constructor(message, input) {
    super(message);
    this.input = input;
  }
}

/**
 * The definitions of a service, and how much may still be made of them. Anyone can describe a
 * service, and a short schema may have a form without end: what is beyond the limits gets a field
 * for JSON. Each action of the user begins with new limits.
 */
class Context {
  constructor(definitions) {
    this.definitions = definitions;
    this.renew();
  }

  /** Sets new limits: on schemas that are looked at, and on fields that are made. */
  renew(steps = 20_000, fields = 300) {
    this.steps = steps;
    this.fields = fields;
  }

  spend(steps = 1) {
    this.steps -= steps;
    // Not `<`: a malformed schema may have made it `NaN`.
    if (!(this.steps >= 0)) throw new RangeError("the schema is too large for a form");
  }

  spendFields(fields) {
    this.fields -= fields;
    if (!(this.fields >= 0)) throw new RangeError("the form has too many fields");
  }
}

/** Makes a form for the arguments of a method. */
export function argumentsForm(method, definitions) {
  const members = method.arguments.map((argument) => ({
    name: argument.name,
    hint: argument.type,
    isOptional: argument.optional,
    schema: argument.schema ?? true,
  }));
  const context = new Context(definitions);
  const form = membersField(members, context, 0);
  return {
    ...form,
    fill(value) {
      // What the user has written may be longer than what a schema alone should make.
      context.renew(100_000, 5000);
      try {
        return form.fill(value);
      } catch {
        // The value has more fields than are made.
        return false;
      }
    },
  };
}

/** Makes the field of a schema, with a box in front of it if the value may be `null`. */
function fieldOf(schema, context, depth, labelledBy) {
  return orJson(labelledBy, () => {
    const { resolved, isNullable } = resolve(schema, context);
    const make = () => orJson(labelledBy, () => fieldOfKind(resolved, context, depth, labelledBy));
    return isNullable ? optionalField(make, NULL, labelledBy, context) : make();
  });
}

/** Makes a field, or one for JSON if `make` throws: a schema may be too large, or malformed. */
function orJson(labelledBy, make) {
  try {
    return make();
  } catch {
    return jsonField(labelledBy);
  }
}

/** Makes the field of a schema that is no reference and does not allow `null`. */
function fieldOfKind(schema, context, depth, labelledBy) {
  if (depth >= MAX_DEPTH || typeof schema !== "object" || schema === null)
    return jsonField(labelledBy);
  const constants = constantsOf(schema, context);
  if (constants) return choiceField(constants, labelledBy);
  const variants = schema.properties ? null : (schema.oneOf ?? schema.anyOf);
  if (variants) return variantsField(variants, context, depth, labelledBy);
  switch (schema.type) {
    case "string":
      return schema.contentEncoding ? jsonField(labelledBy) : textField(labelledBy);
    case "integer":
    case "number":
      return numberField(schema, labelledBy);
    case "boolean":
      return choiceField(["false", "true"], labelledBy);
    case "array":
      return Array.isArray(schema.items) || schema.items === undefined
        ? jsonField(labelledBy)
        : listField(schema.items, context, depth, labelledBy);
    case "object":
      if (!schema.properties || schema.oneOf || schema.anyOf) return jsonField(labelledBy);
      return membersField(membersOf(schema), context, depth + 1, labelledBy);
    default:
      return jsonField(labelledBy);
  }
}

/** Follows references, and takes `null` out of the alternatives. */
function resolve(schema, context) {
  let resolved = schema;
  let isNullable = false;
  for (let step = 0; step < 20; step++) {
    context.spend();
    if (typeof resolved !== "object" || resolved === null) break;
    const alternatives = resolved.anyOf ?? resolved.oneOf;
    context.spend(alternatives?.length);
    const rest = alternatives?.filter((one) => one?.type !== "null");
    if (resolved.$ref) {
      resolved = context.definitions[decodeURIComponent(resolved.$ref.split("/").at(-1))] ?? true;
    } else if (resolved.allOf?.length === 1) {
      [resolved] = resolved.allOf;
    } else if (Array.isArray(resolved.type) && resolved.type.includes("null")) {
      isNullable = true;
      context.spend(Object.keys(resolved).length);
      const types = resolved.type.filter((type) => type !== "null");
      resolved = { ...resolved, type: types.length === 1 ? types[0] : types };
    } else if (rest?.length === 1 && rest.length < alternatives.length) {
      isNullable = true;
      [resolved] = rest;
    } else {
      break;
    }
  }
  return { resolved, isNullable };
}

/** Returns the values of a type that lists them, as JSON text, or nothing for any other type. */
function constantsOf(schema, context) {
  context.spend(1 + (schema.enum?.length ?? 0));
  if (schema.enum) return schema.enum.map(exactText);
  if (schema.const !== undefined) return [exactText(schema.const)];
  const all = (schema.oneOf ?? schema.anyOf)?.map((one) =>
    constantsOf(resolve(one, context).resolved ?? {}, context),
  );
  return all?.length && all.every(Boolean) ? all.flat() : null;
}

/** Returns a value as JSON text. Throws if the page may have rounded a number in it. */
function exactText(value) {
  return JSON.stringify(value, (_, part) => {
    if (Number.isInteger(part) && !Number.isSafeInteger(part)) throw new RangeError("rounded");
    return part;
  });
}

/** Returns the fields of an object as members. */
function membersOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties).map(([name, of]) => ({
    name,
    hint: of?.description ?? "",
    isOptional: !required.has(name),
    schema: of,
  }));
}

/** Fields by name: an object, or the arguments of a method. */
function membersField(members, context, depth, labelledBy) {
  context.spendFields(members.length);
  const fields = members.map(({ name, hint, isOptional, schema }) => {
    const id = newId();
    const make = () => fieldOf(schema, context, depth, id);
    const field = isOptional
      ? optionalField(() => makeWithoutNull(schema, context, depth, id), LEFT_OUT, id, context)
      : make();
    const label = h(
      "div",
      { class: "label" },
      h("label", { id, for: field.inputId }, name),
      h("span", { class: "muted" }, hint),
    );
    return { name, field, element: h("div", { class: "field" }, label, field.element) };
  });
  return {
    element: h(
      "div",
      {
        class: depth === 0 ? "fields" : "fields nested",
        role: "group",
        "aria-labelledby": labelledBy,
      },
      fields.map(({ element }) => element),
    ),
    read() {
      const entries = fields.map(({ name, field }) => [name, field.read()]);
      const given = entries.filter(([, text]) => text !== undefined);
      return `{${given.map(([name, text]) => `${JSON.stringify(name)}: ${text}`).join(", ")}}`;
    },
    fill(value) {
      if (value.kind !== "object") return false;
      const given = new Map(value.entries);
      const isKnown = [...given.keys()].every((name) =>
        members.some((member) => member.name === name),
      );
      return (
        isKnown &&
        fields.every(({ name, field }) =>
          given.has(name) ? field.fill(given.get(name)) : (field.clear?.() ?? false),
        )
      );
    },
  };
}

/** The field of a value that may be left out: it needs no second way to give nothing. */
function makeWithoutNull(schema, context, depth, id) {
  return orJson(id, () => fieldOfKind(resolve(schema, context).resolved, context, depth, id));
}

/** A field that is only there if its box is checked. Otherwise its value is `without`. */
function optionalField(make, without, labelledBy, context) {
  const body = h("div", { class: "optional-body" });
  const box = h("input", { type: "checkbox", id: newId(), "aria-labelledby": labelledBy });
  const text = h("span", { class: "muted" }, without);
  let field = null;
  const update = () => {
    // A type may contain itself, so its field is only made when it is wanted.
    if (box.checked) field ??= make();
    body.replaceChildren(...(box.checked ? [field.element] : [text]));
  };
  box.addEventListener("change", () => {
    context.renew();
    update();
    if (box.checked) body.querySelector("input, select, textarea")?.focus();
  });
  update();
  return {
    inputId: box.id,
    element: h("div", { class: "optional" }, box, body),
    read: () => (box.checked ? field.read() : without === NULL ? "null" : undefined),
    fill(value) {
      box.checked = value.text !== "null";
      update();
      return !box.checked || field.fill(value);
    },
    clear() {
      if (without === NULL) return false;
      box.checked = false;
      update();
      return true;
    },
  };
}

function textField(labelledBy) {
  const input = h("input", {
    type: "text",
    id: newId(),
    "aria-labelledby": labelledBy,
    autocomplete: "off",
    spellcheck: "false",
  });
  return {
    inputId: input.id,
    element: input,
    read: () => JSON.stringify(input.value),
    fill(value) {
      if (value.kind !== "string") return false;
      const text = JSON.parse(value.text);
      // An input of one line would lose the line feeds.
      if (/[\r\n]/.test(text)) return false;
      input.value = text;
      return true;
    },
  };
}

function numberField(schema, labelledBy) {
  const isInteger = schema.type === "integer";
  const least = schema.minimum ?? 0;
  const input = h("input", {
    type: "text",
    inputmode: isInteger ? "numeric" : "decimal",
    class: "number",
    id: newId(),
    "aria-labelledby": labelledBy,
    autocomplete: "off",
    value: String(least > 0 ? least : 0),
  });
  // The digits stay text: a number of JavaScript would lose some.
  const pattern = isInteger ? /^-?(0|[1-9]\d*)$/ : /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
  return {
    inputId: input.id,
    element: input,
    read() {
      const text = input.value.trim();
      if (!pattern.test(text))
        throw new Mistake(isInteger ? "write a whole number" : "write a number", input);
      if (isInteger && schema.minimum !== undefined && BigInt(text) < schema.minimum) {
        throw new Mistake(`the number is at least ${schema.minimum}`, input);
      }
      return text;
    },
    fill(value) {
      if (value.kind !== "number") return false;
      input.value = value.text;
      return true;
    },
  };
}

/** A choice between values, which are JSON text. */
function choiceField(values, labelledBy) {
  const options = values.map((value) =>
    h("option", { value }, /^"/.test(value) ? JSON.parse(value) : value),
  );
  const select = h("select", { id: newId(), "aria-labelledby": labelledBy }, options);
  return {
    inputId: select.id,
    element: select,
    read: () => select.value,
    fill(value) {
      // Texts may be equal and have other escapes.
      const text = values.find(
        (known) =>
          known === value.text ||
          (value.kind === "string" && known === JSON.stringify(JSON.parse(value.text))),
      );
      if (text !== undefined) select.value = text;
      return text !== undefined;
    },
  };
}

/** A choice between types, such as the variants of an enum with contents. */
function variantsField(variants, context, depth, labelledBy) {
  context.spendFields(1);
  const body = h("div", { class: "variant" });
  const select = h(
    "select",
    { id: newId(), "aria-labelledby": labelledBy },
    variants.map((variant, index) =>
      h("option", { value: index }, nameOf(variant, context) ?? `variant ${index + 1}`),
    ),
  );
  const fields = new Map();
  const current = () => {
    const index = Number(select.value);
    if (!fields.has(index))
      fields.set(index, variantField(variants[index], context, depth + 1, labelledBy));
    return fields.get(index);
  };
  const update = () => {
    const { resolved } = resolve(variants[Number(select.value)], context);
    // A variant that is a constant needs no field: the choice says it all.
    const isConstant = constantsOf(resolved ?? {}, context)?.length === 1;
    body.replaceChildren(...(isConstant ? [] : [current().element]));
  };
  select.addEventListener("change", () => {
    context.renew();
    update();
  });
  update();
  return {
    inputId: select.id,
    element: h("div", {}, select, body),
    read: () => current().read(),
    fill(value) {
      const found = variants.findIndex((_, index) => {
        select.value = String(index);
        return current().fill(value);
      });
      if (found >= 0) update();
      return found >= 0;
    },
  };
}

/**
 * The field of a variant. The name of one like `{"Paid": ..}` is already chosen, so its field is
 * only the content.
 */
function variantField(variant, context, depth, labelledBy) {
  const { resolved } = resolve(variant, context);
  const names = Object.keys(resolved?.properties ?? {});
  const isNamed =
    names.length === 1 &&
    resolved.required?.includes(names[0]) &&
    !constantsOf(resolved.properties[names[0]] ?? {}, context);
  if (!isNamed) return fieldOf(variant, context, depth, labelledBy);
  const [name] = names;
  const content = fieldOf(resolved.properties[name], context, depth, labelledBy);
  return {
    element: content.element,
    read: () => `{${JSON.stringify(name)}: ${content.read()}}`,
    fill: (value) =>
      value.kind === "object" &&
      value.entries.length === 1 &&
      value.entries[0][0] === name &&
      content.fill(value.entries[0][1]),
  };
}

/** Returns what a choice calls a variant, or nothing if it has no name. */
function nameOf(variant, context) {
  const reference = variant.$ref?.split("/").at(-1);
  const { resolved } = resolve(variant, context);
  const constants = constantsOf(resolved ?? {}, context);
  const names = Object.keys(resolved?.properties ?? {});
  context.spend(names.length);
  if (constants?.length === 1) return JSON.parse(constants[0]);
  const tag = Object.values(resolved?.properties ?? {}).find(
    (of) => of?.const !== undefined || of?.enum?.length === 1,
  );
  return (
    variant.title ??
    tag?.const ??
    tag?.enum?.[0] ??
    (names.length === 1 ? names[0] : undefined) ??
    reference ??
    resolved?.type
  );
}

function listField(items, context, depth, labelledBy) {
  const list = h("ol", { class: "list" });
  const fields = [];
  const add = () => {
    context.spendFields(1);
    const field = fieldOf(items, context, depth + 1, labelledBy);
    const remove = h(
      "button",
      { type: "button", class: "quiet", "aria-label": "Remove this item" },
      "×",
    );
    const row = h("li", {}, field.element, remove);
    remove.addEventListener("click", () => {
      fields.splice(fields.indexOf(field), 1);
      row.remove();
      button.focus();
    });
    fields.push(field);
    list.append(row);
    return field;
  };
  const button = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => {
        context.renew();
        add().element.querySelector?.("input, select, textarea")?.focus();
      },
    },
    "+ item",
  );
  return {
    element: h("div", { role: "group", "aria-labelledby": labelledBy }, list, button),
    read: () => `[${fields.map((field) => field.read()).join(", ")}]`,
    fill(value) {
      if (value.kind !== "array" || value.items.length > MAX_ITEMS) return false;
      fields.length = 0;
      list.replaceChildren();
      return value.items.every((item) => add().fill(item));
    },
  };
}

/** A field for any JSON. */
export function jsonField(labelledBy, text = "null", rows = 2) {
  const input = h("textarea", {
    class: "code",
    id: newId(),
    rows,
    "aria-labelledby": labelledBy,
    autocomplete: "off",
    spellcheck: "false",
    autocapitalize: "off",
  });
  input.value = text;
  return {
    inputId: input.id,
    element: input,
    input,
    read() {
      try {
        parse(input.value);
      } catch (error) {
        throw new Mistake(`this is not JSON: ${error.message}`, input);
      }
      return input.value;
    },
    fill(value) {
      input.value = pretty(write(value));
      return true;
    },
  };
}
