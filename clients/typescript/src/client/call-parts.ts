import type { Publisher } from "../transport/publisher.js";
import type { Caller } from "./caller.js";
import type { Cancellations } from "./cancellations.js";

/** What the calls of a connection share. One-way calls have a publisher of their own. */
export interface CallParts {
  readonly caller: Caller;
  /** Publishes to the control exchange. */
  readonly control: Publisher;
  readonly cancellations: Cancellations;
}
