import { entriesOf, isMap, valueOf, without } from "./maps.js";
import { mismatch, ValueError, within, type Simplify, type Type, type TypeOf } from "./type.js";

/** The variants of an enum, by their names on the wire. `null` for one without content. */
export type Variants = Readonly<Record<string, Type<any> | null>>;

/** Values of an externally tagged enum. */
export type VariantsOf<V extends Variants> = {
  [K in keyof V & string]: V[K] extends Type<infer C> ? { kind: K; value: C } : { kind: K };
}[keyof V & string];

/** Values of an internally tagged enum. */
export type TaggedOf<Tag extends string, V extends Variants> = {
  [K in keyof V & string]: V[K] extends Type<infer C>
    ? Simplify<{ [P in Tag]: K } & C>
    : { [P in Tag]: K };
}[keyof V & string];

/** Values of an adjacently tagged enum. */
export type AdjacentOf<Tag extends string, Content extends string, V extends Variants> = {
  [K in keyof V & string]: V[K] extends Type<infer C>
    ? Simplify<{ [P in Tag]: K } & { [P in Content]: C }>
    : { [P in Tag]: K };
}[keyof V & string];

/** An enum of variants without content. */
export function enumeration<const N extends readonly string[]>(...names: N): Type<N[number]> {
  const known = new Set<string>(names);
  const check = (value: unknown): N[number] => {
    if (typeof value !== "string") throw mismatch(`one of ${quoted(names)}`, value);
    if (!known.has(value)) throw new ValueError(`expected one of ${quoted(names)}`);
    return value;
  };
  const fromPlain = (plain: unknown): N[number] => {
    // Serde's other form of a unit variant: `{"Name": null}`.
    if (isMap(plain)) {
      const [entry, ...others] = entriesOf(plain);
      if (entry !== undefined && others.length === 0 && entry[1] === null) return check(entry[0]);
    }
    return check(plain);
  };
  return { toPlain: check, fromPlain, text: { parse: check, format: check } };
}

/** An externally tagged enum, which is serde's default. */
export function variants<const V extends Variants>(variants: V): Type<VariantsOf<V>> {
  const find = finder(variants);
  return {
    toPlain: (value) => {
      if (!isMap(value)) throw mismatch("an object with a `kind`", value);
      const kind = valueOf(value, "kind");
      const { name, type } = find(kind, "kind");
      if (type === null) return name;
      return new Map([[name, inVariant(name, () => type.toPlain(valueOf(value, "value")))]]);
    },
    fromPlain: (plain) => {
      if (typeof plain === "string") {
        const { name, type } = find(plain, "");
        if (type === null) return { kind: name } as VariantsOf<V>;
        if (type.missing === undefined) throw new ValueError("has no content", name);
        return { kind: name, value: type.missing() } as VariantsOf<V>;
      }
      if (!isMap(plain)) throw mismatch("a variant", plain);
      const entries = entriesOf(plain);
      if (entries.length !== 1) {
        throw new ValueError(`expected a map with one entry, not ${entries.length}`);
      }
      const [key, content] = entries[0]!;
      const { name, type } = find(key, "");
      if (type === null) return { kind: name } as VariantsOf<V>;
      return { kind: name, value: inVariant(name, () => type.fromPlain(content)) } as VariantsOf<V>;
    },
  };
}

/** An internally tagged enum: `#[serde(tag = "type")]`. */
export function tagged<const Tag extends string, const V extends Variants>(
  tag: Tag,
  variants: V,
): Type<TaggedOf<Tag, V>> {
  const find = finder(variants);
  return {
    toPlain: (value) => {
      if (!isMap(value)) throw mismatch(`an object with the tag ${JSON.stringify(tag)}`, value);
      const { name, type } = find(valueOf(value, tag), tag);
      const plain = new Map<unknown, unknown>([[tag, name]]);
      if (type === null) return plain;
      const content = type.toPlain(Object.fromEntries(without(value, tag)));
      if (!isMap(content)) throw new ValueError("the content of the variant is no map", name);
      for (const [key, item] of entriesOf(content)) {
        if (key === tag) throw new ValueError("is the name of the tag, and of a field", name);
        plain.set(key, item);
      }
      return plain;
    },
    fromPlain: (plain) => {
      if (!isMap(plain)) throw mismatch("a map", plain);
      const { name, type } = find(valueOf(plain, tag), tag);
      if (type === null) return { [tag]: name } as TaggedOf<Tag, V>;
      const content = type.fromPlain(without(plain, tag)) as object;
      return { [tag]: name, ...content } as TaggedOf<Tag, V>;
    },
  };
}

/** An adjacently tagged enum: `#[serde(tag = "t", content = "c")]`. */
export function adjacent<
  const Tag extends string,
  const Content extends string,
  const V extends Variants,
>(tag: Tag, content: Content, variants: V): Type<AdjacentOf<Tag, Content, V>> {
  const find = finder(variants);
  return {
    toPlain: (value) => {
      if (!isMap(value)) throw mismatch(`an object with the tag ${JSON.stringify(tag)}`, value);
      const { name, type } = find(valueOf(value, tag), tag);
      const plain = new Map<string, unknown>([[tag, name]]);
      if (type === null) return plain;
      return plain.set(
        content,
        inVariant(content, () => type.toPlain(valueOf(value, content))),
      );
    },
    fromPlain: (plain) => {
      if (!isMap(plain)) throw mismatch("a map", plain);
      const { name, type } = find(valueOf(plain, tag), tag);
      if (type === null) return { [tag]: name } as AdjacentOf<Tag, Content, V>;
      const inner = valueOf(plain, content);
      if (inner === undefined && type.missing === undefined) {
        throw new ValueError("is missing", content);
      }
      const read = inVariant(content, () =>
        inner === undefined ? type.missing!() : type.fromPlain(inner),
      );
      return { [tag]: name, [content]: read } as AdjacentOf<Tag, Content, V>;
    },
  };
}

/** An untagged enum: the first type that the value fits. */
export function untagged<const D extends readonly Type<any>[]>(
  ...types: D
): Type<TypeOf<D[number]>> {
  const first = (value: unknown, direction: "toPlain" | "fromPlain"): unknown => {
    for (const type of types) {
      try {
        return type[direction](value);
      } catch (error) {
        if (!(error instanceof ValueError)) throw error;
      }
    }
    throw new ValueError("fits none of the variants");
  };
  return {
    toPlain: (value) => first(value, "toPlain"),
    fromPlain: (plain) => first(plain, "fromPlain") as TypeOf<D[number]>,
  };
}

/** Returns a function that finds a variant by its name. An error has the path to the name. */
function finder(variants: Variants) {
  const names = Object.keys(variants);
  return (kind: unknown, path: string): { name: string; type: Type<any> | null } => {
    if (kind === undefined) throw new ValueError("is missing", path);
    if (typeof kind !== "string" || !Object.hasOwn(variants, kind)) {
      throw new ValueError(`expected one of ${quoted(names)}`, path);
    }
    return { name: kind, type: variants[kind]! };
  };
}

/** Converts the content of a variant. An error has the name, of variant or field, in its path. */
function inVariant<T>(name: string, convert: () => T): T {
  try {
    return convert();
  } catch (error) {
    throw within(error, name);
  }
}

function quoted(names: readonly string[]): string {
  return names.map((name) => JSON.stringify(name)).join(", ");
}
