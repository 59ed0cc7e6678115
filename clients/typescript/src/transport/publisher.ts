import { IllegalOperationError, type ConfirmChannel, type Message, type Options } from "amqplib";

import { messageOf } from "../errors.js";
import type { Log } from "../log.js";
import { KeptChannel, type Setup } from "./kept-channel.js";
import type { Link, LinkUser } from "./link.js";
import { header, type Outgoing } from "./message.js";
import { MAX_TIMER_MS } from "./time.js";

/** What became of a message. */
export type Outcome =
  | { readonly kind: "confirmed" }
  /** There is no such queue, or none that is bound with the routing key. */
  | { readonly kind: "returned" }
  /** A negative confirm: a queue did not take it. */
  | { readonly kind: "refused" }
  /**
   * The channel or the connection was lost before the confirm, or none came in time. `byBroker`:
   * the broker closed it with an error.
   */
  | { readonly kind: "lost"; readonly reason: string; readonly byBroker: boolean }
  /** The message was not written, and will not be. */
  | { readonly kind: "unsent"; readonly reason: string };

/**
 * Whether a message to the control exchange was lost because there is no such exchange, which the
 * first worker declares. The broker closes the channel then.
 */
export function isExchangeMissing(outcome: Outcome): boolean {
  return outcome.kind === "lost" && /404|NOT.FOUND/i.test(outcome.reason);
}

/**
 * The header with a token of one message. By it, a returned message is recognized if its id does
 * not identify it. A request has the header only if a worker has made this copy of it: a job that
 * was moved to another queue, or a request that was forwarded.
 */
export const COPY_HEADER = "rpc-copy";

let copyTokens = 0;

/** A value of {@link COPY_HEADER} that no other message of this process has. */
export function newCopyToken(): string {
  return (++copyTokens).toString(16);
}

/** How many messages may wait for their confirms. */
const MAX_UNCONFIRMED = 4096;

/** What `publish` calls for a message, in this order. */
export interface Publishing {
  /**
   * Makes the message once it can be written, and again if the channel was just closing. If this
   * returns `null`, the message is dropped, and nothing else is called.
   */
  readonly make: () => Outgoing | null;
  /** The message was written. Not called for one that cannot be written. */
  readonly written?: () => void;
  /** It is known what became of the message. */
  readonly done: (outcome: Outcome) => void;
}

/** A message that was passed to `publish`. */
export interface Publication {
  /** Drops the message, without `done`, if it still waits. Returns whether it did. */
  withdraw(): boolean;
}

/** What else belongs to the channel of a publisher. */
export interface PublisherOptions {
  /** Prepares each new channel before messages are published to it. */
  readonly prepare?: Setup;
  /** A new channel is prepared. */
  readonly opened?: () => void;
}

/**
 * Publishes messages and tells what became of each one. While there is no connection, or the broker
 * blocks it, messages wait.
 */
export class Publisher implements LinkUser {
  readonly #link: Link;
  readonly #channel: KeptChannel;
  /** The messages that are not written yet. */
  readonly #waiting = new Set<Publishing>();
  #unconfirmed = 0;
  /**
   * The mandatory messages that are not confirmed, by what identifies them. The broker returns a
   * message before it confirms it.
   */
  #mandatory = new Map<string, { isReturned: boolean }>();
  /** The error with which the channel was closed, until the next one is open. */
  #closeError: Error | null = null;
  #isClosed = false;

  constructor(link: Link, log: Log, what: string, options: PublisherOptions = {}) {
    this.#link = link;
    const setup: Setup = async (channel, model) => {
      channel.on("return", (message: Message) => this.#markReturned(message));
      // Before amqplib fails the unconfirmed messages of the channel, which need the reason.
      channel.prependListener("error", (error: Error) => (this.#closeError = error));
      await options.prepare?.(channel, model);
    };
    const opened = () => {
      this.#closeError = null;
      options.opened?.();
      this.#flush();
    };
    this.#channel = new KeptChannel(link, log, { what, setup, opened });
  }

  /** How many messages wait for their confirms. For tests. */
  get unconfirmed(): number {
    return this.#unconfirmed;
  }

  /** Opens the channel as soon as there is a connection. */
  start(): void {
    this.#link.add(this);
    this.#channel.start();
  }

  /** Does nothing: the channel has its own `connected`. */
  connected(): void {}

  blockedChanged(): void {
    this.#flush();
  }

  /** Closes the channel. Messages that wait are not sent. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#link.remove(this);
    await this.#channel.close();
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const { done } of waiting) done({ kind: "unsent", reason: "the connection is closed" });
  }

  /** Publishes a message as soon as that is possible. */
  publish(publishing: Publishing): Publication {
    if (this.#isClosed) {
      const reason = "the connection is closed";
      queueMicrotask(() => publishing.done({ kind: "unsent", reason }));
    } else {
      this.#waiting.add(publishing);
      this.#flush();
    }
    return { withdraw: () => this.#waiting.delete(publishing) };
  }

  /**
   * Publishes a message, and waits for at most `limitMs` for what becomes of it. After that, it is
   * `unsent` if it still waits, and `lost` if it was written.
   */
  send(outgoing: Outgoing, limitMs: number): Promise<Outcome> {
    return new Promise((resolve) => {
      const publication = this.publish({
        make: () => outgoing,
        done: (outcome) => {
          clearTimeout(timer);
          resolve(outcome);
        },
      });
      const timer = setTimeout(
        () => {
          const reason = "the broker does not take the message";
          if (publication.withdraw()) resolve({ kind: "unsent", reason });
          else resolve({ kind: "lost", reason, byBroker: false });
        },
        Math.min(Math.max(0, limitMs), MAX_TIMER_MS),
      );
    });
  }

  /** Writes the messages that wait, while the broker takes them. */
  #flush(): void {
    for (const waiting of this.#waiting) {
      const channel = this.#channel.current;
      const mayWrite = channel !== null && !this.#link.isBlocked && !this.#isClosed;
      if (!mayWrite || this.#unconfirmed >= MAX_UNCONFIRMED) return;
      this.#waiting.delete(waiting);
      const outgoing = waiting.make();
      if (outgoing !== null && !this.#write(channel, outgoing, waiting)) {
        // The channel is just closing. The message is published once another one is open.
        this.#waiting.add(waiting);
        return;
      }
    }
  }

  /** Writes a message. Returns `false` if it must be written to the next channel. */
  #write(channel: ConfirmChannel, outgoing: Outgoing, { written, done }: Publishing): boolean {
    const token = outgoing.mandatory ? tokenOf(outgoing.properties) : undefined;
    const state = { isReturned: false };
    if (token !== undefined) this.#mandatory.set(token, state);
    let isSettled = false;
    const settle = (outcome: Outcome) => {
      if (isSettled) return;
      isSettled = true;
      this.#unconfirmed--;
      if (token !== undefined && this.#mandatory.get(token) === state)
        this.#mandatory.delete(token);
      done(outcome);
      this.#flush();
    };
    this.#unconfirmed++;
    try {
      const { exchange = "", routingKey, body } = outgoing;
      channel.publish(exchange, routingKey, body, optionsOf(outgoing), (error: unknown) =>
        settle(this.#outcomeOf(error, state.isReturned)),
      );
    } catch (error) {
      if (error instanceof IllegalOperationError) {
        this.#unconfirmed--;
        if (token !== undefined) this.#mandatory.delete(token);
        return false;
      }
      // A property cannot be written, because it is too long.
      queueMicrotask(() => settle({ kind: "unsent", reason: messageOf(error) }));
      return true;
    }
    written?.();
    return true;
  }

  /** What became of a message whose channel has passed this error, or none, to its callback. */
  #outcomeOf(error: unknown, isReturned: boolean): Outcome {
    if (error === null || error === undefined) {
      return { kind: isReturned ? "returned" : "confirmed" };
    }
    if (messageOf(error) === "message nacked") return { kind: "refused" };
    const cause = this.#closeError ?? this.#link.closedBecause;
    const byBroker = cause !== null && "code" in cause;
    const reason = cause?.message ?? "the connection to the broker was lost";
    return { kind: "lost", reason, byBroker };
  }

  #markReturned(message: Message): void {
    const token = tokenOf({
      correlationId: message.properties.correlationId as string | undefined,
      headers: message.properties.headers ?? {},
    });
    const state = token === undefined ? undefined : this.#mandatory.get(token);
    if (state !== undefined) state.isReturned = true;
  }
}

/** What identifies a mandatory message if the broker returns it. */
function tokenOf(properties: {
  readonly correlationId?: string | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
}): string | undefined {
  return header(properties.headers, COPY_HEADER) ?? properties.correlationId;
}

function optionsOf({ properties, mandatory = false }: Outgoing): Options.Publish {
  const { headers, ...others } = properties;
  const defined = Object.entries(others).filter(([, value]) => value !== undefined);
  const hasHeaders = Object.keys(headers).length > 0;
  return { ...Object.fromEntries(defined), ...(hasHeaders ? { headers } : {}), mandatory };
}
