import type { Executed } from "../errors.js";
import type { Outcome } from "../transport/publisher.js";

/** Identifies the reply queue, and its consumer, that a request counted on. */
export interface ReplyEpoch {
  /** Changes when the queue, and the replies in it, are lost. */
  readonly address: number;
  /** Changes when the queue is consumed anew. */
  readonly consumer: number;
}

/** What to do next about a call. */
export type CallDecision =
  | { readonly next: "wait" }
  /** Publish the request, again with the same id. */
  | { readonly next: "send" }
  /** The same, after a pause. */
  | { readonly next: "sendLater" }
  | {
      readonly next: "fail";
      readonly why: "noServer" | "refused" | "broker" | "interrupted";
      readonly reason: string;
    };

/** A request that closes channels is not sent forever. */
const MAX_CHANNELS_CLOSED = 2;

/** How far one call has come, and what follows from events. Pure: no I/O and no clock. */
export class CallState {
  readonly #isIdempotent: boolean;
  readonly #waitsForServer: boolean;
  /** How often the request was written. */
  #written = 0;
  /** How many of these requests the broker returned, so that no worker has them. */
  #returned = 0;
  /** How many channels the broker has closed while they carried the request. */
  #channelsClosed = 0;
  /** The reply queue that the last request counts on. */
  #sentIn: ReplyEpoch | null = null;
  /** The same, once the broker has confirmed the request. */
  #confirmedIn: ReplyEpoch | null = null;

  constructor(isIdempotent: boolean, waitsForServer: boolean) {
    this.#isIdempotent = isIdempotent;
    this.#waitsForServer = waitsForServer;
  }

  /** Whether the next request is a copy of one that may have reached a worker. */
  get isResent(): boolean {
    return this.#written > this.#returned;
  }

  /** Whether the method ran, as far as is known without a reply. */
  get executed(): Executed {
    return this.isResent ? "maybe" : "no";
  }

  /** The request was written. */
  written(epoch: ReplyEpoch): void {
    this.#written++;
    this.#confirmedIn = null;
    this.#sentIn = epoch;
  }

  /** Decides what is next once it is known what became of the request. */
  decideByOutcome(outcome: Outcome, current: ReplyEpoch): CallDecision {
    switch (outcome.kind) {
      case "confirmed":
        this.#confirmedIn = this.#sentIn;
        return this.decideByEpoch(current);
      case "returned":
        this.#returned++;
        if (this.isResent) {
          const reason = "the queue is gone, and an earlier request of the call may run";
          return { next: "fail", why: "interrupted", reason };
        }
        if (this.#waitsForServer) return { next: "sendLater" };
        return { next: "fail", why: "noServer", reason: "the queue does not exist" };
      case "refused":
        if (this.#isIdempotent) return { next: "sendLater" };
        return { next: "fail", why: "refused", reason: "the broker refused the request" };
      case "lost":
        if (outcome.byBroker) this.#channelsClosed++;
        if (this.#isIdempotent && this.#channelsClosed < MAX_CHANNELS_CLOSED) {
          return { next: "send" };
        }
        return { next: "fail", why: "broker", reason: outcome.reason };
      case "unsent":
        return { next: "fail", why: "broker", reason: outcome.reason };
    }
  }

  /**
   * Decides whether the reply to a confirmed request can still arrive. A new consumer gets the
   * replies that waited in the queue, unless the broker has restarted and lost them. To be safe, an
   * idempotent request is sent again.
   */
  decideByEpoch(current: ReplyEpoch): CallDecision {
    const sentIn = this.#confirmedIn;
    // The outcome of an unconfirmed request decides, once it is known.
    if (sentIn === null) return { next: "wait" };
    const isSameQueue = sentIn.address === current.address;
    if (isSameQueue && sentIn.consumer === current.consumer) return { next: "wait" };
    if (this.#isIdempotent) return { next: "send" };
    if (isSameQueue) return { next: "wait" };
    return { next: "fail", why: "broker", reason: "the reply queue was lost" };
  }
}
