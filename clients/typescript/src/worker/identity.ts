import { randomUUID } from "node:crypto";
import { hostname } from "node:os";

/** The version of this package. */
export const RUNTIME_VERSION = "0.1.0";

const MAX_HEADER = 1024;

/** What a worker says about itself. */
export class Identity {
  readonly id = randomUUID();
  readonly #started = performance.now();
  readonly #names: Readonly<Record<string, string>>;
  /** The number of the stream that began last. No two streams of the worker have the same. */
  #lastRun = 0;

  constructor(names: {
    name?: string | undefined;
    appId?: string | undefined;
    version?: string | undefined;
  }) {
    const { name = "", appId = "", version = "" } = names;
    const all = { name, host: hostname(), app_id: appId, version };
    this.#names = Object.fromEntries(Object.entries(all).filter(([, text]) => text !== ""));
  }

  /** As `rpc.ping` returns it. */
  describe(): Record<string, unknown> {
    return {
      id: this.id,
      ...this.#names,
      pid: process.pid,
      runtime_version: RUNTIME_VERSION,
      uptime_ms: Math.round(performance.now() - this.#started),
    };
  }

  /** The header `rpc-worker` with the id alone. */
  get idHeader(): string {
    return JSON.stringify({ id: this.id });
  }

  /**
   * The header `rpc-worker` of the next stream's messages. If a request is delivered to this worker
   * again, its caller can tell the runs apart.
   */
  nextRunHeader(): string {
    return JSON.stringify({ id: this.id, run: ++this.#lastRun });
  }

  /** The header `rpc-worker` of replies to broadcasts: the description, or the id if it is long. */
  get descriptionHeader(): string {
    const text = JSON.stringify(this.describe());
    return Buffer.byteLength(text) <= MAX_HEADER ? text : this.idHeader;
  }

  /** In plain text: one line. */
  get line(): string {
    const { name, app_id: app, version, host } = this.#names;
    const parts = [
      `worker ${this.id}`,
      name === undefined ? "" : ` ${JSON.stringify(name)}`,
      app === undefined ? "" : ` of ${app}${version === undefined ? "" : ` ${version}`}`,
      host === undefined ? "" : ` on ${host}`,
      `, process ${process.pid}, rpc-runtime ${RUNTIME_VERSION}`,
      `, up ${Math.floor((performance.now() - this.#started) / 1000)}s`,
    ];
    return parts.join("");
  }
}
