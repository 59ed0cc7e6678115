import type { Retry } from "../method.js";
import { header, numberHeader, textOf, type Headers } from "../transport/message.js";
import { COPY_HEADER } from "../transport/publisher.js";
import { REDELIVERIES_HEADER, RESENT_HEADER } from "./names.js";

/** The waits of the retry queues, in milliseconds. */
export const RETRY_WAITS: readonly number[] = [
  ...[100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000].flatMap((unit) => [
    unit,
    2 * unit,
    5 * unit,
  ]),
  1_000_000_000,
];

/** Jobs whose dead-letter queue does not take them wait for this long. */
export const DEAD_LETTER_WAIT_MS = 10_000;
/**
 * A worker itself waits for a delay of up to this length if a copy with it is in the request queue.
 * Only workers in Rust make such copies: those of the jobs of a redelivered batch whose retry queue
 * does not take them.
 */
export const RETURNED_PAUSE_MS = 2_000;
/** The longest delay of a job: 30 days. */
export const MAX_DELAY_MS = 30 * 24 * 60 * 60 * 1000;

const ATTEMPTS = "rpc-attempts";
const FIRST_FAILURE = "rpc-first-failure";
const LAST_FAILURE = "rpc-last-failure";
const DELAY = "rpc-delay";
const REASON = "rpc-reason";
const ERROR = "rpc-error";
const FIRST_TRACE = "rpc-first-trace";
const ORIGIN = "rpc-origin";
const GIVEN_UP = "rpc-given-up";
const USER = "rpc-user";

/** The headers that workers write into copies of jobs. */
const OWN = new Set([
  ...[ATTEMPTS, FIRST_FAILURE, LAST_FAILURE, DELAY, REASON, ERROR, FIRST_TRACE, ORIGIN, USER],
  REDELIVERIES_HEADER,
]);

/** How many bytes an error's text, other values and all headers of a copy of a job may have. */
const MAX_ERROR = 1024;
const MAX_VALUE = 255;
const MAX_HEADERS = 6 * 1024;

/** Why a job failed: `error`, or the code of a fault, and the error as text. */
export interface JobFailure {
  readonly reason: string;
  readonly text: string;
}

/** The headers of a copy of a job. All are text, as those of requests are. */
export type JobHeaders = Record<string, string>;

const NEVER_RETRIED = new Set([
  "bad_request",
  "unsupported_content_type",
  "unknown_method",
  "too_large",
  "unauthorized",
  "expired",
  "interrupted",
]);

/** The delay before the retry with this number, from 1. The delays grow by the same factor. */
export function retryDelay({ times, minDelayMs, maxDelayMs }: Retry, number: number): number {
  const steps = Math.max(0, times - 1);
  if (steps === 0 || minDelayMs === 0) return minDelayMs;
  const step = Math.min(Math.max(0, number - 1), steps);
  return minDelayMs * (maxDelayMs / minDelayMs) ** (step / steps);
}

/** Rounds up to a tenth of a second and to two digits. */
export function roundedUp(ms: number): number {
  const millis = Math.max(1, Math.floor(ms));
  const unit = Math.max(100, 10 ** (String(millis).length - 2));
  return Math.ceil(millis / unit) * unit;
}

/**
 * The longest wait of a retry queue that fits into a delay, and what is left of the delay after it.
 * A delay that is too short gets the shortest wait.
 */
export function nextWait(ms: number): { readonly wait: number; readonly rest: number } {
  const wait = RETRY_WAITS.findLast((millis) => millis <= ms) ?? RETRY_WAITS[0]!;
  return { wait, rest: Math.max(0, ms - wait) };
}

/** The waits of the retry queues that a worker declares before it serves jobs. */
export function waitsOf(policies: readonly Retry[]): number[] {
  const waits = new Set([RETRY_WAITS[0]!, DEAD_LETTER_WAIT_MS]);
  for (const { minDelayMs, maxDelayMs } of policies) {
    // A random fifth may be added to a delay.
    const longest = nextWait(
      roundedUp(1.2 * Math.min(Math.max(minDelayMs, maxDelayMs), MAX_DELAY_MS)),
    );
    for (const wait of RETRY_WAITS) if (wait <= longest.wait) waits.add(wait);
  }
  return [...waits].sort((a, b) => a - b);
}

/** How many attempts of a job have failed. */
export function failedAttempts(headers: Headers): number {
  return numberHeader(headers, ATTEMPTS) ?? 0;
}

/** How long a job must still wait. */
export function remainingDelay(headers: Headers): number {
  return Math.min(numberHeader(headers, DELAY) ?? 0, MAX_DELAY_MS);
}

/** Whether a job is on its way to the dead-letter queue. */
export function isGivenUp(headers: Headers): boolean {
  return header(headers, GIVEN_UP) !== undefined;
}

/** What to do with a job that failed. */
export type AfterFailure = { readonly retryMs: number } | "dead";

/**
 * Records a failure in the headers of a job, and decides whether it is retried. `now` is in
 * milliseconds since 1970, and `random` is from 0 to 1.
 */
export function recordFailure(
  headers: JobHeaders,
  failure: JobFailure,
  retry: Retry | null,
  now: number,
  random: number,
): AfterFailure {
  const attempts = failedAttempts(headers) + 1;
  headers[ATTEMPTS] = String(attempts);
  delete headers[DELAY];
  delete headers[REDELIVERIES_HEADER];
  if (numberHeader(headers, FIRST_FAILURE) === undefined) headers[FIRST_FAILURE] = String(now);
  headers[LAST_FAILURE] = String(now);
  headers[REASON] = failure.reason;
  headers[ERROR] = shortened(failure.text, MAX_ERROR);
  const isRetried = retry !== null && attempts <= retry.times && !NEVER_RETRIED.has(failure.reason);
  if (!isRetried) return "dead";
  const delay = Math.min(retryDelay(retry, attempts), MAX_DELAY_MS);
  return { retryMs: roundedUp(delay * (0.8 + 0.4 * random)) };
}

/**
 * The headers of a message that a copy of it may have, as text. amqplib could not write all numbers
 * that it reads, such as NaN.
 */
export function copiedHeaders(headers: Headers): JobHeaders {
  const ofBroker = /^(x-death$|x-first-death|x-last-death|x-delivery-count$|x-acquired-count$)/i;
  const copied = Object.entries(headers).flatMap(([name, value]): [string, string][] => {
    const text = textOf(value);
    return text === undefined || ofBroker.test(name) ? [] : [[name, text]];
  });
  return Object.fromEntries(copied);
}

/** What the headers of a copy of a job say about its move to another queue. */
export interface Move {
  /** The request queue, if the job goes to the dead-letter queue. */
  readonly origin?: string;
  /** What is left of its delay after this queue, in milliseconds. */
  readonly rest: number;
  /** Whether it waits in a retry queue for another attempt to move it to the dead-letter queue. */
  readonly isGivenUp: boolean;
  /** The original's `user_id`. */
  readonly user: string | undefined;
  /** The value of {@link COPY_HEADER}. */
  readonly token: string;
}

/** Makes the headers of a copy of a job, from those of the original. */
export function markMoved(headers: JobHeaders, move: Move): JobHeaders {
  const marked: JobHeaders = { ...headers };
  // A copy names the original's user in a header, and has no `user_id`, because its publisher is a
  // worker. In any other message, the header may be forged.
  const isCopy = marked[COPY_HEADER] !== undefined && move.user === undefined;
  if (!isCopy) {
    if (move.user === undefined) delete marked[USER];
    else marked[USER] = move.user;
  }
  delete marked["rpc-batch"];
  delete marked[RESENT_HEADER];
  if (move.origin !== undefined) marked[ORIGIN] = move.origin;
  const limited = limitedHeaders(marked);
  limited[COPY_HEADER] = move.token;
  if (move.isGivenUp) limited[GIVEN_UP] = "";
  else delete limited[GIVEN_UP];
  if (move.rest > 0) limited[DELAY] = String(Math.ceil(move.rest));
  else delete limited[DELAY];
  return limited;
}

/**
 * Drops the sender's own headers if all headers together are too large for a copy to be published.
 */
function limitedHeaders(headers: JobHeaders): JobHeaders {
  if (sizeOfHeaders(headers) <= MAX_HEADERS) return headers;
  const entries = Object.entries(headers).filter(([name]) => name.startsWith("rpc-"));
  const ofProtocol = Object.fromEntries(entries);
  if (sizeOfHeaders(ofProtocol) <= MAX_HEADERS) return ofProtocol;
  // The sender has forged headers of this library: only those of jobs are kept, and only values as
  // short as a worker writes them.
  const isOwn = ([name, value]: [string, string]) =>
    OWN.has(name) && Buffer.byteLength(value) <= (name === ERROR ? MAX_ERROR : MAX_VALUE);
  return Object.fromEntries(entries.filter(isOwn));
}

/** About how many bytes headers have on the wire: each has 6 for its lengths and its type. */
function sizeOfHeaders(headers: JobHeaders): number {
  const sizes = Object.entries(headers).map(
    ([name, value]) => Buffer.byteLength(name) + Buffer.byteLength(value) + 6,
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

/** The beginning of a text, with at most so many bytes of UTF-8. */
export function shortened(text: string, limit: number): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= limit) return text;
  let end = limit;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end).toString();
}
