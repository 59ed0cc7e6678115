import type { Codec } from "../codec/content-type.js";
import * as json from "../codec/json.js";
import { decodePlain, readText } from "../codec/values.js";
import { messageOf } from "../errors.js";
import type { AnyMethod } from "../method.js";
import type { Rules } from "../protocol/dispatch.js";
import { decideJobArrival } from "../protocol/job-arrival.js";
import { copiedHeaders, recordFailure, type JobFailure } from "../protocol/jobs.js";
import { REDELIVERIES_HEADER } from "../protocol/names.js";
import type { Delivery } from "../transport/consumer.js";
import { sleep } from "../transport/time.js";
import type { MethodReply } from "./invocation.js";
import type { JobMover } from "./job-mover.js";

/** Decides about the jobs of one queue before and after their methods, and moves them. */
export class JobHandler {
  readonly #mover: JobMover;
  readonly #rules: Rules;

  constructor(mover: JobMover, rules: Rules) {
    this.#mover = mover;
    this.#rules = rules;
  }

  /**
   * Returns whether a job may run now, perhaps after a short wait. Otherwise moves it, and calls
   * `done` once the broker has the copy; not at all if the worker stops before.
   */
  async arrive(delivery: Delivery, done: () => void): Promise<boolean> {
    const arrival = decideJobArrival(delivery, this.#rules);
    const headers = copiedHeaders(delivery.properties.headers);
    if ("pauseMs" in arrival && arrival.pauseMs > 0) await sleep(arrival.pauseMs);
    switch (arrival.kind) {
      case "run":
        return true;
      case "dead":
        await this.#mover.toDeadLetters(delivery, headers, done);
        return false;
      case "back":
        headers[REDELIVERIES_HEADER] = String(arrival.returned);
        await this.#mover.toRequests(delivery, headers, done);
        return false;
      case "retry":
        await this.#mover.toRetry(delivery, headers, arrival.delayMs, done);
        return false;
    }
  }

  /**
   * Moves a job that failed, and calls `done` like `arrive`. `method` is `null` for a one-way
   * request that was refused, which is not retried.
   */
  async fail(
    delivery: Delivery,
    method: AnyMethod | null,
    failure: JobFailure,
    done: () => void,
  ): Promise<void> {
    const headers = copiedHeaders(delivery.properties.headers);
    const retry = method?.retry ?? null;
    const next = recordFailure(headers, failure, retry, Date.now(), Math.random());
    if (next === "dead") await this.#mover.toDeadLetters(delivery, headers, done);
    else await this.#mover.toRetry(delivery, headers, next.retryMs, done);
  }
}

/** Why a job failed, or `null` if it did not. */
export function failureOf(reply: MethodReply, codec: Codec): JobFailure | null {
  if (reply.kind === "result") return null;
  if (reply.fault !== null) return { reason: reply.fault.code, text: reply.fault.message };
  return { reason: "error", text: errorText(codec, reply.body) };
}

function errorText(codec: Codec, body: Buffer): string {
  try {
    if (codec === "text") return readText(body);
    const plain = decodePlain(codec, body);
    return typeof plain === "string" ? plain : json.encode(plain);
  } catch (error) {
    // Such as NaN, which JSON does not have. The job must not be lost for that.
    return `the error cannot be shown as text: ${messageOf(error)}`;
  }
}
