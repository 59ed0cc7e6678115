import * as messagePack from "../codec/message-pack.js";
import { ValueError } from "../types/type.js";
import { MAX_ITEMS } from "./names.js";
import { uuidBytes, uuidOf } from "./uuid.js";

// The bodies of messages beside requests and replies. They are MessagePack, whatever the codec.

/** How many items, and how many bytes of them, may be sent in total. `null`: not limited. */
export interface Credit {
  readonly items: number;
  readonly bytes: number | null;
}

/** A message with items of a stream. */
export interface ItemsBody {
  /** The number of the first item. */
  readonly first: number;
  readonly items: readonly Uint8Array[];
  /** The credit that the sender knows. */
  readonly credit: Credit;
}

/** How many bytes of the credit an item takes. */
export function sizeOf(item: Uint8Array): number {
  return item.length + 8;
}

/**
 * Copies an item that is kept, unless it is at least half of the memory that it shares: the message
 * in which it came, and what was read from the socket with that.
 */
export function detached(item: Uint8Array): Uint8Array {
  return 2 * item.length >= item.buffer.byteLength ? item : new Uint8Array(item);
}

export function encodeItems({ first, items, credit }: ItemsBody): Buffer {
  const known = credit.bytes === null ? [credit.items] : [credit.items, credit.bytes];
  return messagePack.encode([first, items, ...known]);
}

/** Reads a message with items. In a caller's message, the credit is without meaning, or missing. */
export function decodeItems(body: Uint8Array): ItemsBody {
  const [first, items, creditItems = 0, creditBytes = null] = read(body, MAX_ITEMS);
  const list = array(items);
  if (list.length > MAX_ITEMS) throw new ValueError("a message has too many items");
  for (const item of list) {
    if (!(item instanceof Uint8Array)) throw new ValueError("an item is no binary");
  }
  return {
    first: count(first),
    items: list as Uint8Array[],
    credit: { items: count(creditItems), bytes: creditBytes === null ? null : count(creditBytes) },
  };
}

/** What a caller grants to a stream that it reads. */
export function encodeGrant(id: string, credit: Credit): Buffer {
  const granted = credit.bytes === null ? [credit.items] : [credit.items, credit.bytes];
  return messagePack.encode([[uuidBytes(id), ...granted]]);
}

export function decodeGrants(body: Uint8Array): { id: string; credit: Credit }[] {
  return elements(body).flatMap(([bytes, items, creditBytes = null]) => {
    const id = uuidOf(bytes);
    if (id === null) return [];
    const limit = creditBytes === null ? null : count(creditBytes);
    return [{ id, credit: { items: count(items), bytes: limit } }];
  });
}

/**
 * A call whose caller no longer waits, and how long its request can still wait in a queue: 0 if
 * only a stream on one worker ends.
 */
export interface CancelledCall {
  readonly id: string;
  readonly leftMs: number;
}

export function encodeCancellations(calls: readonly CancelledCall[]): Buffer {
  return messagePack.encode(calls.map(({ id, leftMs }) => [uuidBytes(id), Math.ceil(leftMs)]));
}

export function decodeCancellations(body: Uint8Array): CancelledCall[] {
  return elements(body).flatMap(([bytes, leftMs]) => {
    const id = uuidOf(bytes);
    return id === null ? [] : [{ id, leftMs: count(leftMs) }];
  });
}

/**
 * What a worker asks of the sender of items. `again`: to send once more what is not taken.
 * `enough`: to send no more.
 */
export const ASKS = { nothing: 0, again: 1, enough: 2 } as const;

/** What a worker grants to a caller that sends items. */
export interface IncomingGrant {
  /** How many items the caller may send in total. */
  readonly credit: number;
  /** How many of them the method has taken. */
  readonly taken: number;
  /** One of {@link ASKS}. */
  readonly asks: number;
}

export function encodeIncomingGrant({ credit, taken, asks }: IncomingGrant): Buffer {
  return messagePack.encode([credit, taken, asks]);
}

export function decodeIncomingGrant(body: Uint8Array): IncomingGrant {
  const [credit, taken, asks] = read(body, 0);
  return { credit: count(credit), taken: count(taken), asks: count(asks) };
}

/** At most this many calls share a control message. */
export const MAX_ELEMENTS = 1024;

function elements(body: Uint8Array): unknown[][] {
  const all = read(body, 4 * MAX_ELEMENTS);
  if (all.length > MAX_ELEMENTS) throw new ValueError("a control message has too many elements");
  return all.map(array);
}

/** How many values that this version does not know a message may have. They are skipped. */
const MAX_FURTHER = 8 * MAX_ELEMENTS;

/**
 * Reads the array of a body that has up to about this many known values, nested ones included.
 * {@link MAX_FURTHER} more are tolerated.
 */
function read(body: Uint8Array, values: number): unknown[] {
  return array(messagePack.decode(body, values + MAX_FURTHER));
}

function array(plain: unknown): unknown[] {
  if (!Array.isArray(plain)) throw new ValueError("expected an array");
  return plain;
}

/** An unsigned integer. One that a number cannot hold counts as the largest that it can. */
function count(plain: unknown): number {
  if (typeof plain === "bigint" && plain >= 0n) return Number.MAX_SAFE_INTEGER;
  if (typeof plain !== "number" || !Number.isInteger(plain) || plain < 0) {
    throw new ValueError("expected an unsigned integer");
  }
  return plain;
}
