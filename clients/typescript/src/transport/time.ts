/** A time limit that passed. */
export class LimitExceeded extends Error {
  override readonly name = "LimitExceeded";
}

/** Waits for a promise, but not for longer than the limit. Throws {@link LimitExceeded} then. */
export async function within<T>(ms: number, promise: PromiseLike<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new LimitExceeded(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Sleeps, until the signal is aborted at the latest. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done);
  });
}

/** The longest time of a timer in JavaScript. */
export const MAX_TIMER_MS = 2 ** 31 - 1;
