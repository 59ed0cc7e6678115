// RabbitMQ does not check everything that a publisher writes into the properties of a message, and
// amqplib closes the connection over what it cannot read: the message would come back forever. This
// filter replaces malformed properties before amqplib reads them.

/** The header that the guard puts into replaced properties. Its value says what is wrong. */
export const MALFORMED_HEADER = "rpc-malformed";

/** The header that the guard adds if it cannot tell how often the message was rejected. */
export const UNKNOWN_DEATHS_HEADER = "rpc-unknown-deaths";

const DEATHS = Buffer.from("x-death");
/** A history of more bytes counts as unknown. */
const MAX_DEATHS = 1024;
/** The type of a frame with the properties of a message. */
const FRAME_HEADER = 2;
const FRAME_END = 0xce;
const BASIC_CLASS = 60;
/** The bytes of a frame before its payload: type, channel and size. */
const FRAME_PREFIX = 7;
/** The bytes of a payload before the properties: class, weight and body size. */
const CONTENT_PREFIX = 12;
const MAX_NESTING = 32;

/**
 * Repairs the first frame of the bytes that were received, if it is complete and has malformed
 * properties. Otherwise returns the bytes as they are.
 */
export function repairFirstFrame(received: Buffer): Buffer {
  if (received.length < FRAME_PREFIX || received[0] !== FRAME_HEADER) return received;
  const size = received.readUInt32BE(3);
  const end = FRAME_PREFIX + size;
  if (received.length < end + 1 || size < CONTENT_PREFIX + 2) return received;
  const payload = received.subarray(FRAME_PREFIX, end);
  if (payload.readUInt16BE(0) !== BASIC_CLASS) return received;
  const properties = new PropertyReader(payload.subarray(CONTENT_PREFIX));
  const problem = properties.check();
  if (problem === null) return received;
  const contentPrefix = payload.subarray(0, CONTENT_PREFIX);
  const repaired = Buffer.concat([contentPrefix, properties.writeReplacement(problem)]);
  const head = Buffer.from(received.subarray(0, FRAME_PREFIX));
  head.writeUInt32BE(repaired.length, 3);
  return Buffer.concat([head, repaired, Buffer.of(FRAME_END), received.subarray(end + 1)]);
}

class Malformed extends Error {}

/**
 * The properties that are short strings, by their bits in the flags. On the wire, the properties
 * are in the order of their bits, the highest first.
 */
const SHORT_STRINGS: Readonly<Record<number, string>> = {
  15: "content_type",
  14: "content_encoding",
  10: "correlation_id",
  9: "reply_to",
  8: "expiration",
  7: "message_id",
  5: "type",
  4: "user_id",
  3: "app_id",
  2: "cluster_id",
};

const HEADERS_BIT = 13;
const TIMESTAMP_BIT = 6;
/**
 * The properties of a replacement: content type, headers, correlation id, `reply_to`, and type. It
 * keeps those that can be read. Of the headers, it keeps only `x-death`.
 */
const WRITTEN_BITS = [15, HEADERS_BIT, 10, 9, 5];

/** Reads the properties of one message, and writes their replacement if they are malformed. */
class PropertyReader {
  /** The short strings that are UTF-8, by their bits. */
  private readonly found = new Map<number, Buffer>();
  /** Behind the flags. */
  private offset = 2;
  /** The field `x-death` of the headers, if there is one. `unknown`: it cannot be read. */
  private deaths: Buffer | "unknown" | null = null;

  constructor(private readonly bytes: Buffer) {}

  /** Reads the properties. Returns the first thing that is wrong with them, or `null`. */
  check(): string | null {
    let problem: string | null = null;
    try {
      const flags = this.bytes.readUInt16BE(0);
      // Until the headers are read.
      if ((flags & (1 << HEADERS_BIT)) !== 0) this.deaths = "unknown";
      for (let bit = 15; bit >= 2; bit--) {
        if ((flags & (1 << bit)) === 0) continue;
        const name = SHORT_STRINGS[bit];
        if (name !== undefined) {
          const text = this.shortString();
          if (isUtf8(text)) this.found.set(bit, text);
          else problem ??= `${name} is not UTF-8`;
        } else if (bit === HEADERS_BIT) {
          // Read even if there is a problem: the properties behind them are kept.
          const wrong = this.headers();
          problem ??= wrong;
        } else {
          // The timestamp, the delivery mode or the priority.
          this.take(bit === TIMESTAMP_BIT ? 8 : 1);
        }
      }
    } catch {
      problem ??= "the properties are not complete";
    }
    return problem;
  }

  /** Writes properties that amqplib can read, with what is wrong as a header. */
  writeReplacement(problem: string): Buffer {
    const fields = [textField(MALFORMED_HEADER, problem)];
    if (this.deaths === "unknown") fields.push(textField(UNKNOWN_DEATHS_HEADER, ""));
    else if (this.deaths !== null) fields.push(this.deaths);
    const table = longString(Buffer.concat(fields));
    let flags = 1 << HEADERS_BIT;
    const parts: Buffer[] = [];
    for (const bit of WRITTEN_BITS) {
      const text = this.found.get(bit);
      if (bit === HEADERS_BIT) parts.push(table);
      else if (text !== undefined) {
        flags |= 1 << bit;
        parts.push(Buffer.of(text.length), text);
      }
    }
    return Buffer.concat([Buffer.of(flags >> 8, flags & 0xff), ...parts]);
  }

  /** Reads the headers, and `x-death` in them. Returns what is wrong with them, or `null`. */
  private headers(): string | null {
    const table = this.take(this.take(4).readUInt32BE());
    this.deaths = findDeaths(table);
    try {
      checkTable(table, 1);
      return null;
    } catch (error) {
      return error instanceof Malformed ? error.message : "the headers are not a valid table";
    }
  }

  private shortString(): Buffer {
    return this.take(this.take(1)[0]!);
  }

  private take(size: number): Buffer {
    if (this.offset + size > this.bytes.length) throw new Malformed("the properties are cut off");
    this.offset += size;
    return this.bytes.subarray(this.offset - size, this.offset);
  }
}

function longString(bytes: Buffer): Buffer {
  const size = Buffer.alloc(4);
  size.writeUInt32BE(bytes.length);
  return Buffer.concat([size, bytes]);
}

function textField(name: string, text: string): Buffer {
  const key = Buffer.from(name);
  return Buffer.concat([
    Buffer.of(key.length),
    key,
    Buffer.from("S"),
    longString(Buffer.from(text)),
  ]);
}

/**
 * The field `x-death` of headers that may be malformed, or `null` if there is none. `unknown`: it
 * is too long, there twice, or cannot be read.
 */
function findDeaths(table: Buffer): Buffer | "unknown" | null {
  let found: Buffer | null = null;
  try {
    for (let start = 0, end = 0; start < table.length; start = end) {
      const valueStart = start + 1 + table.readUInt8(start);
      end = endOfField(table, valueStart);
      if (!table.subarray(start + 1, valueStart).equals(DEATHS)) continue;
      if (found !== null || end - start > MAX_DEATHS) return "unknown";
      checkField(table, valueStart, 1);
      found = table.subarray(start, end);
    }
  } catch {
    return "unknown";
  }
  return found;
}

function isUtf8(bytes: Buffer): boolean {
  // Most texts are ASCII.
  if (bytes.every((byte) => byte < 0x80)) return true;
  return Buffer.from(bytes.toString("utf8")).equals(bytes);
}

function checkTable(table: Buffer, depth: number): void {
  let offset = 0;
  while (offset < table.length) {
    const size = table.readUInt8(offset);
    const name = table.subarray(offset + 1, offset + 1 + size);
    if (name.length < size) throw new Malformed("the headers are not a valid table");
    if (!isUtf8(name)) throw new Malformed("the name of a header is not UTF-8");
    offset = checkField(table, offset + 1 + size, depth);
  }
}

/** The sizes of values in a table, by their types. Values of the other types begin with a size. */
const FIXED_SIZES: Readonly<Record<string, number>> = {
  b: 1,
  B: 1,
  t: 1,
  s: 2,
  u: 2,
  I: 4,
  i: 4,
  f: 4,
  D: 5,
  l: 8,
  d: 8,
  T: 8,
  V: 0,
};

/** Where a value ends. Does not check what is in it, so that fields behind a bad one are found. */
function endOfField(table: Buffer, offset: number): number {
  const tag = String.fromCharCode(table.readUInt8(offset));
  const fixed = FIXED_SIZES[tag];
  if (fixed !== undefined) return checkEnd(table, offset + 1 + fixed);
  if (!"SxFA".includes(tag)) throw new Malformed("a header has an unknown type");
  return checkEnd(table, offset + 5 + table.readUInt32BE(offset + 1));
}

/** Checks one value, and returns where it ends. */
function checkField(table: Buffer, offset: number, depth: number): number {
  const end = endOfField(table, offset);
  const tag = String.fromCharCode(table.readUInt8(offset));
  const isNested = tag === "F" || tag === "A";
  if (!isNested) return end;
  if (depth >= MAX_NESTING) throw new Malformed("the headers are nested too deeply");
  const inner = table.subarray(offset + 5, end);
  if (tag === "F") checkTable(inner, depth + 1);
  else for (let at = 0; at < inner.length;) at = checkField(inner, at, depth + 1);
  return end;
}

function checkEnd(table: Buffer, end: number): number {
  if (end > table.length) throw new Malformed("the headers are not a valid table");
  return end;
}
