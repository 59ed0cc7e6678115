import { header, type Headers } from "../transport/message.js";

/** The history of a message that a queue dead-lettered. */
export interface Deaths {
  readonly hasExpired: boolean;
  /** How often it was dead-lettered for another reason than that it expired. */
  readonly others: number;
  readonly rejections: number;
  /** Whether it had an `expiration` of its own, which the broker has removed. */
  readonly hadExpiration: boolean;
}

/** Reads the history of a message, or returns `null` if it has none. */
export function deathsOf(headers: Headers): Deaths | null {
  const first = header(headers, "x-first-death-reason");
  const list = Object.hasOwn(headers, "x-death") ? headers["x-death"] : undefined;
  if (first === undefined && list === undefined) return null;
  let hasExpired = first === "expired";
  let hadExpiration = false;
  let [others, rejections] = [0, 0];
  const entries = Array.isArray(list) ? (list as unknown[]) : [];
  for (const entry of entries) {
    if (typeof entry !== "object" || entry === null) continue;
    const { reason, count, ...rest } = entry as Record<string, unknown>;
    // Any peer can send these headers. A count that makes no sense counts as the largest.
    const isCount = typeof count === "number" && Number.isInteger(count) && count >= 0;
    const times = isCount ? count : Number.MAX_SAFE_INTEGER;
    hadExpiration ||= rest["original-expiration"] !== undefined;
    if (reason === "expired") hasExpired = true;
    else others += times;
    if (reason === "rejected") rejections += times;
  }
  // Without a list, only the first reason is known.
  if (entries.length === 0 && first !== "expired") others = 1;
  return { hasExpired, others, rejections, hadExpiration };
}
