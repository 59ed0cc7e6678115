import { isMap, valueOf } from "./maps.js";
import { mismatch, ValueError, within, type Simplify, type Type } from "./type.js";

/** A field that may be absent because its type has a default. */
export interface OptionalField<T> {
  readonly optional: Type<T>;
}

/** The fields of a struct, by their names on the wire. */
export type Fields = Readonly<Record<string, Type<any> | OptionalField<any>>>;

type OptionalNames<F extends Fields> = {
  [K in keyof F]: F[K] extends OptionalField<any> ? K : never;
}[keyof F];

/** The values of a struct with these fields. */
export type StructOf<F extends Fields> = Simplify<
  {
    -readonly [K in Exclude<keyof F, OptionalNames<F>>]: F[K] extends Type<infer T> ? T : never;
  } & {
    -readonly [K in OptionalNames<F>]?: F[K] extends OptionalField<infer T> ? T : never;
  }
>;

/** Marks a field that may be absent because its type has a default. */
export function optional<T>(type: Type<T>): OptionalField<T> {
  return { optional: type };
}

/** Other names that a field is read from, by its own name. */
export type Aliases = Readonly<Record<string, readonly string[]>>;

/** A struct, or the arguments of a method. Skips unknown fields, and reads arrays by position. */
export function struct<F extends Fields>(fields: F, aliases: Aliases = {}): Type<StructOf<F>> {
  const othersOf = (name: string) => (Object.hasOwn(aliases, name) ? aliases[name]! : []);
  const all = Object.entries(fields).map(([name, field]) => {
    const isOptional = "optional" in field;
    const type: Type<unknown> = isOptional ? field.optional : field;
    return { name, type, isOptional, names: [name, ...othersOf(name)] };
  });

  const toPlain = (value: StructOf<F>): unknown => {
    if (!isMap(value) || value instanceof Map) throw mismatch("an object", value);
    const plain = new Map<string, unknown>();
    for (const { name, type, isOptional } of all) {
      const field = valueOf(value, name);
      if (field === undefined && isOptional) continue;
      try {
        plain.set(name, type.toPlain(field));
      } catch (error) {
        throw within(error, name);
      }
    }
    return plain;
  };

  const fromPlain = (plain: unknown): StructOf<F> => {
    const isPositional = Array.isArray(plain);
    if (!isPositional && !isMap(plain)) throw mismatch("a map", plain);
    const entries = all.flatMap(({ name, type, isOptional, names }, i): [string, unknown][] => {
      const field: unknown = isPositional ? plain[i] : firstOf(plain, names);
      if (field === undefined && isOptional) return [];
      try {
        if (field !== undefined) return [[name, type.fromPlain(field)]];
        if (type.missing !== undefined) return [[name, type.missing()]];
      } catch (error) {
        throw within(error, name);
      }
      throw new ValueError("is missing", name);
    });
    return Object.fromEntries(entries) as StructOf<F>;
  };

  return { toPlain, fromPlain };
}

function firstOf(
  map: Map<unknown, unknown> | Record<string, unknown>,
  names: readonly string[],
): unknown {
  for (const name of names) {
    const value = valueOf(map, name);
    if (value !== undefined) return value;
  }
  return undefined;
}
