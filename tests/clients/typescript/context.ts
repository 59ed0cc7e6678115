// What cases call, and how they look at the outcome.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";

import * as rpc from "rpc-runtime";

import { ConformanceClient } from "./conformance.js";
import { ForeignClient } from "./foreign.js";

/** How long a call of a case may take. Generous, because other tests keep the machine busy. */
export const LIMIT_MS = 20_000;

/** The address of the broker. */
export function url(): string {
  const { AMQP_URL } = process.env;
  assert(AMQP_URL !== undefined, "AMQP_URL is not set");
  return AMQP_URL;
}

/** What cases call. */
export class Caller {
  /** The queue of one worker. */
  readonly client: ConformanceClient;
  /** The queue that a worker of each language serves. */
  readonly everyone: ConformanceClient;
  /** The first queue, with another idea of the service. */
  readonly foreign: ForeignClient;

  constructor(
    readonly connection: rpc.Connection,
    readonly queue: string,
    everyone: string,
    readonly codec: rpc.CodecName,
  ) {
    const options = { codec, timeoutMs: LIMIT_MS };
    this.client = new ConformanceClient(connection, { ...options, queue });
    this.everyone = new ConformanceClient(connection, { ...options, queue: everyone });
    this.foreign = new ForeignClient(connection, { ...options, queue });
  }

  /** A client with the limits of its methods. */
  withoutLimit(): ConformanceClient {
    return new ConformanceClient(this.connection, { queue: this.queue, codec: this.codec });
  }
}

/** One thing that must work between all languages. */
export type Case = (caller: Caller) => Promise<void>;

/** An entry that nobody else uses. */
export function entry(name: string): string {
  return `${name}-${randomUUID()}`;
}

/** Calls a method that returns its argument, with each of these values. */
export async function echo<T>(
  method: (value: T) => Promise<T>,
  values: Iterable<T>,
): Promise<void> {
  for (const value of values) assert.deepEqual(await method(value), value);
}

/** The error with which a call fails. */
export async function fails<E extends Error>(
  call: Promise<unknown>,
  kind: abstract new (...args: never[]) => E,
): Promise<E> {
  let result: unknown;
  try {
    result = await call;
  } catch (error) {
    if (error instanceof kind) return error;
    throw error;
  }
  throw new Error(`expected ${kind.name}, got ${String(result)}`);
}

/** Fails unless the call is answered with this fault. */
export async function isFault(
  call: Promise<unknown>,
  code: string,
  executed: rpc.Executed,
): Promise<void> {
  const error = await fails(call, rpc.Fault);
  assert.deepEqual([error.code, error.executed], [code, executed]);
}

/** Waits until a condition holds. */
export async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + LIMIT_MS;
  while (!(await condition())) {
    assert(performance.now() < end, `waited in vain until ${what}`);
    await delay(20);
  }
}

/** All items of a stream. */
export async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const read: T[] = [];
  for await (const item of items) read.push(item);
  return read;
}

/** What a failure looks like in one line. */
export function reasonOf(error: unknown): string {
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return text.replace(/\s+/g, " ").slice(0, 1000);
}
