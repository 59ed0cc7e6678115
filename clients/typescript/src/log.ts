/** How important a log line is. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Receives the log lines of a connection. They carry no payloads and no credentials. */
export type LogSink = (
  level: LogLevel,
  message: string,
  fields: Readonly<Record<string, unknown>>,
) => void;

/** In this time, only {@link MAX_LINES} lines of one kind are logged. */
const WINDOW_MS = 10_000;
const MAX_LINES = 10;

/** Logs, at most ten lines of each kind in ten seconds. */
export class Log {
  readonly #sink: LogSink;
  readonly #windows = new Map<string, { since: number; lines: number; suppressed: number }>();

  constructor(sink: LogSink = () => {}) {
    this.#sink = sink;
  }

  /**
   * Logs a line. Its message is its kind, and must be a constant, because no kind is forgotten. The
   * first line of a window says how many were suppressed in the one before.
   */
  line(level: LogLevel, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    const now = Date.now();
    let window = this.#windows.get(message);
    if (window === undefined || window.since + WINDOW_MS <= now) {
      const suppressed = window?.suppressed ?? 0;
      window = { since: now, lines: 0, suppressed: 0 };
      this.#windows.set(message, window);
      if (suppressed > 0) fields = { ...fields, suppressed };
    }
    if (++window.lines > MAX_LINES) {
      window.suppressed++;
      return;
    }
    try {
      this.#sink(level, message, fields);
    } catch {
      // The user's function must not stop a connection.
    }
  }
}

/** Makes text of a peer safe to log: one short line. */
export function escaped(text: string): string {
  const safe = text.replace(/[^\x20-\x7e]/g, "?");
  return safe.length > 200 ? `${safe.slice(0, 200)}...` : safe;
}
