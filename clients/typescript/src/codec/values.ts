import { ValueError, type Type } from "../types/type.js";
import type { Codec } from "./content-type.js";
import * as json from "./json.js";
import * as messagePack from "./message-pack.js";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Encodes a plain value. Throws a {@link ValueError}. */
export function encodePlain(codec: "msgpack" | "json", plain: unknown): Buffer {
  return codec === "json" ? Buffer.from(json.encode(plain)) : messagePack.encode(plain);
}

/** Decodes a plain value. Throws a {@link ValueError}. */
export function decodePlain(codec: "msgpack" | "json", body: Uint8Array): unknown {
  return codec === "json" ? json.decode(readText(body)) : messagePack.decode(body);
}

/** Encodes a result, an error or an item. Throws a {@link ValueError}. */
export function encodeValue<T>(codec: Codec, type: Type<T>, value: T): Buffer {
  const plain = type.toPlain(value);
  if (codec !== "text") return encodePlain(codec, plain);
  if (plain instanceof Uint8Array) return Buffer.from(plain);
  if (type.text !== undefined) return Buffer.from(type.text.format(value));
  if (plain === null || plain === undefined) return Buffer.alloc(0);
  // A structured value, such as an error, has no other form of text.
  return Buffer.from(json.encode(plain));
}

/** Decodes a result, an error or an item. Throws a {@link ValueError}. */
export function decodeValue<T>(codec: Codec, type: Type<T>, body: Uint8Array): T {
  if (codec !== "text") {
    // An empty body is read as a missing value.
    if (body.length === 0 && type.missing !== undefined) return type.missing();
    return type.fromPlain(decodePlain(codec, body));
  }
  if (type.text !== undefined) return type.text.parse(readText(body));
  if (body.length === 0 && type.missing !== undefined) return type.missing();
  // Bytes are taken as they are. Any other type refuses them.
  return type.fromPlain(body);
}

/** Reads UTF-8. Throws a {@link ValueError}. */
export function readText(body: Uint8Array): string {
  try {
    return utf8.decode(body);
  } catch {
    throw new ValueError("the text is not UTF-8");
  }
}
