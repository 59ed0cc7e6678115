// Compiled, not run: tsc proves that a type and its descriptor agree.
import { method, t, type Method, type Type } from "rpc-runtime";

interface Named {
  x: number;
  y: string;
}

export const agrees: Type<Named> = t.struct({ x: t.u8, y: t.string });
// @ts-expect-error A field is missing.
export const missing: Type<Named> = t.struct({ x: t.u8 });
// @ts-expect-error A field is unknown to the type.
export const unknown: Type<Named> = t.struct({ x: t.u8, y: t.string, z: t.bool });
// @ts-expect-error Integers of 64 bits are bigints.
export const wide: Type<Named> = t.struct({ x: t.u64, y: t.string });
// @ts-expect-error The type does not allow the field to be absent.
export const absent: Type<Named> = t.struct({ x: t.u8, y: t.optional(t.string) });

type Variant = { kind: "A"; value: number } | { kind: "B" };

export const variants: Type<Variant> = t.variants({ A: t.u8, B: null });
// @ts-expect-error A variant is missing.
export const fewer: Type<Variant> = t.variants({ A: t.u8 });
// @ts-expect-error A variant has no content.
export const fuller: Type<Variant> = t.variants({ A: t.u8, B: t.u8 });
// @ts-expect-error A name is missing.
export const names: Type<"x" | "y"> = t.enumeration("x");

/** `()` within other values. */
export const nothing: Type<null> = t.unit;

interface Arguments {
  one: string;
  two: string | null;
  three: string | undefined;
}

export const call: Method<Arguments, number, null, "unary"> = method({
  name: "call",
  args: { one: t.string, two: t.option(t.string), three: t.optional(t.string) },
  result: t.u8,
});
// @ts-expect-error An argument may be left out.
export const complete: Method<Record<keyof Arguments, string>, number, null, "unary"> = call;
