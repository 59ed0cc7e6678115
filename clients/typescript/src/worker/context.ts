import { AsyncLocalStorage } from "node:async_hooks";

/** What a method knows about the request that it runs for. */
export interface Context {
  /** The name of the method on the wire. */
  readonly method: string;
  /** The request's `correlation_id`. Requests of this library have random UUIDs. */
  readonly requestId: string;
  /** The caller's own headers. */
  readonly headers: Readonly<Record<string, string>>;
  /** The caller's application, if it says so. */
  readonly appId: string | null;
  /** The caller's RabbitMQ user, if the broker vouches for it. */
  readonly userId: string | null;
  /** Whether the broker says that it delivered this message before. A copy is another message. */
  readonly isRedelivered: boolean;
  /** The number of the attempt, from 1. Only jobs have more than one. */
  readonly attempt: number;
  /** How many milliseconds the caller still waits. `null`: there is no limit. */
  readonly timeLeftMs: number | null;
  /**
   * Aborted once nobody waits for the method any more (a second after a deadline), or the server
   * ends it because it stops. What a method returns then is ignored if the server stops, or if the
   * method may be cancelled.
   */
  readonly signal: AbortSignal;
}

const contexts = new AsyncLocalStorage<Context>();

/** Runs a function, and all that it awaits, in a context. */
export function runInContext<T>(context: Context, run: () => T): T {
  return contexts.run(context, run);
}

/** The context of the method that runs now, or `undefined` outside of methods. */
export function currentContext(): Context | undefined {
  return contexts.getStore();
}

/** The context of the method that runs now. Throws outside of methods. */
export function context(): Context {
  const current = contexts.getStore();
  if (current === undefined)
    throw new Error("there is no context: this code does not run in a method");
  return current;
}
