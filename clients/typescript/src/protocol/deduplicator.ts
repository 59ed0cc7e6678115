import { createHash } from "node:crypto";

import { header, type Headers } from "../transport/message.js";
import { COPY_HEADER } from "../transport/publisher.js";
import { RESENT_HEADER } from "./names.js";

const MAX_TOKEN = 64;

/** How many requests that have ended are remembered. */
const MAX_ENDED = 16_384;

/** Why a request was delivered. */
export interface Origin {
  /** The broker delivers it again, and it has no `rpc-resent`. */
  readonly isRedelivered: boolean;
  /** Its caller sent it again, or a queue dead-lettered it. */
  readonly isResent: boolean;
  /** The token of the copy, if a worker made it: it moved a job, or forwarded a request. */
  readonly copy: string | null;
  /** It is the copy of a redelivered request that a worker forwarded. */
  readonly isForwarded: boolean;
}

/**
 * Reads why a request was delivered. `wasDead`: a queue has dead-lettered it.
 *
 * Headers take precedence: a copy, or a request that was sent again, is still that if the broker
 * redelivers it.
 */
export function originOf(headers: Headers, redelivered: boolean, wasDead: boolean): Origin {
  const resent = header(headers, RESENT_HEADER);
  const copy = shortToken(header(headers, COPY_HEADER) ?? null);
  const byCaller = resent !== undefined && resent !== "worker";
  // A dead letter may come back to the queue where it ended before, and must run then.
  const byQueue = resent === undefined && copy === null && !redelivered && wasDead;
  return {
    isRedelivered: resent === undefined && redelivered,
    isResent: byCaller || byQueue,
    copy,
    isForwarded: resent === "worker" || resent === "caller, worker",
  };
}

/** Shortens a token, because tokens are remembered and a peer may send one of any length. */
function shortToken(token: string | null): string | null {
  if (token === null || token.length <= MAX_TOKEN) return token;
  return createHash("sha256").update(token).digest("hex");
}

/** What to do with a delivery. */
export type DeliveryAction =
  | "run"
  /** The same, although a request with its id runs: its caller uses the id twice. */
  | "runUntracked"
  /** Another delivery of the request runs: settle both together. */
  | "join"
  /** The request was answered. */
  | "ack"
  /** The request was rejected. */
  | "reject";

/** How a request has ended. */
export type RequestEnd = "answered" | "rejected";

/** Recognizes requests that are running or were answered. Pure. */
export class Deduplicator<D> {
  /** By their keys: those of `keyOf`, followed by the token of a copy. */
  readonly #running = new Map<string, { deliveries: D[] }>();
  /** By the same keys, in the order in which they ended. */
  readonly #ended = new Map<string, RequestEnd>();

  /** What identifies a request: its `reply_to`, if it has one, and its id. `null`: it has no id. */
  static keyOf(replyTo: string | undefined, id: string | undefined): string | null {
    return id === undefined || id === "" ? null : `${replyTo ?? ""}\n${id}`;
  }

  /** Decides about a delivery. Returns the key to `finish` it with if it runs. */
  add(key: string, origin: Origin, delivery: D): { action: DeliveryAction; key: string } {
    const ownKey = origin.copy === null ? key : `${key}\n${origin.copy}`;
    if (origin.isForwarded) {
      // This worker may have the original too.
      const original = this.#running.get(key);
      if (original !== undefined) {
        original.deliveries.push(delivery);
        return { action: "join", key };
      }
      if (!origin.isResent && this.#ended.get(key) === "answered") return { action: "ack", key };
    }
    const running = this.#running.get(ownKey);
    const mayBeKnown = origin.isRedelivered || origin.isResent || origin.copy !== null;
    if (running !== undefined && mayBeKnown) {
      running.deliveries.push(delivery);
      return { action: "join", key: ownKey };
    }
    // A request that its caller sent again runs again, because the reply may be lost. A copy that a
    // worker forwarded does not, even of such a request: it is the same copy that comes again.
    const isKnownCopy = origin.copy !== null && (origin.isForwarded || !origin.isResent);
    const mayHaveEnded = origin.isRedelivered || isKnownCopy;
    const end = mayHaveEnded ? this.#ended.get(ownKey) : undefined;
    if (end !== undefined) return { action: end === "rejected" ? "reject" : "ack", key: ownKey };
    if (running !== undefined) return { action: "runUntracked", key: ownKey };
    this.#running.set(ownKey, { deliveries: [delivery] });
    return { action: "run", key: ownKey };
  }

  /** Remembers that a request has ended. Returns its deliveries, which the caller must settle. */
  finish(key: string, end: RequestEnd): D[] {
    const running = this.#running.get(key);
    if (running === undefined) return [];
    this.#running.delete(key);
    // A key that ended before moves to the end.
    this.#ended.delete(key);
    if (this.#ended.size >= MAX_ENDED) this.#ended.delete(this.#ended.keys().next().value!);
    this.#ended.set(key, end);
    return running.deliveries;
  }

  /** The broker has taken deliveries back: they are not settled with their requests. */
  forgetDeliveries(isLost: (delivery: D) => boolean): void {
    for (const running of this.#running.values()) {
      running.deliveries = running.deliveries.filter((delivery) => !isLost(delivery));
    }
  }
}
