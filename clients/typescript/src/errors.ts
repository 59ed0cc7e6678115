import type { Type } from "./types/type.js";

/** Whether a method ran, as far as its caller can know. */
export type Executed = "no" | "maybe" | "yes";

/** A call that failed. */
export abstract class RpcError extends Error {
  /** Whether the method ran. */
  abstract readonly executed: Executed;

  constructor(message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    // The subclass's name, also for the classes of generated code.
    this.name = new.target.name;
  }

  /**
   * Whether it is safe and worthwhile to make the same call again: the method did not run, and the
   * cause may go away. Calls of an idempotent method are always safe to make again.
   */
  get isRetryable(): boolean {
    return this.isTransient && this.executed === "no";
  }

  /** Whether the cause may go away. */
  protected get isTransient(): boolean {
    return false;
  }
}

/**
 * The method's own error. Generated code has a subclass for each type of error; workers throw it,
 * and callers catch it.
 */
export abstract class MethodError<T = unknown> extends RpcError {
  readonly executed = "yes";

  constructor(
    /** The error as the service declares it. */
    readonly value: T,
    message = describe(value),
  ) {
    super(message);
  }
}

/** A subclass of {@link MethodError}, with the type of its value. */
export interface ErrorClass<T> {
  new (value: T): MethodError<T>;
  readonly type: Type<T>;
}

function describe(value: unknown): string {
  const variant =
    typeof value === "object" && value !== null && "kind" in value ? value.kind : value;
  return typeof variant === "string" ? `the method failed: ${variant}` : "the method failed";
}

/** The request queue does not exist. */
export class NoServer extends RpcError {
  readonly executed = "no";

  constructor(readonly queue: string) {
    super(`no server: there is no queue ${JSON.stringify(queue)}`);
  }

  protected override get isTransient(): boolean {
    return true;
  }
}

/** A broadcast reached no worker. */
export class NoWorkers extends RpcError {
  readonly executed = "no";

  constructor(readonly queue: string) {
    super(`no server: no worker of queue ${JSON.stringify(queue)} can be reached`);
  }

  protected override get isTransient(): boolean {
    return true;
  }
}

/** No reply, item or confirm of a one-way request arrived in time. */
export class TimedOut extends RpcError {
  constructor(
    /** The call's time limit, in milliseconds. */
    readonly limitMs: number,
    readonly executed: Executed,
    cause?: unknown,
  ) {
    super(`no reply within ${Math.round(limitMs)} ms`, cause);
  }

  protected override get isTransient(): boolean {
    return true;
  }
}

/** The connection has as many calls in flight as it may. The request was not sent. */
export class TooManyCalls extends RpcError {
  readonly executed = "no";

  constructor(readonly limit: number) {
    super(`${limit} calls are in flight, which is the connection's limit`);
  }

  protected override get isTransient(): boolean {
    return true;
  }
}

/**
 * The worker's runtime refused the call or could not finish it. The caller makes the fault
 * `interrupted` itself if the worker is gone.
 */
export class Fault extends RpcError {
  readonly executed: Executed;

  constructor(
    /** Why, such as `unknown_method` or `interrupted`. */
    readonly code: string,
    /** An explanation. May be empty. */
    readonly detail: string,
    /** For how many milliseconds another attempt is not worth it. */
    readonly retryAfterMs?: number,
  ) {
    super(`the worker answered with a fault: ${detail === "" ? code : `${code}: ${detail}`}`);
    this.executed = executedOf(code);
  }

  protected override get isTransient(): boolean {
    return this.code === "expired" || this.code === "rejected";
  }
}

function executedOf(code: string): Executed {
  switch (code) {
    case "unknown_method":
    case "bad_request":
    case "unsupported_content_type":
    case "expired":
    case "too_large":
    case "unauthorized":
    case "rejected":
      return "no";
    case "panicked":
    case "reply_too_large":
    case "unanswerable":
      return "yes";
    default:
      return "maybe";
  }
}

/** The request is larger than the limit of the connection, or of broadcasts. It was not sent. */
export class TooLarge extends RpcError {
  readonly executed = "no";

  constructor(
    readonly size: number,
    readonly limit: number,
  ) {
    super(`the request has ${size} bytes, and at most ${limit} may be sent`);
  }
}

/** The arguments or the options of a call are invalid. Nothing was sent. */
export class EncodeFailed extends RpcError {
  readonly executed = "no";

  constructor(cause: unknown, what = "the arguments cannot be sent") {
    super(`${what}: ${messageOf(cause)}`, cause);
  }
}

/** A reply or an item arrived, but cannot be read as the method's answer. */
export class BadReply extends RpcError {
  constructor(
    cause: unknown,
    readonly executed: Executed,
  ) {
    super(`the reply cannot be read: ${messageOf(cause)}`, cause);
  }
}

/**
 * An item that the call sends cannot be encoded or is too large, or the caller's stream threw an
 * error. The method had begun.
 */
export class BadItem extends RpcError {
  readonly executed = "maybe";

  constructor(cause: unknown) {
    super(`an item cannot be sent: ${messageOf(cause)}`, cause);
  }
}

/** The broker refused the request, for example because the queue is full. */
export class Refused extends RpcError {
  readonly executed = "maybe";

  constructor(readonly queue: string) {
    super(`the broker refused the request for queue ${JSON.stringify(queue)}`);
  }
}

/** The broker could not be reached, or the connection or the reply queue was lost. */
export class BrokerFailed extends RpcError {
  constructor(
    reason: string,
    readonly executed: Executed,
    cause?: unknown,
  ) {
    super(`the broker failed the call: ${reason}`, cause);
  }

  protected override get isTransient(): boolean {
    return true;
  }
}

/** The call was ended by its `AbortSignal`. The cause is the signal's reason. */
export class Cancelled extends RpcError {
  constructor(
    readonly executed: Executed,
    cause: unknown,
  ) {
    super("the call was cancelled", cause);
  }
}

/** The stream that a method receives broke off. */
export class IncomingFailed extends Error {
  override readonly name = "IncomingFailed";
}

/** A server that cannot start, because of its options or its services. */
export class ServerFailed extends Error {
  override readonly name = "ServerFailed";
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
