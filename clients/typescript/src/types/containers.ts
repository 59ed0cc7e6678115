import { entriesOf, isMap } from "./maps.js";
import { mismatch, ValueError, within, type Type, type TypeOf } from "./type.js";

/** `Option<T>`: a missing field is `null` too. */
export function option<T>(inner: Type<T>): Type<T | null> {
  return {
    toPlain: (value) => (value === null || value === undefined ? null : inner.toPlain(value)),
    fromPlain: (plain) => (plain === null || plain === undefined ? null : inner.fromPlain(plain)),
    missing: () => null,
  };
}

/** `Vec<T>`, sets, and arrays whose length is not checked. */
export function list<T>(inner: Type<T>): Type<T[]> {
  return {
    toPlain: (value) => {
      if (!Array.isArray(value)) throw mismatch("an array", value);
      return convert(value, inner.toPlain);
    },
    fromPlain: (plain) => {
      // A peer may write a list of `u8` as bytes.
      if (plain instanceof Uint8Array) return convert([...plain], inner.fromPlain);
      if (!Array.isArray(plain)) throw mismatch("an array", plain);
      return convert(plain, inner.fromPlain);
    },
  };
}

/** Converts each value. An error names the index of its value. */
function convert<A, B>(values: readonly A[], convertOne: (value: A) => B): B[] {
  const converted: B[] = [];
  for (let i = 0; i < values.length; i++) {
    try {
      converted.push(convertOne(values[i] as A));
    } catch (error) {
      throw within(error, `[${i}]`);
    }
  }
  return converted;
}

type TupleOf<D extends readonly Type<any>[]> = { -readonly [K in keyof D]: TypeOf<D[K]> };

/** `(A, B)`, tuple structs and arrays of a known length. */
export function tuple<const D extends readonly Type<any>[]>(...types: D): Type<TupleOf<D>> {
  const check = (value: unknown): readonly unknown[] => {
    if (!Array.isArray(value)) throw mismatch("an array", value);
    if (value.length !== types.length) {
      throw new ValueError(`expected ${types.length} elements, not ${value.length}`);
    }
    return value;
  };
  const convertAll = (values: readonly unknown[], direction: "toPlain" | "fromPlain"): unknown[] =>
    values.map((value, i) => {
      try {
        return types[i]![direction](value);
      } catch (error) {
        throw within(error, `[${i}]`);
      }
    });
  return {
    toPlain: (value) => convertAll(check(value), "toPlain"),
    fromPlain: (plain) => convertAll(check(plain), "fromPlain") as TupleOf<D>,
  };
}

/** Maps whose keys are text. */
export function record<V>(value: Type<V>): Type<Record<string, V>> {
  return {
    toPlain: (map) => {
      if (!isMap(map) || map instanceof Map) throw mismatch("an object", map);
      return new Map(
        Object.entries(map).map(([key, item]) => [key, inEntry(key, item, value.toPlain)]),
      );
    },
    fromPlain: (plain) => {
      if (!isMap(plain)) throw mismatch("a map", plain);
      const entries = entriesOf(plain).map(([key, item]): [string, V] => {
        if (typeof key !== "string") throw mismatch("keys that are strings", key);
        return [key, inEntry(key, item, value.fromPlain)];
      });
      // Unlike an assignment, this makes an ordinary property of `__proto__`.
      return Object.fromEntries(entries);
    },
  };
}

/** Maps whose keys are integers, booleans, characters or unit variants. */
export function map<K, V>(key: Type<K>, value: Type<V>): Type<Map<K, V>> {
  const readKey = (plain: unknown): K => {
    // In JSON, all keys are text.
    if (typeof plain === "string" && key.text !== undefined) return key.text.parse(plain);
    return key.fromPlain(plain);
  };
  return {
    toPlain: (entries) => {
      if (!(entries instanceof Map)) throw mismatch("a Map", entries);
      return new Map(
        [...entries].map(([name, item]) => [
          inEntry("key", name, key.toPlain),
          inEntry(String(name), item, value.toPlain),
        ]),
      );
    },
    fromPlain: (plain) => {
      if (!isMap(plain)) throw mismatch("a map", plain);
      return new Map(
        entriesOf(plain).map(([name, item]): [K, V] => [
          inEntry("key", name, readKey),
          inEntry(String(name), item, value.fromPlain),
        ]),
      );
    },
  };
}

/** Converts the key or the value of an entry. An error has the label in its path. */
function inEntry<A, B>(label: string, item: A, convertOne: (item: A) => B): B {
  try {
    return convertOne(item);
  } catch (error) {
    throw within(error, `[${JSON.stringify(label)}]`);
  }
}

/** A type that is declared later, or contains itself. It has no `missing` and no `text`. */
export function lazy<T>(get: () => Type<T>): Type<T> {
  return {
    toPlain: (value) => get().toPlain(value),
    fromPlain: (plain) => get().fromPlain(plain),
  };
}
