import { CONTENT_TYPES } from "../codec/content-type.js";
import { encodeValue } from "../codec/values.js";
import { BadItem, BrokerFailed, type RpcError } from "../errors.js";
import type { AnyMethod } from "../method.js";
import { decodeIncomingGrant, encodeItems } from "../protocol/control.js";
import { ItemSender, type ItemMessage } from "../protocol/item-sender.js";
import {
  CONTROL_EXCHANGE,
  CREDIT_TYPE,
  INCOMING_HEADER,
  ITEM_FRAME,
  ITEMS_HEADER,
  ITEMS_TYPE,
  KEEP_ALIVE_MS,
  MAX_SILENCE_MS,
} from "../protocol/names.js";
import { closeIterator, iteratorOf, type Items } from "../service.js";
import type { Incoming } from "../transport/message.js";
import { COPY_HEADER, newCopyToken, type Outcome } from "../transport/publisher.js";
import type { CallParts } from "./call-parts.js";
import type { RunningCall } from "./running-call.js";
import type { CodecName } from "./options.js";

/** The header of a request whose caller sends items. */
export const INCOMING_HEADERS: Readonly<Record<string, string>> = { [INCOMING_HEADER]: "1" };

const MAX_UNCONFIRMED = 16;
/** The pause after a message that did not reach the worker. */
const RETRY_MS = 200;
/** An upload that closes this many channels in a row fails: the broker does not accept an item. */
const MAX_FAILURES = 3;
/** So many items are taken from the caller's stream before others have their turn. */
const MAX_TURN = 256;

/** Reads the caller's stream and sends its items, once a worker grants credit. */
export class Upload {
  readonly #parts: CallParts;
  readonly #method: AnyMethod;
  readonly #items: Items<unknown>;
  readonly #codec: CodecName;
  readonly #sender = new ItemSender();
  readonly #onProgress: () => void;
  #iterator: AsyncIterator<unknown> | Iterator<unknown> | null = null;
  /** The worker that runs the method, and the call, once its first grant is there. */
  #worker: string | null = null;
  #call: RunningCall | null = null;
  /** Whether `#pull` runs, which mostly waits for the caller's stream. */
  #isPulling = false;
  #isScheduled = false;
  #unconfirmed = 0;
  #pausedUntil = 0;
  #failures = 0;
  /** When the last message was sent. */
  #sentAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #isStopped = false;

  constructor(
    parts: CallParts,
    method: AnyMethod,
    items: Items<unknown>,
    codec: CodecName,
    /** Called when the method has taken items, or the caller's stream is no longer awaited. */
    onProgress: () => void = () => {},
  ) {
    this.#parts = parts;
    this.#method = method;
    this.#items = items;
    this.#codec = codec;
    this.#onProgress = onProgress;
  }

  /** Whether a worker has begun the method. */
  get hasBegun(): boolean {
    return this.#worker !== null;
  }

  /** Whether the call waits for the worker, and not for its own stream. */
  get waitsForWorker(): boolean {
    return !this.#isPulling;
  }

  /** Whether a message grants credit for items of a caller. */
  isGrant(message: Incoming): boolean {
    return message.properties.type === CREDIT_TYPE;
  }

  /** Takes a grant of the run that gets the items. The first one begins the upload. */
  grant(call: RunningCall, worker: string, message: Incoming): void {
    if (this.#worker === null) {
      this.#worker = worker;
      this.#call = call;
      call.beginStream();
      this.#timer = setInterval(() => this.#keepAlive(), 1000);
    }
    if (this.#sender.grant(decodeIncomingGrant(message.body))) this.#onProgress();
    if (this.#sender.isDone) this.#closeStream();
    this.#sendAndPull();
  }

  /** The call has ended. */
  stop(): void {
    if (this.#isStopped) return;
    this.#isStopped = true;
    clearInterval(this.#timer);
    this.#closeStream();
  }

  #closeStream(): void {
    const iterator = this.#iterator;
    this.#iterator = null;
    if (iterator !== null) closeIterator(iterator);
  }

  /** Sends what may be sent, and takes further items if there is room for them. */
  #sendAndPull(): void {
    while (this.#maySend) {
      const message = this.#sender.next();
      if (message === null) break;
      this.#send(message);
    }
    if (this.#sender.mayPull && !this.#isPulling && this.#maySend) void this.#pull();
  }

  #sendSoon(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#sendAndPull();
    });
  }

  /** Whether a message may be sent now: there is room for it, and no pause after a lost one. */
  get #maySend(): boolean {
    const hasRoom = this.#unconfirmed < MAX_UNCONFIRMED;
    return !this.#isStopped && hasRoom && this.#pausedUntil <= performance.now();
  }

  /** Takes items from the caller's stream while there are credit and room for them. */
  async #pull(): Promise<void> {
    this.#isPulling = true;
    try {
      this.#iterator ??= iteratorOf(this.#items);
      let pulled = 0;
      while (this.#sender.mayPull && !this.#isStopped && this.#iterator !== null) {
        const iterator = this.#iterator;
        const step = await iterator.next();
        if (this.#isStopped || this.#sender.isDone) return;
        if (step.done) {
          this.#iterator = null;
          this.#sender.end();
          break;
        }
        this.#sender.push(this.#encode(step.value));
        if (++pulled % MAX_TURN === 0) {
          this.#sendAndPull();
          await new Promise(setImmediate);
          if (this.#unconfirmed >= MAX_UNCONFIRMED) break;
        } else {
          // Later, so that items that are ready at the same time share a message.
          this.#sendSoon();
        }
      }
    } catch (error) {
      // Even an `RpcError` is replaced: it is that of another call.
      this.#fail(new BadItem(error));
      return;
    } finally {
      this.#isPulling = false;
      this.#onProgress();
    }
    this.#sendAndPull();
  }

  #encode(item: unknown): Buffer {
    const encoded = encodeValue(this.#codec, this.#method.incoming!, item);
    const limit = this.#parts.caller.maxBytes - ITEM_FRAME;
    if (encoded.length > limit) {
      throw new Error(`it has ${encoded.length} bytes, and at most ${limit} may be sent`);
    }
    return encoded;
  }

  #send(message: ItemMessage): void {
    this.#unconfirmed++;
    this.#sentAt = performance.now();
    const end = message.end === null ? {} : { [ITEMS_HEADER]: String(message.end) };
    const outgoing = {
      exchange: CONTROL_EXCHANGE,
      routingKey: `${this.#worker}.items`,
      mandatory: true,
      properties: {
        type: ITEMS_TYPE,
        contentType: CONTENT_TYPES[this.#codec],
        correlationId: this.#call!.id,
        headers: { ...end, [COPY_HEADER]: newCopyToken() },
      },
      body: encodeItems({ ...message, credit: { items: 0, bytes: null } }),
    };
    void this.#parts.control.send(outgoing, MAX_SILENCE_MS).then((outcome) => {
      this.#unconfirmed--;
      this.#handleOutcome(message, outcome);
    });
  }

  #handleOutcome(message: ItemMessage, outcome: Outcome): void {
    if (this.#isStopped) return;
    if (outcome.kind === "confirmed") {
      this.#failures = 0;
      this.#sendAndPull();
      return;
    }
    if (outcome.kind === "lost" && outcome.byBroker && ++this.#failures >= MAX_FAILURES) {
      this.#fail(new BrokerFailed(outcome.reason, "maybe"));
      return;
    }
    // The worker may be just connecting again, or its queue may be full. Workers discard what
    // follows a gap, so all items from this message on are sent again.
    this.#sender.goBack(message.first);
    this.#pausedUntil = performance.now() + RETRY_MS;
    setTimeout(() => this.#sendAndPull(), RETRY_MS + 1);
  }

  /** Shows the worker that the caller is there, if no items have done so for a while. */
  #keepAlive(): void {
    if (this.#isStopped || performance.now() - this.#sentAt < KEEP_ALIVE_MS) return;
    if (this.#unconfirmed < MAX_UNCONFIRMED) this.#send(this.#sender.keepAlive());
  }

  #fail(error: RpcError): void {
    if (this.#isStopped) return;
    const call = this.#call;
    this.stop();
    call?.fail(error);
  }
}
