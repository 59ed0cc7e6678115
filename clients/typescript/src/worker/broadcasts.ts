import type { Codec } from "../codec/content-type.js";
import { tooLarge, type Decision, type FaultReply, type ReplyTo } from "../protocol/dispatch.js";
import { MAX_BROADCAST_BYTES, WORKER_HEADER } from "../protocol/names.js";
import type { Delivery } from "../transport/consumer.js";
import type { Identity } from "./identity.js";
import { fault, faultReply, type MethodReply } from "./invocation.js";
import type { ReplySender } from "./reply-sender.js";
import type { ServedMethod } from "./request-handler.js";
import { RunningMethod } from "./running.js";

const MAX_RUNNING = 16;
const MAX_WAITING = 32;
/** How long a reply may take after the caller's time limit, and a refusal in all. */
const GIVE_UP_MS = 30_000;

type Run = Extract<Decision<ServedMethod>, { kind: "run" }>;

/** Runs the method of a broadcast. Returns its reply, or `null` if nobody waits for it. */
export type Invoke = (
  decision: Run,
  delivery: Delivery,
  running: RunningMethod,
) => Promise<MethodReply | null>;

/** What broadcasts are run with. */
export interface BroadcastParts {
  readonly identity: Identity;
  readonly describesItself: boolean;
  readonly replies: ReplySender;
  readonly invoke: Invoke;
}

/** A broadcast that waits until there is room for it. */
interface WaitingBroadcast {
  readonly decision: Run;
  readonly delivery: Delivery;
  /** When its caller gives up. */
  readonly endsAt: number;
}

/** Runs broadcasts beside the requests of queues: 16 at a time, and another 32 wait. */
export class Broadcasts {
  readonly #parts: BroadcastParts;
  readonly #waiting: WaitingBroadcast[] = [];
  readonly #running = new Set<RunningMethod>();
  /** What to call once no broadcast runs. */
  #idle: (() => void)[] = [];
  #hasEnded = false;

  constructor(parts: BroadcastParts) {
    this.#parts = parts;
  }

  /** Runs a broadcast once there is room, or refuses it. After `end`, does nothing. */
  handle(delivery: Delivery, decision: Decision<ServedMethod>): void {
    // Its `reply_to` is no reply address, so nobody can be answered.
    if (decision.kind === "forbidden") return;
    if (this.#hasEnded) return;
    const { replyTo, codec } = decision;
    if (decision.kind === "refuse") return this.#refuse(replyTo, codec, decision.fault);
    if (delivery.body.length > MAX_BROADCAST_BYTES) {
      const reason = tooLarge(delivery.body.length, MAX_BROADCAST_BYTES);
      return this.#refuse(replyTo, codec, fault("too_large", reason));
    }
    if (this.#waiting.length >= MAX_WAITING) {
      const reason = "the worker runs as many broadcasts as it can";
      return this.#refuse(replyTo, codec, fault("rejected", reason));
    }
    const endsAt = decision.limitMs === null ? Infinity : performance.now() + decision.limitMs;
    this.#waiting.push({ decision, delivery, endsAt });
    this.#runWaiting();
  }

  /** Waits until no broadcast runs. */
  async untilIdle(): Promise<void> {
    if (this.#running.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Ends the broadcasts that still run, and drops those that wait. None of them is answered. */
  end(): void {
    this.#hasEnded = true;
    this.#waiting.length = 0;
    for (const running of this.#running) running.end("stopped");
  }

  /** Runs broadcasts that wait, while there is room. Wakes `untilIdle` once none runs. */
  #runWaiting(): void {
    while (this.#running.size < MAX_RUNNING) {
      const next = this.#waiting.shift();
      if (next === undefined) break;
      const limitMs = next.endsAt === Infinity ? null : next.endsAt - performance.now();
      // No broadcast begins once nobody waits for it.
      if (limitMs !== null && limitMs <= 0) continue;
      const running = new RunningMethod(next.decision.entry.method.cancel, limitMs);
      this.#running.add(running);
      void this.#run(next, running).finally(() => {
        this.#running.delete(running);
        this.#runWaiting();
      });
    }
    if (this.#running.size === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  async #run({ decision, delivery }: WaitingBroadcast, running: RunningMethod): Promise<void> {
    const { identity, describesItself, replies, invoke } = this.#parts;
    const reply = await invoke(decision, delivery, running);
    running.finish();
    const isAnswered = reply !== null && decision.replyTo !== null && running.ended !== "stopped";
    if (!isAnswered) return;
    const header =
      describesItself && reply.kind !== "fault" ? identity.descriptionHeader : identity.idHeader;
    const headers = { [WORKER_HEADER]: header };
    const sent = { type: reply.kind, headers, body: reply.body };
    // Without waiting for the broker, so that the next broadcast can run.
    replies.offer(decision.replyTo, sent, (running.timeLeftMs ?? 0) + GIVE_UP_MS);
  }

  #refuse(replyTo: ReplyTo | null, codec: Codec, refusal: FaultReply): void {
    if (replyTo === null) return;
    const headers = { [WORKER_HEADER]: this.#parts.identity.idHeader };
    const { kind, body } = faultReply(codec, refusal);
    this.#parts.replies.offer(replyTo, { type: kind, headers, body }, GIVE_UP_MS);
  }
}
