import { ServerFailed } from "../errors.js";
import type { Implementation } from "../service.js";
import type { ServedMethod } from "./request-handler.js";
import { MethodStats } from "./stats.js";

/** The methods of a service, with what runs them. */
export function methodsOf({ service, handlers }: Implementation): ServedMethod[] {
  return Object.values(service.methods).map((method) => ({
    service: service.name,
    method,
    run: handlers.get(method.name)!,
    stats: new MethodStats(),
  }));
}

/** A table that is being filled. */
interface MutableTable {
  readonly byName: Map<string, ServedMethod>;
  byDefault: ServedMethod | null;
}

/** The methods on a queue, and on the control exchange. Throws on reserved or repeated names. */
export function tablesOf(
  queue: string,
  methods: readonly ServedMethod[],
): { readonly onQueue: MutableTable; readonly onControl: MutableTable } {
  const onQueue: MutableTable = { byName: new Map(), byDefault: null };
  const onControl: MutableTable = { byName: new Map(), byDefault: null };
  for (const served of methods) {
    const { name, broadcast, isDefault } = served.method;
    if (name.startsWith("rpc."))
      throw new ServerFailed(`the method's name ${JSON.stringify(name)} is reserved`);
    if (onQueue.byName.has(name) || onControl.byName.has(name)) {
      throw new ServerFailed(
        `two services on queue ${JSON.stringify(queue)} have a method ${JSON.stringify(name)}`,
      );
    }
    (broadcast ? onControl : onQueue).byName.set(name, served);
    if (!isDefault) continue;
    if (onQueue.byDefault !== null) {
      throw new ServerFailed(
        `two services on queue ${JSON.stringify(queue)} have a default method`,
      );
    }
    onQueue.byDefault = served;
  }
  return { onQueue, onControl };
}

/** The description of a service, with the queue that it is served on. */
export function describe({ service }: Implementation, queue: string): Record<string, unknown> {
  try {
    return { ...(JSON.parse(service.description) as Record<string, unknown>), queue };
  } catch (error) {
    throw new ServerFailed(`the description of ${JSON.stringify(service.name)} is no JSON`, {
      cause: error,
    });
  }
}
