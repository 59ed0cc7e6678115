// Written as `rpc generate typescript` writes it: a service with every shape of type, error and
// method.
import * as rpc from "rpc-runtime";
import { t } from "rpc-runtime";

/** A color. */
export type Color = "Red" | "dark-green";
export const Color: rpc.Type<Color> = t.enumeration("Red", "dark-green");

/** A user. */
export interface User {
  id: string;
  /** The wire's name stays. */
  userName: string;
  age: number;
  balance: bigint;
  color: Color;
  tags: string[];
  note: string | null;
  /** Has a default, so it may be absent. */
  level?: number;
}
export const User: rpc.Type<User> = t.struct({
  id: t.string,
  userName: t.string,
  age: t.u8,
  balance: t.i64,
  color: Color,
  tags: t.list(t.string),
  note: t.option(t.string),
  level: t.optional(t.u8),
});

/** Externally tagged: always `kind`, and `value` if the variant has content. */
export type Shape =
  | { kind: "Circle"; value: { radius: number } }
  | { kind: "Square"; value: number }
  | { kind: "Line"; value: [number, number] }
  | { kind: "Point" };
export const Shape: rpc.Type<Shape> = t.variants({
  Circle: t.struct({ radius: t.f64 }),
  Square: t.f64,
  Line: t.tuple(t.f64, t.f64),
  Point: null,
});

/** Internally tagged: `#[serde(tag = "type")]`. */
export type Event = { type: "created"; by: string } | { type: "deleted" };
export const Event: rpc.Type<Event> = t.tagged("type", {
  created: t.struct({ by: t.string }),
  deleted: null,
});

/** Adjacently tagged: `#[serde(tag = "t", content = "c")]`. */
export type Setting = { t: "size"; c: number } | { t: "names"; c: string[] } | { t: "off" };
export const Setting: rpc.Type<Setting> = t.adjacent("t", "c", {
  size: t.u32,
  names: t.list(t.string),
  off: null,
});

/** Untagged. */
export type Id = bigint | string;
export const Id: rpc.Type<Id> = t.untagged(t.u64, t.string);

/** A type that contains itself: the reference back is lazy. */
export interface Tree {
  value: number;
  children: Tree[];
}
export const Tree: rpc.Type<Tree> = t.struct({
  value: t.i32,
  children: t.list(t.lazy(() => Tree)),
});

/** Values that are hard to write. */
export interface Everything {
  small: number;
  wide: bigint;
  real: number;
  data: Uint8Array;
  byNumber: Map<number, string>;
  byName: Record<string, number>;
  pair: [boolean, string];
  shapes: Shape[];
  events: Event[];
  settings: Setting[];
  ids: Id[];
  tree: Tree;
  anything: unknown;
}
export const Everything: rpc.Type<Everything> = t.struct({
  small: t.i16,
  wide: t.u128,
  real: t.f64,
  data: t.bytes,
  byNumber: t.map(t.u32, t.string),
  byName: t.record(t.u32),
  pair: t.tuple(t.bool, t.string),
  shapes: t.list(Shape),
  events: t.list(Event),
  settings: t.list(Setting),
  ids: t.list(Id),
  tree: Tree,
  anything: t.any,
});

/** What may go wrong in the directory. */
export type DirectoryErrorValue =
  { kind: "UnknownUser"; value: { id: string } } | { kind: "Unavailable" };

/** Narrow with `error.value.kind`. */
export class DirectoryError extends rpc.MethodError<DirectoryErrorValue> {
  static readonly type: rpc.Type<DirectoryErrorValue> = t.variants({
    UnknownUser: t.struct({ id: t.string }),
    Unavailable: null,
  });
}

/** The error of `upload`. */
export class UploadFailed extends rpc.MethodError<string> {
  static readonly type: rpc.Type<string> = t.string;
}

const methods = {
  getEmail: rpc.method({
    name: "get_email",
    args: { id: t.string },
    result: t.string,
    error: DirectoryError,
    isDefault: true,
    timeoutMs: 10000,
  }),
  find: rpc.method({
    name: "find",
    args: { text: t.string, limit: t.option(t.u32) },
    aliases: { text: ["query"] },
    result: t.list(User),
    error: DirectoryError,
    idempotent: true,
  }),
  echo: rpc.method({ name: "echo", args: { value: Everything }, result: Everything }),
  wait: rpc.method({ name: "wait", args: { ms: t.u32 }, cancel: true }),
  log: rpc.method({ name: "log", args: { line: t.string }, oneway: true }),
  send: rpc.method({
    name: "send",
    args: { from: t.string, to: t.string },
    error: DirectoryError,
    oneway: true,
    idempotent: true,
    retry: { times: 3, minDelayMs: 100, maxDelayMs: 200 },
  }),
  trades: rpc.method({
    name: "trades",
    args: { symbol: t.string },
    result: t.u64,
    error: DirectoryError,
    stream: true,
  }),
  entries: rpc.method({
    name: "entries",
    args: { account: t.string, after: t.option(t.u64) },
    result: t.u64,
    stream: true,
    idempotent: true,
    resume: "after",
  }),
  upload: rpc.method({
    name: "upload",
    args: { name: t.string },
    incoming: t.bytes,
    result: t.u64,
    error: UploadFailed,
  }),
  chat: rpc.method({
    name: "chat",
    args: { room: t.string },
    incoming: t.string,
    result: t.string,
    stream: true,
  }),
  drop: rpc.method({ name: "drop", args: { key: t.string }, result: t.u32, broadcast: true }),
  clear: rpc.method({ name: "clear", broadcast: true, oneway: true }),
};

/** The service `Directory`. */
export const directory = rpc.service({
  name: "Directory",
  queue: "directory",
  methods,
  description: '{"name":"Directory","queue":"directory","docs":"A directory.","methods":[]}',
});

/** Calls the service `Directory`. */
export class DirectoryClient extends rpc.Client {
  constructor(connection: rpc.Connection, options: rpc.ClientOptions = {}) {
    super(connection, directory, options);
  }

  /** The e-mail address of a user. */
  getEmail(id: string, options?: rpc.CallOptions): Promise<string> {
    return this.$.call(methods.getEmail, { id }, options);
  }

  find(text: string, limit: number | null, options?: rpc.CallOptions): Promise<User[]> {
    return this.$.call(methods.find, { text, limit }, options);
  }

  echo(value: Everything, options?: rpc.CallOptions): Promise<Everything> {
    return this.$.call(methods.echo, { value }, options);
  }

  wait(ms: number, options?: rpc.CallOptions): Promise<void> {
    return this.$.call(methods.wait, { ms }, options);
  }

  log(line: string, options?: rpc.SendOptions): Promise<void> {
    return this.$.send(methods.log, { line }, options);
  }

  send(from: string, to: string, options?: rpc.SendOptions): Promise<void> {
    return this.$.send(methods.send, { from, to }, options);
  }

  trades(symbol: string, options?: rpc.StreamOptions): rpc.ItemStream<bigint> {
    return this.$.stream(methods.trades, { symbol }, options);
  }

  entries(
    account: string,
    after: bigint | null,
    options?: rpc.StreamOptions,
  ): rpc.ItemStream<bigint> {
    return this.$.stream(methods.entries, { account, after }, options);
  }

  upload(name: string, parts: rpc.Items<Uint8Array>, options?: rpc.CallOptions): Promise<bigint> {
    return this.$.upload(methods.upload, { name }, parts, options);
  }

  chat(
    room: string,
    lines: rpc.Items<string>,
    options?: rpc.StreamOptions,
  ): rpc.ItemStream<string> {
    return this.$.duplex(methods.chat, { room }, lines, options);
  }

  drop(key: string, options?: rpc.BroadcastOptions): rpc.Gather<number> {
    return this.$.broadcast(methods.drop, { key }, options);
  }

  clear(options?: rpc.CallOptions): Promise<void> {
    return this.$.broadcastOneway(methods.clear, {}, options);
  }
}

/** What serves the service `Directory`. */
export interface DirectoryWorker {
  /** The e-mail address of a user. */
  getEmail(id: string, context: rpc.Context): rpc.Awaitable<string>;
  find(text: string, limit: number | null, context: rpc.Context): rpc.Awaitable<User[]>;
  echo(value: Everything, context: rpc.Context): rpc.Awaitable<Everything>;
  wait(ms: number, context: rpc.Context): rpc.Awaitable<void>;
  log(line: string, context: rpc.Context): rpc.Awaitable<void>;
  send(from: string, to: string, context: rpc.Context): rpc.Awaitable<void>;
  trades(symbol: string, context: rpc.Context): rpc.Items<bigint>;
  entries(account: string, after: bigint | null, context: rpc.Context): rpc.Items<bigint>;
  upload(
    name: string,
    parts: AsyncIterableIterator<Uint8Array>,
    context: rpc.Context,
  ): rpc.Awaitable<bigint>;
  chat(room: string, lines: AsyncIterableIterator<string>, context: rpc.Context): rpc.Items<string>;
  drop(key: string, context: rpc.Context): rpc.Awaitable<number>;
  clear(context: rpc.Context): rpc.Awaitable<void>;
}

/** Makes an implementation ready for `rpc.serve`. */
export function implementDirectory(worker: DirectoryWorker): rpc.Implementation {
  return rpc.implement(directory, {
    getEmail: ({ id }, context) => worker.getEmail(id, context),
    find: ({ text, limit }, context) => worker.find(text, limit, context),
    echo: ({ value }, context) => worker.echo(value, context),
    wait: ({ ms }, context) => worker.wait(ms, context),
    log: ({ line }, context) => worker.log(line, context),
    send: ({ from, to }, context) => worker.send(from, to, context),
    trades: ({ symbol }, context) => worker.trades(symbol, context),
    entries: ({ account, after }, context) => worker.entries(account, after, context),
    upload: ({ name }, parts, context) => worker.upload(name, parts, context),
    chat: ({ room }, lines, context) => worker.chat(room, lines, context),
    drop: ({ key }, context) => worker.drop(key, context),
    clear: (_, context) => worker.clear(context),
  });
}
