import { randomUUID } from "node:crypto";
import { after } from "node:test";

import { connect as amqpConnect, type Channel } from "amqplib";
import * as rpc from "rpc-runtime";

import {
  DirectoryClient,
  DirectoryError,
  implementDirectory,
  UploadFailed,
  type DirectoryWorker,
  type Everything,
  type User,
} from "../service.js";

/** The node for tests. They refuse to be skipped in silence. */
export const url = (() => {
  const { AMQP_URL } = process.env;
  if (AMQP_URL === undefined)
    throw new Error("set AMQP_URL to the address of a RabbitMQ for tests");
  return AMQP_URL;
})();

type Cleanup = () => Promise<unknown>;
const cleanups: Cleanup[] = [];

/** Runs after the tests of a file, in reverse order. */
export function atEnd(cleanup: Cleanup): void {
  cleanups.push(cleanup);
}

after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup().catch(() => {});
});

/** A connection that is closed at the end. */
export async function connection(options: rpc.ConnectOptions = {}): Promise<rpc.Connection> {
  const opened = await rpc.connect(url, options);
  atEnd(() => opened.close());
  return opened;
}

/** A channel of amqplib, for what this library does not do. */
export async function rawChannel(): Promise<Channel> {
  const model = await amqpConnect(url);
  model.on("error", () => {});
  atEnd(() => model.close());
  const channel = await model.createChannel();
  channel.on("error", () => {});
  return channel;
}

/** A queue's name that no other test uses. The queue is deleted at the end. */
export function newQueue(): string {
  const queue = `ts-test-${randomUUID()}`;
  atEnd(async () => {
    const channel = await rawChannel();
    for (const name of [
      queue,
      `${queue}.dead`,
      ...[100, 200, 10000].map((ms) => `${queue}.retry.${ms}`),
    ]) {
      await channel.deleteQueue(name);
    }
  });
  return queue;
}

/** A worker of the directory. Tests override what they need. */
export class Directory implements DirectoryWorker {
  readonly ran: string[] = [];

  getEmail(id: string, _context: rpc.Context): rpc.Awaitable<string> {
    this.ran.push(`getEmail ${id}`);
    if (id === "nobody") throw new DirectoryError({ kind: "UnknownUser", value: { id } });
    if (id === "bug") throw new TypeError("a secret");
    return `${id}@example.com`;
  }

  find(text: string, limit: number | null, _context: rpc.Context): rpc.Awaitable<User[]> {
    const user: User = {
      id: text,
      userName: text,
      age: limit ?? 0,
      balance: 2n ** 60n,
      color: "Red",
      tags: [],
      note: null,
    };
    return [user];
  }

  echo(value: Everything): Everything {
    return value;
  }

  async wait(ms: number, context: rpc.Context): Promise<void> {
    this.ran.push("wait");
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      context.signal.addEventListener("abort", () => {
        this.ran.push("aborted");
        clearTimeout(timer);
        resolve();
      });
    });
  }

  log(line: string): void {
    this.ran.push(`log ${line}`);
  }

  send(from: string, to: string, context: rpc.Context): rpc.Awaitable<void> {
    this.ran.push(`send ${from} ${to} ${context.attempt}`);
  }

  async *trades(symbol: string, _context: rpc.Context): AsyncGenerator<bigint> {
    try {
      for (let i = 0n; symbol === "ENDLESS" || i < BigInt(symbol); i++) yield i;
    } finally {
      this.ran.push("trades ended");
    }
  }

  async *entries(_account: string, after: bigint | null): AsyncGenerator<bigint> {
    for (let i = (after ?? -1n) + 1n; i < 10n; i++) yield i;
  }

  async upload(
    name: string,
    parts: AsyncIterableIterator<Uint8Array>,
    _context: rpc.Context,
  ): Promise<bigint> {
    let size = 0n;
    for await (const part of parts) {
      size += BigInt(part.length);
      if (name === "enough") return size;
      if (name === "refused") throw new UploadFailed("no room");
    }
    return size;
  }

  async *chat(room: string, lines: AsyncIterableIterator<string>): AsyncGenerator<string> {
    for await (const line of lines) yield `${room}: ${line}`;
  }

  drop(key: string, _context: rpc.Context): rpc.Awaitable<number> {
    this.ran.push(`drop ${key}`);
    return key.length;
  }

  clear(): void {
    this.ran.push("clear");
  }
}

/** Serves a worker, and makes a client for it, on connections of their own. */
export async function serve(
  options: {
    readonly worker?: Directory;
    readonly queue?: string;
    readonly serve?: rpc.ServeOptions;
    readonly connect?: rpc.ConnectOptions;
  } = {},
) {
  const { worker = new Directory(), queue = newQueue() } = options;
  const served = await connection();
  const server = await rpc.serve(served, implementDirectory(worker), { queue, ...options.serve });
  atEnd(() => server.stop(0));
  const calling = await connection(options.connect);
  const client = new DirectoryClient(calling, { queue, timeoutMs: 10_000 });
  return { worker, queue, server, served, calling, client };
}

/** Waits until a condition holds. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  const end = Date.now() + 15_000;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Waits until the broker has confirmed the requests of all calls. A worker may run them before. */
export async function allConfirmed(connection: rpc.Connection): Promise<void> {
  await until(() => connection.internals.caller.unconfirmed === 0, "all requests are confirmed");
}

/** Whether a queue exists. The broker closes the channel if it does not. */
export async function exists(queue: string): Promise<boolean> {
  const model = await amqpConnect(url);
  model.on("error", () => {});
  const channel = await model.createChannel();
  channel.on("error", () => {});
  const found = await channel.checkQueue(queue).then(
    () => true,
    () => false,
  );
  await model.close();
  return found;
}

/** Waits until no worker consumes a queue. */
export async function unconsumed(queue: string): Promise<void> {
  const channel = await rawChannel();
  await until(
    async () => (await channel.checkQueue(queue)).consumerCount === 0,
    "nobody consumes the queue",
  );
}

/** Cuts the connection of a program, as a network failure does. */
export function cut(connection: rpc.Connection): void {
  connection.internals.link.cutForTest();
}
