import type { Publisher } from "../transport/publisher.js";
import type { Caller } from "./caller.js";
import type { Cancellations } from "./cancellations.js";

/** What all calls of a connection use. */
export interface CallParts {
  readonly caller: Caller;
  /** Publishes to the control exchange. */
  readonly control: Publisher;
  readonly cancellations: Cancellations;
}
