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

/** A header as text: numbers and booleans are read as their text, other types are ignored. */
export function header(headers: Headers, name: string): string | undefined {
  if (!Object.hasOwn(headers, name)) return undefined;
  return textOf(headers[name]);
}

/** A value of a header as text. `undefined`: neither text, a number nor a boolean. */
export function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "boolean" ? String(value) : undefined;
}

/** A header that is an unsigned decimal number. Larger ones count as `MAX_SAFE_INTEGER`. */
export function numberHeader(headers: Headers, name: string): number | undefined {
  const text = header(headers, name);
  if (text === undefined || !/^\d{1,20}$/.test(text)) return undefined;
  return Math.min(Number(text), Number.MAX_SAFE_INTEGER);
}
