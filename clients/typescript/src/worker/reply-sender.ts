import type { Log } from "../log.js";
import type { ReplyTo } from "../protocol/dispatch.js";
import { DIRECT_REPLY_TO } from "../protocol/reply-address.js";
import { Link } from "../transport/link.js";
import type { Headers, Outgoing } from "../transport/message.js";
import { Publisher, type Outcome } from "../transport/publisher.js";

/** A reply without an address. */
export interface OutgoingReply {
  readonly type: string;
  readonly headers: Headers;
  readonly body: Buffer;
}

/** Whether a message asks the broker to return it if no queue gets it. */
export type Routing = "mandatory" | "optional";

/**
 * A message that closes its channel this often is given up. The first time, another message may be
 * to blame. After that, no other message that may have closed a channel is sent at the same time.
 */
const MAX_CLOSED = 3;

/** How many replies to broadcasts, questions and probes may wait. No prefetch limits these. */
const MAX_OFFERED = 1024;
const MAX_OFFERED_BYTES = 64 * 1024 * 1024;

/** Publishes the replies of a worker. */
export class ReplySender {
  readonly #publisher: Publisher;
  readonly #openDirect: () => Link;
  readonly #log: Log;
  /** Messages that may have closed their channel are sent one by one. */
  #suspects: Promise<unknown> = Promise.resolve();
  #offered = 0;
  #offeredBytes = 0;
  /** For direct reply-to, once there is such a reply. */
  #direct: { readonly link: Link; readonly publisher: Publisher } | null = null;

  constructor(link: Link, log: Log, openDirect: () => Link) {
    this.#publisher = new Publisher(link, log, "replies");
    this.#openDirect = openDirect;
    this.#log = log;
  }

  start(): void {
    this.#publisher.start();
  }

  /**
   * Sends a reply until the broker has confirmed or refused it, for at most `limitMs`. Returns
   * `unsent` after that, and `refused` also if the reply has closed too many channels.
   */
  async reply(replyTo: ReplyTo, reply: OutgoingReply, limitMs: number): Promise<Outcome["kind"]> {
    const outgoing = this.outgoing(replyTo, reply, "optional");
    const until = performance.now() + limitMs;
    let closed = 0;
    for (;;) {
      const left = until - performance.now();
      if (left <= 0) return "unsent";
      const outcome = await (closed > 0
        ? this.#sendAlone(outgoing, left)
        : this.send(outgoing, left));
      if (outcome.kind !== "lost") return outcome.kind;
      if (outcome.byBroker && ++closed >= MAX_CLOSED) return "refused";
    }
  }

  /** Sends a reply to a broadcast or a question, if there is room for it. */
  offer(replyTo: ReplyTo, reply: OutgoingReply, limitMs: number): void {
    this.#offer(reply, () => this.reply(replyTo, reply, limitMs));
  }

  /** Publishes a reply once, if there is room for it. */
  offerOnce(replyTo: ReplyTo, reply: OutgoingReply, limitMs: number): void {
    this.#offer(reply, () => this.send(this.outgoing(replyTo, reply, "optional"), limitMs));
  }

  #offer({ body }: OutgoingReply, send: () => Promise<unknown>): void {
    // A single reply may be larger.
    const hasRoom = this.#offered === 0 || this.#offeredBytes + body.length <= MAX_OFFERED_BYTES;
    if (this.#offered >= MAX_OFFERED || !hasRoom) {
      this.#log.line("warn", "a reply was dropped: too many replies wait for the broker");
      return;
    }
    this.#offered++;
    this.#offeredBytes += body.length;
    void send().then(() => {
      this.#offered--;
      this.#offeredBytes -= body.length;
    });
  }

  /**
   * The message that carries a reply to its address. The broker returns a mandatory one once the
   * caller's queue is gone. It is never mandatory if the address is one of direct reply-to: that is
   * no queue, and RabbitMQ before 4.2 may return a message that it delivers.
   */
  outgoing(replyTo: ReplyTo, { type, headers, body }: OutgoingReply, routing: Routing): Outgoing {
    const isDirect = replyTo.address.startsWith(DIRECT_REPLY_TO);
    return {
      routingKey: replyTo.address,
      mandatory: routing === "mandatory" && !isDirect,
      properties: {
        type,
        contentType: replyTo.contentType,
        correlationId: replyTo.correlationId,
        deliveryMode: 1,
        headers,
      },
      body,
    };
  }

  /** Publishes a message once. */
  send(outgoing: Outgoing, limitMs: number): Promise<Outcome> {
    return this.#publisherFor(outgoing.routingKey).send(outgoing, limitMs);
  }

  /** Publishes a message once, after the other suspects. */
  #sendAlone(outgoing: Outgoing, limitMs: number): Promise<Outcome> {
    const until = performance.now() + limitMs;
    const sent = this.#suspects.then(() => this.send(outgoing, until - performance.now()));
    this.#suspects = sent;
    return sent;
  }

  async close(): Promise<void> {
    await this.#publisher.close();
    await this.#direct?.publisher.close();
    await this.#direct?.link.close();
  }

  /**
   * Returns the publisher for an address. Direct replies have a connection of their own, because
   * the broker closes it over a malformed address.
   */
  #publisherFor(address: string): Publisher {
    if (!address.startsWith(DIRECT_REPLY_TO)) return this.#publisher;
    if (this.#direct === null) {
      const link = this.#openDirect();
      const publisher = new Publisher(link, this.#log, "direct replies");
      publisher.start();
      link.open().catch(() => {
        // The link has logged the reason, and goes on trying.
      });
      this.#direct = { link, publisher };
    }
    return this.#direct.publisher;
  }
}
