import { entriesOf, isMap } from "../types/maps.js";
import { ValueError } from "../types/type.js";
import { Wide } from "../types/wide.js";

// Not `@msgpack/msgpack`: it cannot write maps whose keys are no strings, and refuses the key
// `__proto__`. The tests compare the bytes with it. Not `msgpackr`: it accepts text that is not
// UTF-8 and any nesting, makes objects of extensions, loses the sign of zero, and repeats payloads
// in its errors.

/** How many arrays and maps may be nested in each other. */
export const MAX_LEVELS = 127;

/**
 * How many arrays, maps and binaries a body may have. A byte of MessagePack can be one of them,
 * which is an object of up to 250 bytes in memory, so the limit of a body's size does not bound its
 * memory. All else needs less than 30 times its size.
 */
export const MAX_CONTAINERS = 1024 * 1024;

const MIN_I64 = -(2n ** 63n);
const MAX_U64 = 2n ** 64n - 1n;

/** Writes a plain value as MessagePack. Throws a {@link ValueError}. */
export function encode(plain: unknown): Buffer {
  const writer = new Writer();
  writer.value(plain, 0);
  return writer.bytes();
}

class Writer {
  private buffer = Buffer.allocUnsafe(256);
  private length = 0;

  bytes(): Buffer {
    return Buffer.from(this.buffer.subarray(0, this.length));
  }

  value(plain: unknown, depth: number): void {
    switch (typeof plain) {
      case "boolean":
        return this.byte(plain ? 0xc3 : 0xc2);
      case "number":
        return this.number(plain);
      case "bigint":
        return this.bigint(plain);
      case "string":
        return this.string(plain);
      case "undefined":
        return this.byte(0xc0);
      case "object":
        return this.object(plain, depth);
      default:
        throw new ValueError(`a ${typeof plain} cannot be sent`);
    }
  }

  private object(plain: object | null, depth: number): void {
    if (plain === null) return this.byte(0xc0);
    if (plain instanceof Uint8Array) return this.binary(plain);
    if (plain instanceof Wide) return this.string(String(plain.value));
    if (depth >= MAX_LEVELS) throw new ValueError("is nested too deeply");
    if (Array.isArray(plain)) {
      this.header(plain.length, 0x90, 0xdc);
      for (const item of plain) this.value(item, depth + 1);
      return;
    }
    if (!isMap(plain)) throw new ValueError("the value cannot be sent");
    const entries = entriesOf(plain);
    this.header(entries.length, 0x80, 0xde);
    for (const [key, item] of entries) {
      this.value(key, depth + 1);
      this.value(item, depth + 1);
    }
  }

  private number(value: number): void {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) {
      this.byte(0xcb);
      this.length = this.reserve(8).writeDoubleBE(value, this.length);
    } else if (value >= 0) {
      if (value < 0x80) this.byte(value);
      else if (value < 0x100) this.unsigned(0xcc, value, 1);
      else if (value < 0x10000) this.unsigned(0xcd, value, 2);
      else if (value < 0x100000000) this.unsigned(0xce, value, 4);
      else this.bigint(BigInt(value));
    } else if (value >= -0x20) this.byte(value & 0xff);
    else if (value >= -0x80) this.signed(0xd0, value, 1);
    else if (value >= -0x8000) this.signed(0xd1, value, 2);
    else if (value >= -0x80000000) this.signed(0xd2, value, 4);
    else this.bigint(BigInt(value));
  }

  private bigint(value: bigint): void {
    if (value < MIN_I64 || value > MAX_U64) throw new ValueError("the integer has over 64 bits");
    if (value >= -0x80000000n && value <= 0xffffffffn) return this.number(Number(value));
    this.byte(value < 0n ? 0xd3 : 0xcf);
    const buffer = this.reserve(8);
    this.length =
      value < 0n
        ? buffer.writeBigInt64BE(value, this.length)
        : buffer.writeBigUInt64BE(value, this.length);
  }

  private string(text: string): void {
    const size = Buffer.byteLength(text);
    if (size < 0x20) this.byte(0xa0 | size);
    else if (size < 0x100) this.unsigned(0xd9, size, 1);
    else if (size < 0x10000) this.unsigned(0xda, size, 2);
    else this.unsigned(0xdb, size, 4);
    this.length += this.reserve(size).write(text, this.length);
  }

  private binary(bytes: Uint8Array): void {
    const size = bytes.length;
    if (size < 0x100) this.unsigned(0xc4, size, 1);
    else if (size < 0x10000) this.unsigned(0xc5, size, 2);
    else this.unsigned(0xc6, size, 4);
    this.reserve(size).set(bytes, this.length);
    this.length += size;
  }

  /**
   * Writes the beginning of an array or a map. Below 16, the size is part of the byte `fixed`.
   * Otherwise it follows the marker in two bytes, or the next marker in four.
   */
  private header(size: number, fixed: number, marker: number): void {
    if (size < 16) this.byte(fixed | size);
    else if (size < 0x10000) this.unsigned(marker, size, 2);
    else this.unsigned(marker + 1, size, 4);
  }

  private byte(value: number): void {
    this.length = this.reserve(1).writeUInt8(value, this.length);
  }

  private unsigned(marker: number, value: number, size: number): void {
    this.byte(marker);
    this.length = this.reserve(size).writeUIntBE(value, this.length, size);
  }

  private signed(marker: number, value: number, size: number): void {
    this.byte(marker);
    this.length = this.reserve(size).writeIntBE(value, this.length, size);
  }

  /** Returns the buffer, with room for so many bytes more. */
  private reserve(size: number): Buffer {
    const needed = this.length + size;
    if (needed > this.buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.buffer.length));
      this.buffer.copy(larger, 0, 0, this.length);
      this.buffer = larger;
    }
    return this.buffer;
  }
}

/**
 * Reads a body that is one plain value. Maps are objects, or `Map`s if a key is not text. Integers
 * that are no safe integers are bigints. Throws a {@link ValueError}, also if the body has more
 * than `maxValues` values, or more than {@link MAX_CONTAINERS} arrays, maps and binaries.
 */
export function decode(bytes: Uint8Array, maxValues = Infinity): unknown {
  const reader = new Reader(bytes, maxValues);
  const value = reader.value(0);
  reader.expectEnd();
  return value;
}

const ORDINARY = { enumerable: true, configurable: true, writable: true };

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class Reader {
  private readonly buffer: Buffer;
  private offset = 0;
  private valuesLeft: number;
  private containersLeft = MAX_CONTAINERS;

  constructor(bytes: Uint8Array, maxValues: number) {
    this.valuesLeft = maxValues;
    this.buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  expectEnd(): void {
    if (this.offset < this.buffer.length) throw new ValueError("there are bytes after the value");
  }

  /** Reads a value. Its first byte says what it is, as MessagePack's specification lists it. */
  value(depth: number): unknown {
    if (--this.valuesLeft < 0) throw new ValueError("there are too many values");
    const marker = this.unsigned(1);
    if (marker < 0x80) return marker;
    if (marker < 0x90) return this.map(marker & 0x0f, depth);
    if (marker < 0xa0) return this.array(marker & 0x0f, depth);
    if (marker < 0xc0) return this.string(marker & 0x1f);
    if (marker >= 0xe0) return marker - 0x100;
    switch (marker) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.binary(this.unsigned(1));
      case 0xc5:
        return this.binary(this.unsigned(2));
      case 0xc6:
        return this.binary(this.unsigned(4));
      case 0xca:
        return this.take(4).readFloatBE();
      case 0xcb:
        return this.take(8).readDoubleBE();
      case 0xcc:
        return this.unsigned(1);
      case 0xcd:
        return this.unsigned(2);
      case 0xce:
        return this.unsigned(4);
      case 0xcf:
        return narrow(this.take(8).readBigUInt64BE());
      case 0xd0:
        return this.take(1).readInt8();
      case 0xd1:
        return this.take(2).readInt16BE();
      case 0xd2:
        return this.take(4).readInt32BE();
      case 0xd3:
        return narrow(this.take(8).readBigInt64BE());
      case 0xd9:
        return this.string(this.unsigned(1));
      case 0xda:
        return this.string(this.unsigned(2));
      case 0xdb:
        return this.string(this.unsigned(4));
      case 0xdc:
        return this.array(this.unsigned(2), depth);
      case 0xdd:
        return this.array(this.unsigned(4), depth);
      case 0xde:
        return this.map(this.unsigned(2), depth);
      case 0xdf:
        return this.map(this.unsigned(4), depth);
      default:
        throw new ValueError("extensions of MessagePack are not supported");
    }
  }

  private countContainer(): void {
    if (--this.containersLeft < 0) throw new ValueError("there are too many arrays and maps");
  }

  private enterContainer(depth: number): void {
    if (depth >= MAX_LEVELS) throw new ValueError("is nested too deeply");
    this.countContainer();
  }

  private binary(size: number): Buffer {
    this.countContainer();
    return this.take(size);
  }

  private array(size: number, depth: number): unknown[] {
    this.enterContainer(depth);
    const items: unknown[] = [];
    for (let i = 0; i < size; i++) items.push(this.value(depth + 1));
    return items;
  }

  private map(size: number, depth: number): unknown {
    this.enterContainer(depth);
    const object: Record<string, unknown> = {};
    // In place of the object, from the first key on that is not text.
    let map: Map<unknown, unknown> | null = null;
    for (let i = 0; i < size; i++) {
      const key = this.value(depth + 1);
      if (typeof key !== "string") map ??= new Map(Object.entries(object));
      const value = this.value(depth + 1);
      if (map !== null) map.set(key, value);
      else if (key !== "__proto__") object[key as string] = value;
      // An assignment would not make a property.
      else Object.defineProperty(object, key, { value, ...ORDINARY });
    }
    return map ?? object;
  }

  private string(size: number): string {
    try {
      return utf8.decode(this.take(size));
    } catch (error) {
      if (error instanceof ValueError) throw error;
      throw new ValueError("a string is not UTF-8");
    }
  }

  private unsigned(size: number): number {
    const offset = this.advance(size);
    return size === 1 ? this.buffer[offset]! : this.buffer.readUIntBE(offset, size);
  }

  private take(size: number): Buffer {
    const offset = this.advance(size);
    return this.buffer.subarray(offset, offset + size);
  }

  /** Skips so many bytes, and returns the offset at which they begin. */
  private advance(size: number): number {
    const offset = this.offset;
    if (offset + size > this.buffer.length) throw new ValueError("the value is not complete");
    this.offset = offset + size;
    return offset;
  }
}

/** Returns an integer as a number if it is a safe integer. */
function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
