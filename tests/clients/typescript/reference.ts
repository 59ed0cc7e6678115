// The service `Conformance`, as `Reference` in Rust implements it.
import { setTimeout as delay } from "node:timers/promises";

import * as rpc from "rpc-runtime";

import * as api from "./conformance.js";

/** How often something happened, by entry. */
class Counts {
  readonly #counts = new Map<string, number>();

  add(entry: string): number {
    const count = this.of(entry) + 1;
    this.#counts.set(entry, count);
    return count;
  }

  of(entry: string): number {
    return this.#counts.get(entry) ?? 0;
  }
}

/** Most methods return their argument. Others count what runs and what is stopped. */
export class Reference implements api.ConformanceWorker {
  readonly #runs = new Counts();
  readonly #stops = new Counts();

  echoText = same<string>;
  echoBytes = same<Uint8Array>;
  echoChar = same<string>;
  echoBool = same<boolean>;
  echoI8 = same<number>;
  echoI16 = same<number>;
  echoI32 = same<number>;
  echoI64 = same<bigint>;
  echoI128 = same<bigint>;
  echoU8 = same<number>;
  echoU16 = same<number>;
  echoU32 = same<number>;
  echoU64 = same<bigint>;
  echoU128 = same<bigint>;
  echoF32 = same<number>;
  echoF64 = same<number>;
  echoNumbers = same<api.Numbers>;
  echoContainers = same<api.Containers>;
  echoPerson = same<api.Person>;
  echoPage = same<api.Page>;
  echoTree = same<api.Tree>;
  echoUserId = same<api.UserId>;
  echoPair = same<api.Pair>;
  echoMarker = same<api.Marker>;
  echoColor = same<api.Color>;
  echoDirection = same<api.Direction>;
  echoShape = same<api.Shape>;
  echoEvent = same<api.Event>;
  echoCommand = same<api.Command>;
  echoScalar = same<api.Scalar>;
  echoOption = same<bigint | null>;
  echoList = same<bigint[]>;
  echoTuple = same<[bigint, string]>;
  echoMap = same<Record<string, bigint>>;
  echoNumbered = same<Map<bigint, string>>;

  echoUnit(): void {}

  wordsJoin(firstWord: string, two: string | null, class_: string | undefined): string {
    return `${firstWord} ${two ?? "-"} ${class_ ?? "three"}`;
  }

  withOptions_(timeout: number, self: number, from: number): number {
    return timeout + self + from;
  }

  double(value: number): bigint {
    return 2n * BigInt(value);
  }

  refuse(value: bigint, refusal: number | null): bigint {
    throwRefusal(refusal);
    return value;
  }

  reject(code: number): void {
    if (code !== 0) throw new api.Rejection({ code, reason: `code ${code}` });
  }

  complain(reason: string): bigint {
    if (reason !== "") throw new api.ComplainFailed(reason);
    return 0n;
  }

  failWithShape(shape: api.Shape | null): void {
    if (shape !== null) throw new api.FailWithShapeFailed(shape);
  }

  panic(): void {
    throw new Error("as requested");
  }

  async sleep(ms: number): Promise<number> {
    await delay(ms);
    return ms;
  }

  async wait(entry: string, ms: number, { signal }: rpc.Context): Promise<number> {
    try {
      await delay(ms, undefined, { signal });
    } catch (error) {
      this.#stops.add(entry);
      throw error;
    }
    return ms;
  }

  stopped(entry: string): number {
    return this.#stops.of(entry);
  }

  header(name: string, { headers }: rpc.Context): string | null {
    return headers[name] ?? null;
  }

  timeLeft({ timeLeftMs }: rpc.Context): bigint | null {
    return timeLeftMs === null ? null : BigInt(Math.floor(timeLeftMs));
  }

  notify(entry: string): void {
    this.#runs.add(entry);
  }

  record(entry: string, failures: number): void {
    const run = this.#runs.add(entry);
    if (run <= failures) throw new api.Refusal({ kind: "TooMany", value: run });
  }

  runs(entry: string): number {
    return this.#runs.of(entry);
  }

  ask(entry: string): string {
    if (entry === "") throw new api.Refusal({ kind: "Closed" });
    this.#runs.add(entry);
    return entry;
  }

  tell(entry: string): void {
    this.#runs.add(entry);
  }

  *count(items: bigint): Generator<bigint> {
    for (let item = 0n; item < items; item++) yield item;
  }

  *countTo(items: bigint, refusal: number | null): Generator<bigint> {
    yield* this.count(items);
    throwRefusal(refusal);
  }

  *blobs(sizes: number[]): Generator<Uint8Array> {
    for (const size of sizes) yield Uint8Array.from({ length: size }, (_, index) => index % 251);
  }

  *resumable(items: bigint, after: bigint | null): Generator<bigint> {
    for (let item = after === null ? 0n : after + 1n; item < items; item++) yield item;
  }

  async *ticks(entry: string, ms: number): AsyncGenerator<bigint> {
    try {
      for (let tick = 0n; ; tick++) {
        await delay(ms);
        yield tick;
      }
    } finally {
      this.#stops.add(entry);
    }
  }

  async sum(items: AsyncIterableIterator<bigint>): Promise<bigint> {
    let sum = 0n;
    for await (const item of untilBroken(items)) sum += item;
    return BigInt.asUintN(64, sum);
  }

  async concat(limit: number, items: AsyncIterableIterator<Uint8Array>): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let length = 0;
    for await (const part of orClosed(items)) {
      parts.push(part);
      length += part.length;
      if (length > limit) throw new api.Refusal({ kind: "TooMany", value: limit });
    }
    return Buffer.concat(parts);
  }

  async take(items: number, items2: AsyncIterableIterator<api.Person>): Promise<number> {
    let taken = 0;
    if (items === 0) return taken;
    for await (const _ of untilBroken(items2)) {
      if (++taken === items) break;
    }
    return taken;
  }

  async *answer(word: string, items: AsyncIterableIterator<string>): AsyncGenerator<string> {
    for await (const line of untilBroken(items)) yield `${word}: ${line}`;
  }

  async *check(items: AsyncIterableIterator<api.Shape>): AsyncGenerator<api.Shape> {
    for await (const shape of orClosed(items)) {
      if (shape.kind === "Nothing") throw new api.Refusal({ kind: "Closed" });
      yield shape;
    }
  }
}

function same<T>(value: T): T {
  return value;
}

/** Throws the error of this number, if there is one. */
function throwRefusal(number: number | null): void {
  if (number === null) return;
  const all: api.RefusalValue[] = [
    { kind: "UnknownUser", value: { id: 2n ** 64n - 1n } },
    { kind: "Closed" },
    { kind: "TooMany", value: 2 ** 32 - 1 },
  ];
  throw new api.Refusal(
    all[number] ?? { kind: "NotBetween", value: [-(2n ** 63n), 2n ** 63n - 1n] },
  );
}

/** Ends where the items break off. */
async function* untilBroken<T>(items: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* items;
  } catch (error) {
    if (!(error instanceof rpc.IncomingFailed)) throw error;
  }
}

/** Fails with the method's own error where the items break off. */
async function* orClosed<T>(items: AsyncIterable<T>): AsyncGenerator<T> {
  try {
    yield* items;
  } catch (error) {
    if (error instanceof rpc.IncomingFailed) throw new api.Refusal({ kind: "Closed" });
    throw error;
  }
}
