import type { ChannelModel, ConfirmChannel } from "amqplib";

import { messageOf } from "../errors.js";
import type { Log } from "../log.js";
import { Backoff } from "./backoff.js";
import type { Link, LinkUser } from "./link.js";
import { LimitExceeded, within } from "./time.js";

/** How long the broker may take to open a channel and declare what belongs to it. */
const OPEN_LIMIT_MS = 20_000;

/** Declares queues and begins to consume, whenever a channel is new. */
export type Setup = (channel: ConfirmChannel, model: ChannelModel) => Promise<void>;

/** What a channel is opened for, and who is told. */
export interface ChannelOptions {
  /** Its name in the log. */
  readonly what: string;
  readonly setup: Setup;
  /** Called whenever the channel has been opened and set up. */
  readonly opened?: () => void;
  /** Called whenever the open channel is lost. */
  readonly lost?: (reason: Error) => void;
}

/** A channel that is opened again whenever it, or its connection, is lost. */
export class KeptChannel implements LinkUser {
  readonly #link: Link;
  readonly #log: Log;
  readonly #options: ChannelOptions;
  readonly #backoff = new Backoff();
  #channel: ConfirmChannel | null = null;
  #isStopped = false;
  /** The latest connection, which may be lost. The channel is opened on it. */
  #model: ChannelModel | null = null;
  #timer: NodeJS.Timeout | undefined;
  /** Settles the promise of `open`. `null` if nobody waits for it. */
  #opening: { resolve: () => void; reject: (error: unknown) => void } | null = null;

  constructor(link: Link, log: Log, options: ChannelOptions) {
    this.#link = link;
    this.#log = log;
    this.#options = options;
  }

  /** The open channel, or `null`. */
  get current(): ConfirmChannel | null {
    return this.#channel;
  }

  /**
   * Opens the channel, and waits for that. Fails if the broker refuses what is declared. Then the
   * channel is not opened again.
   */
  async open(): Promise<void> {
    if (this.#link.isClosed) throw new Error("the connection is closed");
    const opened = new Promise<void>((resolve, reject) => (this.#opening = { resolve, reject }));
    this.#link.add(this);
    await opened;
  }

  /** Has the channel opened as soon as there is a connection, without waiting for that. */
  start(): void {
    this.#link.add(this);
  }

  connected(model: ChannelModel): void {
    this.#model = model;
    void this.#open(model);
  }

  async close(): Promise<void> {
    this.#isStopped = true;
    this.#link.remove(this);
    clearTimeout(this.#timer);
    const channel = this.#channel;
    this.#channel = null;
    if (channel !== null) await within(2_000, channel.close()).catch(() => {});
  }

  /** Tries once to open the channel on this connection. A failure is retried, or fails `open`. */
  async #open(model: ChannelModel): Promise<void> {
    const begun = Date.now();
    let channel: ConfirmChannel | undefined;
    let reason: Error = new Error("the connection to the broker was lost");
    let isClosed = false;
    try {
      channel = await within(OPEN_LIMIT_MS, model.createConfirmChannel());
      channel.on("error", (error: Error) => (reason = error));
      channel.on("handler-error", (error) =>
        this.#log.line("error", "a defect", { error: error.name }),
      );
      channel.on("close", () => {
        isClosed = true;
        if (this.#channel !== channel) return;
        this.#channel = null;
        this.#backoff.workedFor(Date.now() - begun);
        this.#options.lost?.(reason);
        this.#openLater(model, reason);
      });
      await within(OPEN_LIMIT_MS, this.#options.setup(channel, model));
      if (isClosed) throw reason;
    } catch (error) {
      // A broker that does not answer will not answer on this connection.
      if (error instanceof LimitExceeded) this.#link.replace(model);
      else await within(1_000, channel?.close() ?? Promise.resolve()).catch(() => {});
      // Only errors of the broker have a code. One of an earlier connection is no refusal.
      const isRefusal = "code" in Object(error) && this.#model === model;
      if (this.#opening === null || !isRefusal) return this.#openLater(model, error);
      this.#isStopped = true;
      this.#link.remove(this);
      this.#opening.reject(error);
      this.#opening = null;
      return;
    }
    if (this.#isStopped || this.#model !== model) {
      await within(1_000, channel.close()).catch(() => {});
      return;
    }
    this.#channel = channel;
    this.#opening?.resolve();
    this.#opening = null;
    this.#options.opened?.();
  }

  /** Tries again on the same connection after a pause. A new connection gets its own attempt. */
  #openLater(model: ChannelModel, error: unknown): void {
    if (this.#isStopped || this.#model !== model || !this.#link.isConnected) return;
    this.#log.line("warn", "a channel is opened again", {
      channel: this.#options.what,
      reason: messageOf(error),
    });
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#isStopped && this.#model === model) void this.#open(model);
    }, this.#backoff.next());
  }
}
