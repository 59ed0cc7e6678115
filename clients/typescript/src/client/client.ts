import { decodeValue } from "../codec/values.js";
import type { Connection } from "../connection.js";
import { EncodeFailed, TooLarge } from "../errors.js";
import type { AnyMethod, Method } from "../method.js";
import { MAX_BROADCAST_BYTES } from "../protocol/names.js";
import type { Items, Methods, Service } from "../service.js";
import { Gathering, type Gather } from "./gather.js";
import { limitOf, planCall, readResult, replyOf } from "./method-call.js";
import { delayHeader, sendBroadcast, sendOneway } from "./oneway.js";
import type {
  BroadcastOptions,
  CallOptions,
  ClientOptions,
  SendOptions,
  StreamOptions,
} from "./options.js";
import { resuming } from "./resuming.js";
import { creditHeaders, StreamingCall, windowOf, type ItemStream } from "./stream.js";
import { callUnary } from "./unary.js";
import { INCOMING_HEADERS, Upload } from "./upload.js";
import { callUpload } from "./upload-call.js";

/** The base of generated clients, which add a method for each of the service's. */
export abstract class Client {
  /** What the generated methods use. The name collides with none of them. */
  protected readonly $: MethodCaller;
  readonly #connection: Connection;
  readonly #options: ClientOptions;

  protected constructor(
    connection: Connection,
    service: Service<Methods>,
    options: ClientOptions = {},
  ) {
    this.#connection = connection;
    this.#options = options;
    this.$ = new MethodCaller(connection, options.queue ?? service.queue, options);
  }

  /**
   * A copy of this client with other options. Those that are not named stay. Headers are added to
   * the client's own.
   */
  withOptions(options: ClientOptions): this {
    const headers = { ...this.#options.headers, ...options.headers };
    const merged = { ...this.#options, ...options, headers };
    // The constructor of a generated class, which passes its service to that of `Client`.
    const Class = this.constructor as new (connection: Connection, options: ClientOptions) => this;
    return new Class(this.#connection, merged);
  }
}

/** Calls the methods of one service, with the options of one client. */
export class MethodCaller {
  readonly #connection: Connection;
  readonly #queue: string;
  readonly #options: ClientOptions;

  constructor(connection: Connection, queue: string, options: ClientOptions) {
    if (queue === "" || Buffer.byteLength(queue) > 255) {
      throw new EncodeFailed("a name has 1 to 255 bytes", "the queue is invalid");
    }
    this.#connection = connection;
    this.#queue = queue;
    this.#options = options;
  }

  /** Calls a method that replies once. */
  async call<A, R>(
    method: Method<A, R, null, "unary">,
    args: A,
    options: CallOptions = {},
  ): Promise<R> {
    const plan = this.#plan(method, args, options);
    return (await callUnary(this.#parts.caller, method, plan)) as R;
  }

  /** Sends a one-way request. Returns once the broker has confirmed it. */
  async send<A>(
    method: Method<A, any, null, "oneway">,
    args: A,
    options: SendOptions = {},
  ): Promise<void> {
    const merged = this.#merge(options);
    const delay = delayHeader(method, merged.delayMs);
    const plan = planCall(method, this.#queue, args, merged, delay);
    await sendOneway(this.#connection.internals.requests, plan, this.#parts.caller.maxBytes);
  }

  /** Calls a method that returns a stream. Nothing is sent before the stream is first read. */
  stream<A, R>(
    method: Method<A, R, null, "stream">,
    args: A,
    options: StreamOptions = {},
  ): ItemStream<R> {
    const merged = this.#merge(options);
    const window = windowOf(merged);
    const begin = (current: unknown) =>
      new StreamingCall(
        this.#parts,
        method,
        () => planCall(method, this.#queue, current, merged, creditHeaders(window)),
        window,
      );
    // Resuming a stream calls its method again.
    const canResume = method.resume !== null && method.idempotent;
    if (!canResume) return begin(args) as ItemStream<R>;
    const named = args as Readonly<Record<string, unknown>>;
    const limitMs = limitOf(method, merged);
    return resuming(method.resume, named, limitMs, merged.signal, begin) as ItemStream<R>;
  }

  /** Calls a method that receives a stream and replies once. */
  async upload<A, R, I>(
    method: Method<A, R, I, "upload">,
    args: A,
    items: Items<I>,
    options: CallOptions = {},
  ): Promise<R> {
    const plan = this.#plan(method, args, options, INCOMING_HEADERS);
    return (await callUpload(this.#parts, method, plan, items)) as R;
  }

  /**
   * Calls a method that receives a stream and returns one. Nothing is sent before the returned one
   * is first read.
   */
  duplex<A, R, I>(
    method: Method<A, R, I, "duplex">,
    args: A,
    items: Items<I>,
    options: StreamOptions = {},
  ): ItemStream<R> {
    const merged = this.#merge(options);
    const window = windowOf(merged);
    const headers = { ...creditHeaders(window), ...INCOMING_HEADERS };
    const upload = new Upload(this.#parts, method, items, merged.codec ?? "msgpack");
    const plan = () => planCall(method, this.#queue, args, merged, headers);
    return new StreamingCall(this.#parts, method, plan, window, upload) as ItemStream<R>;
  }

  /**
   * Calls a method on all workers of the queue, and gathers their answers. Nothing is sent before
   * they are first read.
   */
  broadcast<A, R>(
    method: Method<A, R, null, "broadcast">,
    args: A,
    options: BroadcastOptions = {},
  ): Gather<R> {
    const merged = this.#merge(options);
    const codec = merged.codec ?? "msgpack";
    return new Gathering<R>(
      this.#connection.internals,
      () => this.#planBroadcast(method, args, options),
      { expectWorkers: merged.expectWorkers, quietMs: merged.quietMs },
      (message) =>
        readResult(replyOf(message, codec), method, null, (reply) =>
          decodeValue(reply.codec, method.result, reply.body),
        ),
    );
  }

  /**
   * Calls a method on all workers of the queue. Nobody answers. Returns once the broker has
   * confirmed the message.
   */
  async broadcastOneway<A>(
    method: Method<A, any, null, "broadcastOneway">,
    args: A,
    options: CallOptions = {},
  ): Promise<void> {
    const plan = this.#planBroadcast(method, args, options);
    await sendBroadcast(this.#parts.control, plan);
  }

  get #parts() {
    return this.#connection.internals;
  }

  #merge(options: ClientOptions): ClientOptions {
    const headers = { ...this.#options.headers, ...options.headers };
    return { ...this.#options, ...options, headers };
  }

  #plan(
    method: AnyMethod,
    args: unknown,
    options: ClientOptions,
    headers: Readonly<Record<string, string>> = {},
  ) {
    return planCall(method, this.#queue, args, this.#merge(options), headers);
  }

  #planBroadcast(method: AnyMethod, args: unknown, options: ClientOptions) {
    const plan = this.#plan(method, args, options);
    const limit = Math.min(MAX_BROADCAST_BYTES, this.#parts.maxSentBytes);
    if (plan.body.length > limit) throw new TooLarge(plan.body.length, limit);
    return plan;
  }
}
