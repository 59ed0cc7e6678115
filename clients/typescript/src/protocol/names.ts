/** The exchange through which one worker, or all workers of a queue, can be reached. */
export const CONTROL_EXCHANGE = "rpc.control";

/** The routing key of questions to all workers. */
export const DISCOVERY_KEY = "rpc.discovery";

export const ITEMS_TYPE = "rpc.items";
export const CREDIT_TYPE = "rpc.credit";
export const CANCEL_TYPE = "rpc.cancel";
export const PROBE_TYPE = "rpc.probe";

export const CREDIT_HEADER = "rpc-credit";
export const CREDIT_BYTES_HEADER = "rpc-credit-bytes";
export const INCOMING_HEADER = "rpc-incoming";
export const ITEMS_HEADER = "rpc-items";
export const WORKER_HEADER = "rpc-worker";
export const RESENT_HEADER = "rpc-resent";
export const REDELIVERIES_HEADER = "rpc-redeliveries";
export const RETRY_AFTER_HEADER = "rpc-retry-after";

/** A peer that has nothing to send sends a message this often. */
export const KEEP_ALIVE_MS = 5_000;
/** A peer that is silent for this long is gone. */
export const MAX_SILENCE_MS = 16_000;
/** After so many messages without items and without a grant, the caller of a stream is gone. */
export const MAX_UNANSWERED = 12;
/** How many items a message may have. */
export const MAX_ITEMS = 16_384;
/** How many items a caller may grant beyond those it has read. */
export const MAX_CREDIT = 1_048_576;
/** How many bytes of items a method may leave untaken. */
export const MAX_UNTAKEN_BYTES = 4 * 1024 * 1024;
/** How many bytes of a message are around its only item. */
export const ITEM_FRAME = 40;
/** How many bytes the body of a broadcast may have. */
export const MAX_BROADCAST_BYTES = 1024 * 1024;
