import { header, numberHeader, type Incoming } from "../transport/message.js";
import { deathsOf } from "./deaths.js";
import { isGivenUp, remainingDelay, RETURNED_PAUSE_MS } from "./jobs.js";
import { REDELIVERIES_HEADER } from "./names.js";

/** What to do with a job that arrives, before its method may run. */
export type JobArrival =
  | { readonly kind: "run" }
  /** It is on its way to the dead-letter queue, which did not take it before. */
  | { readonly kind: "dead" }
  /** It goes back to its queue as a copy that counts how often it came back. */
  | { readonly kind: "back"; readonly returned: number }
  /** It waits in a retry queue. */
  | { readonly kind: "retry"; readonly delayMs: number }
  /** It waits with this worker, and runs then. */
  | { readonly kind: "waitHere"; readonly delayMs: number };

/** Decides about a job that arrives. Pure: no I/O and no clock. */
export function arriveJob(
  message: Incoming,
  queue: { readonly isQuorum: boolean; readonly maxDeliveries: number },
): JobArrival {
  const { headers, expiration } = message.properties;
  if (isGivenUp(headers)) return { kind: "dead" };
  const deaths = deathsOf(headers);
  if (message.redelivered && !queue.isQuorum && expiration === undefined) {
    // The queue does not count how often the job comes back, so its workers do. At the limit, the
    // job goes on, and `decide` refuses to run it.
    const returned = (numberHeader(headers, REDELIVERIES_HEADER) ?? 0) + 1;
    if (returned + (deaths?.others ?? 0) < queue.maxDeliveries) return { kind: "back", returned };
  }
  const delayMs = remainingDelay(headers);
  if (delayMs === 0) return { kind: "run" };
  // A worker has put a copy with a short delay into the request queue, because no retry queue took
  // it.
  const hasReturned = header(headers, REDELIVERIES_HEADER) !== undefined && deaths === null;
  const waitsHere = hasReturned && delayMs <= RETURNED_PAUSE_MS;
  return { kind: waitsHere ? "waitHere" : "retry", delayMs };
}
