/** The properties of a message that this library reads or writes. */
export interface Properties {
  readonly type?: string | undefined;
  readonly contentType?: string | undefined;
  readonly contentEncoding?: string | undefined;
  readonly correlationId?: string | undefined;
  readonly replyTo?: string | undefined;
  readonly expiration?: string | undefined;
  readonly priority?: number | undefined;
  readonly deliveryMode?: number | undefined;
  readonly appId?: string | undefined;
  readonly userId?: string | undefined;
  readonly headers: Headers;
}

/** The headers of a message. Those that this library adds are text. */
export type Headers = Readonly<Record<string, unknown>>;

/** A message to publish. */
export interface Outgoing {
  /** The exchange; by default the default one. */
  readonly exchange?: string;
  readonly routingKey: string;
  readonly mandatory?: boolean;
  readonly properties: Properties;
  readonly body: Buffer;
}

/** A message that was delivered. */
export interface Incoming {
  readonly exchange: string;
  readonly redelivered: boolean;
  readonly properties: Properties;
  readonly body: Buffer;
  /** Why the message's properties cannot be trusted, if they are malformed. */
  readonly malformed: string | null;
}

/** A header as text. See {@link textOf}. */
export function header(headers: Headers, name: string): string | undefined {
  if (!Object.hasOwn(headers, name)) return undefined;
  return textOf(headers[name]);
}

/** A value of a header as text. `undefined`: neither text, a number, a boolean nor a timestamp. */
export function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  return isTimestamp(value) ? String(value.value) : undefined;
}

/** Whether a value of a header is a timestamp, as amqplib reads it: in seconds since 1970. */
function isTimestamp(value: unknown): value is { readonly value: number } {
  if (typeof value !== "object" || value === null) return false;
  const { "!": type, value: seconds } = value as Record<string, unknown>;
  return type === "timestamp" && typeof seconds === "number";
}

/** A header that is an unsigned decimal number. Larger ones count as `MAX_SAFE_INTEGER`. */
export function numberHeader(headers: Headers, name: string): number | undefined {
  const text = header(headers, name);
  if (text === undefined || !/^\d{1,20}$/.test(text)) return undefined;
  return Math.min(Number(text), Number.MAX_SAFE_INTEGER);
}
