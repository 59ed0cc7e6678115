import { header, numberHeader, type Incoming } from "../transport/message.js";
import { deathsOf } from "./deaths.js";
import { isGivenUp, remainingDelay, RETURNED_PAUSE_MS } from "./jobs.js";
import { REDELIVERIES_HEADER } from "./names.js";

/** What to do with a job that arrives, before its method may run. */
export type JobArrival =
  /** It runs, after this pause with this worker. */
  | { readonly kind: "run"; readonly pauseMs: number }
  /** It is on its way to the dead-letter queue, which did not take it before. */
  | { readonly kind: "dead" }
  /** After the pause, it goes back to its queue as a copy that counts how often it came back. */
  | { readonly kind: "back"; readonly returned: number; readonly pauseMs: number }
  /** It waits in a retry queue. */
  | { readonly kind: "retry"; readonly delayMs: number };

/** Decides about a job that arrives. Pure: no I/O and no clock. */
export function decideJobArrival(
  message: Incoming,
  queue: { readonly isQuorum: boolean; readonly maxDeliveries: number },
): JobArrival {
  const { headers, expiration } = message.properties;
  if (isGivenUp(headers)) return { kind: "dead" };
  const deaths = deathsOf(headers);
  const delayMs = remainingDelay(headers);
  // Only workers in Rust put copies with a delay into the request queue: those of the jobs of a
  // redelivered batch whose retry queue does not take them.
  const isReturned = header(headers, REDELIVERIES_HEADER) !== undefined && deaths === null;
  const waitsHere = isReturned && delayMs <= RETURNED_PAUSE_MS;
  // A copy in the request queue would run at once, so this comes before the next check.
  if (delayMs > 0 && !waitsHere) return { kind: "retry", delayMs };
  const hasExpired = deaths !== null && deaths.hasExpired && deaths.hadExpiration;
  const comesBackUncounted = message.redelivered && !queue.isQuorum && expiration === undefined;
  if (comesBackUncounted && !hasExpired) {
    // Its workers count how often the job comes back. A copy has no history, so the count includes
    // that. At the limit, or if it has expired, the job goes on, and `decide` refuses to run it.
    const counted = numberHeader(headers, REDELIVERIES_HEADER) ?? 0;
    const returned = counted + (deaths?.others ?? 0) + 1;
    if (returned < queue.maxDeliveries) return { kind: "back", returned, pauseMs: delayMs };
  }
  return { kind: "run", pauseMs: delayMs };
}
