const AIO_PIKA = /^amq_[0-9a-fA-F]{32}$/;

/** The beginning of direct reply-to addresses. */
export const DIRECT_REPLY_TO = "amq.rabbitmq.reply-to.";

/** Whether an address has the form of a reply address. Never publish to another one. */
export function isReplyAddress(address: string, allowedPrefixes: readonly string[] = []): boolean {
  const prefixes = [DIRECT_REPLY_TO, "amq.gen-", "rpc.reply.", ...allowedPrefixes];
  return prefixes.some((prefix) => address.startsWith(prefix)) || AIO_PIKA.test(address);
}
