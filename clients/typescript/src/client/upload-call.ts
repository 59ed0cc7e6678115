import { decodeValue } from "../codec/values.js";
import { BadReply, Fault, RpcError, TimedOut } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { MAX_SILENCE_MS } from "../protocol/names.js";
import { runOf, workerIdOf } from "../protocol/reply.js";
import { BEGAN_AGAIN, compareRuns, NO_RUN, type StreamRun } from "../protocol/stream-run.js";
import type { Items } from "../service.js";
import type { Incoming } from "../transport/message.js";
import { currentContext } from "../worker/context.js";
import type { CallParts } from "./call-parts.js";
import type { CallPlan } from "./call-plan.js";
import { readResult, replyOf } from "./method-call.js";
import type { CodecName } from "./options.js";
import type { RunningCall } from "./running-call.js";
import { Upload } from "./upload.js";

const CHECK_MS = 500;

type Plan = CallPlan & { readonly codec: CodecName };

/** Calls a method that receives a stream and replies once. */
export function callUpload(
  parts: CallParts,
  method: AnyMethod,
  plan: Plan,
  items: Items<unknown>,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    new UploadCall(parts, method, plan, items, { resolve, reject });
  });
}

/** A call that sends a stream, until its reply. */
class UploadCall {
  readonly #parts: CallParts;
  readonly #method: AnyMethod;
  readonly #plan: Plan;
  readonly #end: { resolve: (value: unknown) => void; reject: (error: unknown) => void };
  readonly #upload: Upload;
  readonly #call: RunningCall;
  /** The run that gets the items: that of the first grant. */
  #run: StreamRun | null = null;
  #timer: NodeJS.Timeout | undefined;
  /** Since when the worker has been silent. */
  #heardAt = performance.now();
  /** Since when the call has waited for the worker. */
  #waitsSince = performance.now();
  /** In a handler, the call ends at the handler's deadline. */
  readonly #contextEndsAt = performance.now() + (currentContext()?.timeLeftMs ?? Infinity);

  constructor(
    parts: CallParts,
    method: AnyMethod,
    plan: Plan,
    items: Items<unknown>,
    end: { resolve: (value: unknown) => void; reject: (error: unknown) => void },
  ) {
    this.#parts = parts;
    this.#method = method;
    this.#plan = plan;
    this.#end = end;
    this.#upload = new Upload(parts, method, items, plan.codec, () => {
      this.#waitsSince = performance.now();
    });
    this.#call = parts.caller.start(plan, {
      message: (message) => this.#receive(message),
      failed: (error) => {
        this.#stop();
        this.#end.reject(error);
      },
    });
    if (this.#call.hasEnded) return;
    this.#timer = setInterval(() => this.#checkTimes(), Math.min(CHECK_MS, plan.limitMs));
  }

  /** Takes a message of a worker: a grant for items, or the reply. */
  #receive(message: Incoming): void {
    const run = runOf(message);
    const isGrant = this.#upload.isGrant(message);
    const comparison = this.#run === null ? "sameRun" : compareRuns(run, this.#run);
    switch (comparison) {
      case "sameRun":
        break;
      case "otherWorker":
        if (isGrant) this.#endForeign(message);
        return;
      case "earlierRun":
        return;
      case "laterRun":
        // The earlier run may have got items, which the caller has only once.
        return this.#call.fail(new Fault("interrupted", BEGAN_AGAIN));
    }
    this.#heardAt = performance.now();
    try {
      if (!isGrant) return this.#finish(message);
      if (run === null) throw new Error(NO_RUN);
      this.#run ??= run;
      this.#upload.grant(this.#call, run.worker, message);
    } catch (error) {
      this.#stop();
      this.#call.abandon();
      this.#end.reject(error instanceof RpcError ? error : new BadReply(error, "maybe"));
    }
  }

  /** Ends the stream of another worker, which runs the same request a second time. */
  #endForeign(message: Incoming): void {
    const worker = workerIdOf(message);
    // Never the stream of this call, whose worker may have sent an invalid header.
    if (worker !== null && worker !== this.#run?.worker) {
      this.#parts.cancellations.cancel(worker, { id: this.#call.id, leftMs: 0 });
    }
  }

  /** Ends the call with its reply. */
  #finish(message: Incoming): void {
    this.#stop();
    this.#call.finish();
    const reply = replyOf(message, this.#plan.codec);
    // Once a worker has begun, the request is not sent again: a fault means what it says.
    const call = this.#upload.hasBegun ? null : this.#call;
    const result: unknown = readResult(reply, this.#method, call, ({ codec, body }) =>
      decodeValue(codec, this.#method.result, body),
    );
    this.#end.resolve(result);
  }

  /** Stops the timer and the upload. */
  #stop(): void {
    clearInterval(this.#timer);
    this.#upload.stop();
  }

  /**
   * Fails the call if its worker is silent for too long, or its time is up. Its time counts while
   * it waits for the worker, not while it waits for its own stream. The deadline of the handler
   * that makes the call applies in any case.
   */
  #checkTimes(): void {
    // Before a worker has begun, `RunningCall` watches the time.
    if (!this.#upload.hasBegun || this.#call.hasEnded) return;
    const now = performance.now();
    if (!this.#upload.waitsForWorker) this.#waitsSince = now;
    if (this.#heardAt + MAX_SILENCE_MS <= now) {
      this.#call.fail(new Fault("interrupted", "the worker is gone"));
    } else if (Math.min(this.#waitsSince + this.#plan.limitMs, this.#contextEndsAt) <= now) {
      this.#call.fail(new TimedOut(this.#plan.limitMs, "maybe"));
    }
  }
}
