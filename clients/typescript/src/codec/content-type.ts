/** How a body is encoded. */
export type Codec = "msgpack" | "json" | "text";

/** The content type of each codec. */
export const CONTENT_TYPES: Readonly<Record<Codec, string>> = {
  msgpack: "application/msgpack",
  json: "application/json",
  text: "text/plain",
};

const CODECS: Readonly<Record<string, Codec | "none">> = {
  "application/msgpack": "msgpack",
  "application/x-msgpack": "msgpack",
  "application/vnd.msgpack": "msgpack",
  "application/json": "json",
  "application/x-json": "json",
  "text/json": "json",
  "text/plain": "text",
  "application/octet-stream": "none",
  "": "none",
};

const CHARSETS = new Set(["utf-8", "utf8", "ascii", "us-ascii"]);
/** Some senders put the charset into `content_encoding`. */
const ENCODINGS = new Set(["", "identity", "binary", "7bit", "8bit", ...CHARSETS]);

/**
 * What a `content_type` says. `none`: it names no codec. `unknown`: it names a codec or a charset
 * that is not supported.
 */
export function codecOf(contentType: string | undefined): Codec | "none" | "unknown" {
  const [name = "", ...parameters] = (contentType ?? "").toLowerCase().split(";");
  const trimmed = name.trim();
  const codec = Object.hasOwn(CODECS, trimmed) ? CODECS[trimmed]! : "unknown";
  const hasReadableCharset = parameters.every((parameter) => {
    const [key = "", value = ""] = parameter.split("=");
    return key.trim() !== "charset" || CHARSETS.has(value.trim().replaceAll('"', ""));
  });
  return hasReadableCharset ? codec : "unknown";
}

/** Whether a `content_encoding` leaves the body as it is. */
export function isPlainEncoding(contentEncoding: string | undefined): boolean {
  return ENCODINGS.has((contentEncoding ?? "").trim().toLowerCase());
}
