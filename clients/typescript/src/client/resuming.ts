import { Cancelled } from "../errors.js";
import { Backoff } from "../transport/backoff.js";
import { sleep } from "../transport/time.js";
import { mayResume, type ItemStream, type StreamingCall } from "./stream.js";

const MAX_PAUSE_MS = 2_000;

/**
 * A stream that outlives its worker: after an interruption, the method is called again, with the
 * last item that the reader got as this argument. Fails once the reader has waited for `limitMs`.
 */
export async function* resuming(
  argument: string,
  args: Readonly<Record<string, unknown>>,
  limitMs: number,
  signal: AbortSignal | undefined,
  begin: (args: Readonly<Record<string, unknown>>) => StreamingCall,
): ItemStream<unknown> {
  let current = args;
  const backoff = new Backoff();
  /** Since when the reader has waited for an item. */
  let waitingSince = performance.now();
  /** Whether the stream was interrupted, and no item has arrived since. */
  let isResuming = false;
  for (;;) {
    const stream = begin(current);
    const begun = performance.now();
    try {
      for await (const item of stream) {
        isResuming = false;
        yield item;
        // The reader asks for the next item, so it is done with this one.
        current = { ...current, [argument]: item };
        waitingSince = performance.now();
      }
      return;
    } catch (error) {
      // An earlier call has run the method, even if the request of this one was not sent.
      if (isResuming && error instanceof Cancelled) throw new Cancelled("maybe", error.cause);
      if (!mayResume(error, stream.hasBegun, isResuming)) throw error;
      backoff.workedFor(performance.now() - begun);
      const pause = Math.min(backoff.next(), MAX_PAUSE_MS);
      if (performance.now() + pause >= waitingSince + limitMs) throw error;
      isResuming = true;
      // If the signal is aborted, the next call throws `Cancelled`.
      await sleep(pause, signal);
    }
  }
}
