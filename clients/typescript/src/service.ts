import type { Context } from "./worker/context.js";
import type { AnyMethod, Method } from "./method.js";

/** The methods of a service, by their names in TypeScript. */
export type Methods = Readonly<Record<string, AnyMethod>>;

/** A service, as generated code declares it. */
export interface Service<M extends Methods> {
  readonly name: string;
  /** The request queue, unless a client or a server names another one. */
  readonly queue: string;
  readonly methods: M;
  /** The service's description, as JSON: workers return it in `rpc.describe`. */
  readonly description: string;
}

/** Declares a service. */
export function service<const M extends Methods>(declared: Service<M>): Service<M> {
  return declared;
}

/** A value, or a promise of it. */
export type Awaitable<T> = T | PromiseLike<T>;

/** The items of a stream that somebody reads or sends. */
export type Items<T> = AsyncIterable<T> | Iterable<T>;

/** Begins to iterate over items. */
export function iteratorOf<T>(items: Items<T>): AsyncIterator<T> | Iterator<T> {
  return Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
}

/** Closes an iterator without waiting: it may be busy for as long as it likes. */
export function closeIterator(iterator: AsyncIterator<unknown> | Iterator<unknown>): void {
  void Promise.resolve()
    .then(() => iterator.return?.())
    .catch(() => {});
}

/** What runs a method: its arguments by name, the items that it receives if any, its context. */
export type Handler<M> =
  M extends Method<infer A, infer R, infer I, infer Kind>
    ? Kind extends "stream"
      ? (args: A, context: Context) => Items<R>
      : Kind extends "duplex"
        ? (args: A, items: AsyncIterableIterator<I>, context: Context) => Items<R>
        : Kind extends "upload"
          ? (args: A, items: AsyncIterableIterator<I>, context: Context) => Awaitable<R>
          : (args: A, context: Context) => Awaitable<R>
    : never;

/** What runs each method of a service. */
export type Handlers<M extends Methods> = { readonly [K in keyof M]: Handler<M[K]> };

/** A service with what runs its methods, ready to be served. */
export interface Implementation {
  readonly service: Service<Methods>;
  /** By the names of the methods on the wire. */
  readonly handlers: ReadonlyMap<string, (...args: any[]) => unknown>;
}

/** Joins a service and what runs its methods. */
export function implement<M extends Methods>(
  declared: Service<M>,
  handlers: Handlers<M>,
): Implementation {
  const byWireName = Object.entries(declared.methods).map(
    ([key, { name }]) => [name, handlers[key] as (...args: any[]) => unknown] as const,
  );
  return { service: declared, handlers: new Map(byWireName) };
}
