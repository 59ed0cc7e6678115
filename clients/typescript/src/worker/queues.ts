import type { Channel, ConfirmChannel } from "amqplib";

/** How a request queue is declared. */
export interface QueueOptions {
  /** A quorum queue instead of a classic one. */
  readonly quorum?: boolean;
  /** Expects the queues to exist instead of declaring them. */
  readonly existing?: boolean;
  /** Further arguments, such as `x-max-priority`. */
  readonly arguments?: Readonly<Record<string, string | number | boolean>>;
}

/** For dead-letter queues: each look at a letter counts as a delivery. */
const UNREACHED_DELIVERY_LIMIT = 1_000_000_000;

function typeOf(options: QueueOptions): "quorum" | "classic" {
  return options.quorum ? "quorum" : "classic";
}

/** The deliveries after which a request is not run again. A negative limit is none. */
export function maxDeliveriesOf(options: QueueOptions): number {
  const limit = options.arguments?.["x-delivery-limit"];
  if (typeof limit !== "number") return 20;
  return limit < 0 ? Number.MAX_SAFE_INTEGER : Math.max(1, limit);
}

/** Declares a request queue. */
export async function declareRequests(
  channel: Channel,
  queue: string,
  options: QueueOptions,
): Promise<void> {
  const own = { "x-queue-type": typeOf(options), ...options.arguments };
  await declare(channel, queue, own, options);
}

/** Declares the queue for jobs that were given up. */
export async function declareDead(
  channel: Channel,
  queue: string,
  options: QueueOptions,
): Promise<void> {
  const limit = options.quorum ? { "x-delivery-limit": UNREACHED_DELIVERY_LIMIT } : {};
  const own = { "x-queue-type": typeOf(options), ...limit };
  await declare(channel, `${queue}.dead`, own, options);
}

/** Declares a queue for jobs that wait. Only quorum queues dead-letter without losing messages. */
export async function declareRetry(
  channel: Channel,
  queue: string,
  waitMs: number,
  options: QueueOptions,
): Promise<void> {
  const own = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": queue,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-message-ttl": waitMs,
  };
  await declare(channel, `${queue}.retry.${waitMs}`, own, options);
}

/** Declares a durable queue, or only checks that it exists. */
async function declare(
  channel: Channel,
  queue: string,
  args: Readonly<Record<string, unknown>>,
  { existing = false }: QueueOptions,
): Promise<void> {
  if (existing) await channel.checkQueue(queue);
  else await channel.assertQueue(queue, { durable: true, arguments: args });
}

/** Declares a queue that ends with its consumer, for messages of the control exchange. */
export async function declareControl(
  channel: ConfirmChannel,
  queue: string,
  limits: { readonly messages: number; readonly bytes: number; readonly refusesExcess: boolean },
): Promise<void> {
  await channel.assertQueue(queue, {
    exclusive: true,
    autoDelete: true,
    durable: false,
    arguments: {
      "x-queue-type": "classic",
      "x-message-ttl": 60_000,
      "x-max-length": limits.messages,
      "x-max-length-bytes": limits.bytes,
      ...(limits.refusesExcess ? { "x-overflow": "reject-publish" } : {}),
    },
  });
}
