import { connect, type ChannelModel } from "amqplib";

import { messageOf } from "../errors.js";
import type { Log } from "../log.js";
import { hostOf, withHeartbeat } from "./address.js";
import { Backoff } from "./backoff.js";
import { repairFirstFrame } from "./guard.js";
import { sleep, within } from "./time.js";

/** How long one attempt to connect may take, with TLS and the login. */
const CONNECT_LIMIT_MS = 10_000;

/** What uses a connection to the broker. */
export interface LinkUser {
  /** There is a connection. Called again for each new one. */
  connected(model: ChannelModel): void;
  /** The broker stopped or began to take messages again. */
  blockedChanged?(isBlocked: boolean): void;
}

/** A connection to RabbitMQ that is opened again whenever it is lost. */
export class Link {
  readonly #addresses: readonly string[];
  readonly #name: string;
  readonly #log: Log;
  readonly #users = new Set<LinkUser>();
  readonly #stopped = new AbortController();
  /** The connection, as amqplib has it. */
  #model: ChannelModel | null = null;
  #isBlocked = false;
  #lastError: unknown = null;
  #closedBecause: Error | null = null;
  #running: Promise<void> | null = null;
  /** How many attempts to connect were made. Each tries the next address. */
  #attempts = 0;

  constructor(addresses: readonly string[], name: string, log: Log) {
    // Throws if an address is invalid.
    for (const address of addresses) hostOf(address);
    this.#addresses = addresses;
    this.#name = name;
    this.#log = log;
  }

  /** Why there is no connection, if there is none. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /** Why the broker closed the last connection, if it did so because of what it was sent. */
  get closedBecause(): Error | null {
    return this.#closedBecause;
  }

  get isConnected(): boolean {
    return this.#model !== null;
  }

  get isBlocked(): boolean {
    return this.#isBlocked;
  }

  get isClosed(): boolean {
    return this.#stopped.signal.aborted;
  }

  /** Makes the first attempt to connect, and fails if that fails. Others follow until `close`. */
  async open(): Promise<void> {
    let failure: unknown = null;
    await new Promise<void>((resolve) => {
      this.#running = this.#run((error) => {
        failure = error;
        resolve();
      });
    });
    if (failure !== null) throw failure;
  }

  /** Has a user told about this connection, if there is one, and about later ones. */
  add(user: LinkUser): void {
    this.#users.add(user);
    if (this.#model !== null) user.connected(this.#model);
  }

  remove(user: LinkUser): void {
    this.#users.delete(user);
  }

  /** Ends the connection as a failure of the network does. Another one is opened. */
  cutForTest(): void {
    if (this.#model !== null) destroy(this.#model);
  }

  /** Ends a connection in which the broker does not answer. Another one is opened. */
  replace(model: ChannelModel): void {
    if (this.#model === model) destroy(model);
  }

  async close(): Promise<void> {
    this.#stopped.abort();
    const model = this.#model;
    if (model !== null) {
      await within(2_000, model.close()).catch(() => {});
      destroy(model);
    }
    await this.#running;
  }

  /**
   * Connects again and again, until the link is closed. `report` is called with `null` for each
   * connection, and with an error for each failure or loss. `open` waits for the first call.
   */
  async #run(report: (error: unknown) => void): Promise<void> {
    const backoff = new Backoff();
    let loggedReason: string | null = null;
    while (!this.isClosed) {
      const address = this.#addresses[this.#attempts++ % this.#addresses.length]!;
      const host = hostOf(address);
      const begun = Date.now();
      try {
        await this.#serve(address, () => {
          this.#log.line("info", "connected to the broker", { host });
          loggedReason = null;
          report(null);
        });
      } catch (error) {
        this.#lastError = error;
        const reason = messageOf(error);
        // The same reason is not logged twice in a row.
        if (!this.isClosed && reason !== loggedReason) {
          this.#log.line("warn", "no connection to the broker", { host, reason });
        }
        loggedReason = reason;
        report(new Error(`cannot connect to the broker at ${host}: ${reason}`, { cause: error }));
      }
      backoff.workedFor(Date.now() - begun);
      if (!this.isClosed) await sleep(backoff.next(), this.#stopped.signal);
    }
    report(new Error("the connection is closed"));
  }

  /** Connects, and waits until the connection ends. Throws unless the link was closed. */
  async #serve(address: string, connected: () => void): Promise<void> {
    const model = await this.#connect(address);
    let reason: unknown = new Error("the connection to the broker was lost");
    const closed = new Promise<void>((resolve) => model.once("close", () => resolve()));
    model.on("error", (error) => {
      reason = error;
      if ("code" in error && typeof error.code === "number") this.#closedBecause = error;
    });
    model.on("handler-error", (defect) => {
      this.#log.line("error", "a defect", { error: defect.name });
    });
    model.on("blocked", (why) => {
      this.#log.line("warn", "the broker blocks publishers", { why });
      this.#setBlocked(true);
    });
    model.on("unblocked", () => this.#setBlocked(false));
    repairFrames(model);
    if (this.isClosed) {
      destroy(model);
      return;
    }
    this.#model = model;
    this.#lastError = null;
    this.#closedBecause = null;
    connected();
    for (const user of [...this.#users]) user.connected(model);
    await closed;
    this.#model = null;
    this.#setBlocked(false);
    if (!this.isClosed) throw reason;
  }

  #connect(address: string): Promise<ChannelModel> {
    const connecting = connect(withHeartbeat(address), {
      noDelay: true,
      timeout: CONNECT_LIMIT_MS,
      clientProperties: { connection_name: this.#name },
    });
    return within(CONNECT_LIMIT_MS, connecting).catch((error: unknown) => {
      // The attempt goes on, and may still succeed.
      connecting.then(giveUp, () => {});
      throw error;
    });
  }

  #setBlocked(isBlocked: boolean): void {
    if (this.#isBlocked === isBlocked) return;
    this.#isBlocked = isBlocked;
    for (const user of [...this.#users]) user.blockedChanged?.(isBlocked);
  }
}

/** What this library uses of amqplib's own connection. */
interface RawConnection {
  rest: Buffer;
  recvFrame(): unknown;
  stream: { destroy(error: Error): void };
}

/** Has each frame repaired before amqplib reads it. */
function repairFrames(model: ChannelModel): void {
  const raw = model.connection as unknown as RawConnection;
  const receive = raw.recvFrame.bind(raw);
  // amqplib calls this for each frame in `rest`, which are the bytes that it has not read.
  raw.recvFrame = () => {
    raw.rest = repairFirstFrame(raw.rest);
    return receive();
  };
}

/** Closes a connection that was opened too late. */
function giveUp(model: ChannelModel): void {
  model.on("error", () => {});
  destroy(model);
}

/** Ends a connection without waiting for the broker. */
function destroy(model: ChannelModel): void {
  // amqplib notices the end of its socket by the error.
  const error = new Error("the connection was given up");
  (model.connection as unknown as RawConnection).stream.destroy(error);
}
