// What the page knows of services, workers and queues, and how it learns it.

import { Refused, lines } from "./api.js";

/** How many rounds are kept for the charts. */
const MAX_POINTS = 150;

/** How many comings and goings of workers are kept. */
const MAX_CHANGES = 100;

/** How many services without workers are kept. */
const MAX_GONE = 50;

/** How many calls of this page are kept, without what was sent and answered. */
const MAX_CALLS = 50;

export const state = {
  hello: null,
  /** Services by their key, in the order of their names. */
  services: new Map(),
  /** How many services and methods the server does not tell, because there are too many. */
  hidden: { services: 0, methods: 0 },
  workers: new Map(),
  queues: new Map(),
  /** The last statistics of methods, by key. */
  methods: new Map(),
  /** The points of the charts of methods, by key. */
  points: new Map(),
  /** When workers came and went, the newest first. */
  changes: [],
  /** The calls that this page has made, the newest first. */
  calls: [],
  /** Why the page learns nothing new at the moment. `null` if it does. */
  trouble: null,
  /** Whether the server does not know the token. */
  isRefused: false,
  /** Whether no answer of a worker is known to be missing from the last round. */
  complete: true,
  /** How many workers refused to answer in the last round. */
  refused: 0,
  /** The time of the last round. */
  at: 0,
};

const listeners = new Set();

/**
 * Calls `listener` after each change of the state. Its argument is what has changed: the kind of a
 * line (`hello`, `catalog`, `sample`, `trouble`), `calls`, or `running` for the calls that run.
 */
export function listen(listener) {
  listeners.add(listener);
}

export function changed(what) {
  for (const listener of listeners) listener(what);
}

/** The key of a service. Names are encoded, because they may have an `@` or a `/`. */
export const serviceKey = ({ name, queue }) =>
  `${encodeURIComponent(name)}@${encodeURIComponent(queue)}`;
export const methodKey = (service, method) => `${serviceKey(service)}/${method}`;

/** Learns what runs, for as long as the page is open. Pauses grow until a line arrives again. */
export async function follow() {
  for (let pause = 500; ; pause = Math.min(2 * pause, 10_000)) {
    try {
      await lines("/api/live", undefined, undefined, (line) => {
        pause = 500;
        apply(line);
      });
      state.trouble = "the connection to the console has ended";
    } catch (error) {
      state.isRefused = error instanceof Refused && (error.status === 401 || error.status === 403);
      state.trouble =
        error instanceof Refused
          ? error.message
          : "the console cannot be reached: is it still running?";
    }
    changed("trouble");
    if (state.isRefused) return;
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function apply(line) {
  if (line.kind === "hello") state.hello = line;
  else if (line.kind === "catalog") applyCatalog(line);
  else if (line.kind === "sample") applySample(line);
  else if (line.kind === "trouble") state.trouble = line.message;
  changed(line.kind);
}

function applyCatalog({ services, hidden_services, hidden_methods }) {
  state.hidden = { services: hidden_services, methods: hidden_methods };
  const running = new Map(
    services.map((service) => [serviceKey(service), { ...service, isGone: false }]),
  );
  // A service without workers stays, so that what is open of it does not disappear.
  let gone = 0;
  for (const [key, known] of state.services) {
    if (!running.has(key) && gone++ < MAX_GONE)
      running.set(key, { ...known, isGone: true, workers: [] });
  }
  const byName = (a, b) => a[0].localeCompare(b[0], "en");
  state.services = new Map([...running].sort(byName));
}

function applySample(sample) {
  state.trouble = null;
  // A line may be sent twice when a page opens.
  if (sample.at <= state.at) return;
  noteChanges(sample);
  state.at = sample.at;
  state.complete = sample.complete;
  state.refused = sample.refused;
  state.workers = new Map(sample.workers.map((worker) => [worker.id, worker]));
  state.queues = new Map(sample.queues.map((queue) => [queue.queue, queue]));
  state.methods = new Map();
  for (const row of sample.methods) {
    const key = methodKey({ name: row.service, queue: row.queue }, row.method);
    state.methods.set(key, row);
    const points = state.points.get(key) ?? [];
    points.push(pointOf(sample.at, row));
    if (points.length > MAX_POINTS) points.shift();
    state.points.set(key, points);
  }
  // Charts show nothing any more of methods that are gone for so long.
  for (const [key, points] of state.points) {
    if (sample.at - points.at(-1).at > windowMillis()) state.points.delete(key);
  }
}

/** Returns the point of the charts for a row. `null` is a gap. */
function pointOf(at, row) {
  return {
    at,
    calls: row.calls_per_second ?? null,
    errors: row.errors_per_second ?? null,
    failures: row.failures_per_second ?? null,
    shed: row.shed_per_second ?? null,
    queueTime: row.queue_time_ns,
    p50: row.recent_p50_ns ?? null,
    p99: row.recent_p99_ns ?? null,
    // Workers in other languages do not tell how long each request took.
    mean: row.recent_p50_ns === undefined ? (row.recent_mean_ns ?? null) : null,
  };
}

function noteChanges(sample) {
  if (state.at === 0) return;
  const now = new Map(sample.workers.map((worker) => [worker.id, worker]));
  const note = (worker, what) => state.changes.unshift({ at: sample.at, worker, what });
  for (const [id, worker] of now) if (!state.workers.has(id)) note(worker, "came");
  for (const [id, worker] of state.workers) if (!now.has(id)) note(worker, "went");
  state.changes.length = Math.min(state.changes.length, MAX_CHANGES);
}

/** How long a time the charts show. */
export function windowMillis() {
  return MAX_POINTS * (state.hello?.interval_ms ?? 2000);
}

/** Remembers how a call ended. */
export function noteCall(call) {
  state.calls.unshift(call);
  state.calls.length = Math.min(state.calls.length, MAX_CALLS);
  changed("calls");
}
