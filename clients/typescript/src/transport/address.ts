/** An address that cannot be used. The message repeats no credentials. */
export class InvalidAddress extends Error {
  override readonly name = "InvalidAddress";
}

/**
 * Checks an address of a broker, and returns what may be logged of it: host and port. Throws
 * {@link InvalidAddress}.
 */
export function hostOf(address: string): string {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    throw new InvalidAddress(
      "invalid broker address: expected amqp://user:password@host:port/vhost",
    );
  }
  if (url.protocol !== "amqp:" && url.protocol !== "amqps:") {
    throw new InvalidAddress("invalid broker address: it begins with neither amqp:// nor amqps://");
  }
  if (url.hostname === "") throw new InvalidAddress("invalid broker address: it has no host");
  const defaultPort = url.protocol === "amqp:" ? "5672" : "5671";
  return `${url.hostname}:${url.port === "" ? defaultPort : url.port}`;
}

/** Adds a heartbeat of 10 seconds to an address, unless it has one. */
export function withHeartbeat(address: string): string {
  const url = new URL(address);
  if (!url.searchParams.has("heartbeat")) url.searchParams.set("heartbeat", "10");
  return url.href;
}
