/** Whether a plain value is a map: any object but an array and a `Uint8Array`. */
export function isMap(plain: unknown): plain is Map<unknown, unknown> | Record<string, unknown> {
  return (
    typeof plain === "object" &&
    plain !== null &&
    !Array.isArray(plain) &&
    !(plain instanceof Uint8Array)
  );
}

/** The entries of a plain map. */
export function entriesOf(
  map: Map<unknown, unknown> | Record<string, unknown>,
): [unknown, unknown][] {
  return map instanceof Map ? [...map] : Object.entries(map);
}

/** The value under a key that is text, or `undefined`. */
export function valueOf(
  map: Map<unknown, unknown> | Record<string, unknown>,
  key: string,
): unknown {
  if (map instanceof Map) return map.get(key);
  return Object.hasOwn(map, key) ? map[key] : undefined;
}

/** A copy of a map without one of its keys. */
export function without(
  map: Map<unknown, unknown> | Record<string, unknown>,
  key: string,
): Map<unknown, unknown> {
  return new Map(entriesOf(map).filter(([name]) => name !== key));
}
