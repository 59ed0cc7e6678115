// Tells the runs of a method from each other. A request that is delivered again may run again, on
// another worker or on the same one. The messages of both runs reach the caller, and a stream must
// not have items of both.
import { isMap, valueOf } from "../types/maps.js";
import { isUuid } from "./uuid.js";

/** A run of a method with streams, as the header `rpc-worker` of its messages identifies it. */
export interface StreamRun {
  /** The id of the worker, which is also its routing key in the control exchange. */
  readonly worker: string;
  /** Higher than that of each stream that the worker began before. */
  readonly number: number | bigint;
}

/** Which run sends a message, compared with the run whose stream is read. */
export type RunComparison =
  | "sameRun"
  /** An earlier run on the same worker, which has ended. */
  | "earlierRun"
  /**
   * A later run on the same worker. A worker never runs a request twice at a time for the same
   * reply address, so the run whose stream is read has ended, or sends to another address.
   */
  | "laterRun"
  /** Another worker, or nobody knows who. */
  | "otherWorker";

/** Why a stream is interrupted whose worker runs the method again. */
export const BEGAN_AGAIN = "its worker lost the connection, and began the stream again";

/** What is wrong with a message whose header names no run. */
export const NO_RUN = "the message does not say which run of which worker sent it";

/** Compares the run that sends a message with the run whose stream is read. */
export function compareRuns(message: StreamRun | null, stream: StreamRun): RunComparison {
  if (message === null || message.worker !== stream.worker) return "otherWorker";
  if (message.number > stream.number) return "laterRun";
  return message.number < stream.number ? "earlierRun" : "sameRun";
}

const MAX_NUMBER = 2n ** 64n - 1n;

/** Reads the run from a header `rpc-worker` that is decoded, or returns `null`. */
export function readRun(header: unknown): StreamRun | null {
  if (!isMap(header)) return null;
  const worker = valueOf(header, "id");
  const run = valueOf(header, "run");
  // Some workers do not number their runs.
  const number = run === undefined ? 0 : run;
  const isValid = typeof worker === "string" && isUuid(worker) && isRunNumber(number);
  return isValid ? { worker, number } : null;
}

/** Whether a value is an unsigned integer of 64 bits. Large ones are bigints. */
function isRunNumber(value: unknown): value is number | bigint {
  if (typeof value === "bigint") return value >= 0n && value <= MAX_NUMBER;
  return Number.isSafeInteger(value) && Number(value) >= 0;
}
