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

/** Runs broadcasts beside the requests of queues: 16 at a time, and another 32 wait. */
export class Broadcasts {
  readonly #parts: BroadcastParts;
  readonly #waiting: (() => Promise<void>)[] = [];
  #running = 0;
  /** What to call once no broadcast runs. */
  #idle: (() => void)[] = [];
  #isStopped = false;

  constructor(parts: BroadcastParts) {
    this.#parts = parts;
  }

  /** Runs a broadcast as soon as there is room, or refuses it. Ignores a forbidden one. */
  handle(delivery: Delivery, decision: Decision<ServedMethod>): void {
    if (decision.kind === "forbidden") return;
    const { replyTo, codec } = decision;
    if (decision.kind === "refuse") return this.#refuse(replyTo, codec, decision.fault);
    if (delivery.body.length > MAX_BROADCAST_BYTES) {
      const reason = tooLarge(delivery.body.length, MAX_BROADCAST_BYTES);
      return this.#refuse(replyTo, codec, fault("too_large", reason));
    }
    if (this.#waiting.length >= MAX_WAITING || this.#isStopped) {
      const reason = "the worker runs as many broadcasts as it can";
      return this.#refuse(replyTo, codec, fault("rejected", reason));
    }
    const endsAt = decision.limitMs === null ? Infinity : performance.now() + decision.limitMs;
    this.#waiting.push(() => this.#run(decision, delivery, endsAt));
    this.#next();
  }

  /** Takes no more broadcasts, and waits for those that it has. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#running > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Runs those that wait, while there is room. */
  #next(): void {
    while (this.#running < MAX_RUNNING) {
      const run = this.#waiting.shift();
      if (run === undefined) break;
      this.#running++;
      void run().finally(() => {
        this.#running--;
        this.#next();
      });
    }
    if (this.#running === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  async #run(decision: Run, delivery: Delivery, endsAt: number): Promise<void> {
    const { identity, describesItself, replies, invoke } = this.#parts;
    // No broadcast begins once nobody waits for it.
    if (endsAt <= performance.now()) return;
    const limitMs = endsAt === Infinity ? null : endsAt - performance.now();
    const running = new RunningMethod(decision.entry.method.cancel, limitMs);
    const reply = await invoke(decision, delivery, running);
    running.finish();
    if (reply === null || decision.replyTo === null) return;
    const header = describesItself && reply.kind !== "fault" ? identity.header : identity.idHeader;
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
