import { decodePlain } from "../codec/values.js";
import { NoWorkers } from "../errors.js";
import { DISCOVERY_KEY } from "../protocol/names.js";
import { readFault, readReply, readWorker, type WorkerInfo } from "../protocol/reply.js";
import { isMap, valueOf } from "../types/maps.js";
import { Gathering, type GatherParts } from "./gather.js";

/** A worker, and what it serves. */
export interface FoundWorker {
  readonly worker: WorkerInfo;
  /** The services of each queue, as their descriptions. */
  readonly queues: readonly { readonly queue: string; readonly services: readonly unknown[] }[];
}

const LIMIT_MS = 5_000;
const QUIET_MS = 500;
const MAX_WORKERS = 1_000;
const MAX_BYTES = 1024 * 1024;

/**
 * Asks all workers that describe themselves, and returns those that answer. Ends half a second
 * after the last answer, or after 5 seconds. Returns none at once if there are none.
 */
export async function discover(parts: GatherParts): Promise<FoundWorker[]> {
  const plan = () => ({
    queue: DISCOVERY_KEY,
    method: "rpc.describe",
    codec: "json" as const,
    body: Buffer.alloc(0),
    headers: {},
    priority: undefined,
    isIdempotent: true,
    waitsForServer: false,
    limitMs: LIMIT_MS,
    signal: undefined,
  });
  const end = { expectWorkers: MAX_WORKERS, quietMs: QUIET_MS };
  const gathering = new Gathering(parts, plan, end, (message) => {
    const reply = readReply(message, "json");
    if (reply.kind === "fault") throw readFault(reply);
    if (reply.body.length > MAX_BYTES) throw new Error("the description is too large");
    return decodePlain("json", reply.body);
  });
  const found = new Map<string, FoundWorker>();
  try {
    for await (const answer of gathering) {
      const described = readDescription(answer.result);
      // If an id comes twice, the first reply counts.
      if (described === null || found.has(described.worker.id)) continue;
      found.set(described.worker.id, described);
    }
  } catch (error) {
    if (!(error instanceof NoWorkers)) throw error;
  }
  return [...found.values()];
}

/** Reads a description, or returns `null` if the answer is a fault or no description. */
function readDescription(result: () => unknown): FoundWorker | null {
  let plain: unknown;
  try {
    plain = result();
  } catch {
    return null;
  }
  if (!isMap(plain)) return null;
  const worker = readWorker(valueOf(plain, "worker"));
  if (worker === null) return null;
  const queues = list(valueOf(plain, "queues")).flatMap((entry) => {
    if (!isMap(entry)) return [];
    const queue = valueOf(entry, "queue");
    return typeof queue === "string" ? [{ queue, services: list(valueOf(entry, "services")) }] : [];
  });
  return { worker, queues };
}

function list(plain: unknown): readonly unknown[] {
  return Array.isArray(plain) ? plain : [];
}
