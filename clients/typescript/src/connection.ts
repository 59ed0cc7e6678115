import { Caller } from "./client/caller.js";
import { Cancellations } from "./client/cancellations.js";
import { discover, type FoundWorker } from "./client/discovery.js";
import { escaped, Log, type LogSink } from "./log.js";
import { CREDIT_TYPE, ITEMS_TYPE } from "./protocol/names.js";
import { workerIdOf } from "./protocol/reply.js";
import { isUuid } from "./protocol/uuid.js";
import { Link } from "./transport/link.js";
import type { Incoming } from "./transport/message.js";
import { Publisher } from "./transport/publisher.js";

/** Options of a connection. */
export interface ConnectOptions {
  /** The name that RabbitMQ shows for the connection. */
  readonly name?: string;
  /** How many calls with one reply or a stream may be in flight. By default 10,000. */
  readonly maxCalls?: number;
  /** How many bytes the body of a request or a reply may have to be sent. By default 16 MiB. */
  readonly maxSentBytes?: number;
  /** Receives log lines, without payloads and credentials. By default nothing is logged. */
  readonly log?: LogSink;
}

const DEFAULT_MAX_CALLS = 10_000;
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024;
/** How many streams that nobody reads are remembered, so that they are not cancelled too often. */
const MAX_STRAYS = 1024;
/** After this, a stream that still sends is cancelled again. */
const STRAY_PAUSE_MS = 5_000;
const LAST_CANCELLATIONS_MS = 20;

/** What clients and servers use of a connection. Not for users. */
export interface Internals {
  readonly link: Link;
  readonly addresses: readonly string[];
  readonly name: string;
  readonly log: Log;
  readonly caller: Caller;
  /** Publishes one-way requests. */
  readonly requests: Publisher;
  /** Publishes to the control exchange. */
  readonly control: Publisher;
  readonly cancellations: Cancellations;
  readonly maxSentBytes: number;
}

/** A connection to RabbitMQ that heals itself. Clients and servers share it. */
export class Connection {
  /** @internal */
  readonly internals: Internals;
  /** Streams that were cancelled because nobody reads them, and when that was. */
  readonly #strays = new Map<string, number>();
  #isClosed = false;

  private constructor(internals: Internals) {
    this.internals = internals;
    internals.caller.onStray((message) => this.#endStray(message));
  }

  /** @internal */
  static async open(
    addresses: readonly string[],
    options: ConnectOptions = {},
  ): Promise<Connection> {
    if (addresses.length === 0) throw new TypeError("expected at least one address of a broker");
    const log = new Log(options.log);
    const name = options.name ?? "rpc-runtime";
    const link = new Link(addresses, name, log);
    const control = new Publisher(link, log, "control");
    const requests = new Publisher(link, log, "one-way requests");
    const cancellations = new Cancellations(control);
    const maxSentBytes = options.maxSentBytes ?? DEFAULT_MAX_BYTES;
    const limits = { maxCalls: options.maxCalls ?? DEFAULT_MAX_CALLS, maxBytes: maxSentBytes };
    const caller = new Caller(link, log, cancellations, limits);
    try {
      await link.open();
    } catch (error) {
      await link.close();
      throw error;
    }
    control.start();
    requests.start();
    const internals = {
      link,
      addresses,
      name,
      log,
      caller,
      requests,
      control,
      cancellations,
      maxSentBytes,
    };
    return new Connection(internals);
  }

  /** Whether there is a connection at this moment. */
  get isConnected(): boolean {
    return this.internals.link.isConnected;
  }

  /**
   * Finds all workers that describe themselves. Ends half a second after the last answer, or after
   * 5 seconds.
   */
  discover(): Promise<FoundWorker[]> {
    return discover(this.internals);
  }

  /**
   * Fails the calls in flight, ends the gathering of answers, and closes the connection. Stop
   * servers first.
   */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { caller, requests, control, link } = this.internals;
    await caller.close();
    await requests.close();
    // The calls that were in flight are cancelled. Their cancellations are sent a moment later.
    await new Promise((resolve) => setTimeout(resolve, LAST_CANCELLATIONS_MS));
    await control.close();
    await link.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Handles a message for a call that has ended. Cancels a stream that nobody reads. */
  #endStray(message: Incoming): void {
    const { type, correlationId } = message.properties;
    const worker = workerIdOf(message);
    const isStream = type === ITEMS_TYPE || type === CREDIT_TYPE;
    if (!isStream || worker === null || !isUuid(correlationId)) {
      this.internals.log.line("debug", "a reply matches no call", { type: escaped(type ?? "") });
      return;
    }
    const now = performance.now();
    const key = `${worker} ${correlationId}`;
    const cancelledAt = this.#strays.get(key);
    if (cancelledAt !== undefined && cancelledAt + STRAY_PAUSE_MS > now) return;
    // The key moves to the end, so the first one was cancelled the longest ago.
    this.#strays.delete(key);
    if (this.#strays.size >= MAX_STRAYS) this.#strays.delete(this.#strays.keys().next().value!);
    this.#strays.set(key, now);
    this.internals.cancellations.cancel(worker, { id: correlationId, leftMs: 0 });
  }
}

/**
 * Connects to RabbitMQ. Fails if the first attempt does; from then on, a lost connection is opened
 * again, at the next of the addresses.
 */
export function connect(
  addresses: string | readonly string[],
  options: ConnectOptions = {},
): Promise<Connection> {
  return Connection.open(typeof addresses === "string" ? [addresses] : addresses, options);
}
