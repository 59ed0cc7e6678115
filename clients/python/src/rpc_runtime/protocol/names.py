"""Names on the wire, and the limits that peers agree on."""

from typing import Final

CONTROL_EXCHANGE: Final = "rpc.control"
DISCOVERY_KEY: Final = "rpc.discovery"

PROBE: Final = "rpc.probe"
BATCH: Final = "rpc.batch"
CANCEL: Final = "rpc.cancel"
ITEMS: Final = "rpc.items"
CREDIT: Final = "rpc.credit"
PING: Final = "rpc.ping"
DESCRIBE: Final = "rpc.describe"
STATS: Final = "rpc.stats"

RESENT_HEADER: Final = "rpc-resent"
COPY_HEADER: Final = "rpc-copy"
REDELIVERIES_HEADER: Final = "rpc-redeliveries"
WORKER_HEADER: Final = "rpc-worker"
ITEMS_HEADER: Final = "rpc-items"
CREDIT_HEADER: Final = "rpc-credit"
CREDIT_BYTES_HEADER: Final = "rpc-credit-bytes"
INCOMING_HEADER: Final = "rpc-incoming"
RETRY_AFTER_HEADER: Final = "rpc-retry-after"
BATCH_HEADER: Final = "rpc-batch"

REPLY_QUEUE_PREFIX: Final = "rpc.reply."
ITEMS_SUFFIX: Final = ".items"

# How many bytes a short string of AMQP may have, such as the name of a queue.
MAX_SHORT_STRING: Final = 255
# The longest time to live that is sent: 2^32 - 1 milliseconds in seconds, about 49 days.
MAX_TIME_TO_LIVE: Final = 4_294_967.0
MAX_BROADCAST_BYTES: Final = 1024 * 1024
# In seconds. A peer of a stream that has nothing to send sends a message every `KEEP_ALIVE`, and
# one that sends nothing for `MAX_SILENCE` is gone.
KEEP_ALIVE: Final = 5.0
MAX_SILENCE: Final = 16.0
