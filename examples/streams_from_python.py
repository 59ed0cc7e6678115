"""A worker and a caller of streams. streams_from_python.rs has their peers, and runs this script.

    streams_from_python.py worker QUEUE    serves `readings`, a method that returns a stream
    streams_from_python.py caller QUEUE    calls `readings`, and sends a stream to `store`

Values are JSON. The messages of streams are MessagePack: see docs/protocol.md. Needs `pika` and `msgpack`.

To keep it short, neither side reconnects: the process ends with its connection, so run it under a supervisor.
A worker that stops does not answer requests that it has received and not begun: the next one answers `interrupted`.
Its queue must not be shared with workers in Rust, because it does not answer their probes. A request to a queue that
does not exist times out.
"""

import collections
import itertools
import json
import os
import signal
import sys
import threading
import time
import uuid

import msgpack
import pika

CONTROL_EXCHANGE = "rpc.control"
# A peer that has nothing to send sends a message every 5 seconds. One that is silent for 16 seconds is gone.
KEEP_ALIVE = 5
MAX_SILENCE = 16
# What `next` returns at the end of a caller's items. No item is this object.
END = object()
# A worker gives a caller up 5 seconds after so many messages without items that got no answer:
# after 65 seconds.
MAX_UNANSWERED = 12
# What a worker asks of a caller that sends items, beside granting credit.
ASKS_AGAIN, ASKS_NO_MORE = 1, 2
# A message has at most so many items and, unless it has only one, so many bytes of items.
MAX_ITEMS = 16 * 1024
MAX_ITEMS_BYTES = 64 * 1024
# MessagePack writes at most so many bytes before an item.
ITEM_PREFIX = 5
# An item takes so many bytes of credit beside its length.
ITEM_COST = 8


def connect(url):
    parameters = pika.URLParameters(url)
    # While an alarm of the broker lasts, `basic_publish` would wait without a limit. With this, the
    # connection ends.
    parameters.blocked_connection_timeout = 30
    return pika.BlockingConnection(parameters)


def batches(items):
    """Splits items into lists that fit into one message. A single item may be larger."""
    batch, size = [], 0
    for item in items:
        size += len(item) + ITEM_PREFIX
        if batch and (len(batch) == MAX_ITEMS or size > MAX_ITEMS_BYTES):
            yield batch
            batch, size = [], len(item) + ITEM_PREFIX
        batch.append(item)
    if batch:
        yield batch


class ServiceError(Exception):
    """The method's own error, as the service's trait declares it."""


class Fault(Exception):
    """The worker's runtime answers in place of the method.

    A worker raises it with a code and a message, a caller with both in one text.
    """


# The worker.


class Ended(Exception):
    """The stream has ended before its method: usually, its caller reads no more items."""


def number(value):
    """Reads an unsigned integer of at most 64 bits."""
    value = int(value)
    if not 0 <= value < 2**64:
        raise ValueError(f"{value} is no unsigned integer of 64 bits")
    return value


class Stream:
    """A stream that answers one request. The method runs in a thread, and another one has the connection."""

    def __init__(self, worker, request_id, delivery_tag, properties):
        self.worker = worker
        # If the same request runs here again, its caller can tell the messages of both runs apart.
        self.run_number = next(worker.run_numbers)
        self.request_id = request_id
        # The delivery tag of the request, until it is acknowledged.
        self.unacked = delivery_tag
        self.properties = properties
        headers = properties.headers
        # How many items, and how many bytes of them, may be sent in total. Without a second number,
        # the bytes are not limited.
        self.credit = [number(headers["rpc-credit"])]
        if "rpc-credit-bytes" in headers:
            self.credit.append(number(headers["rpc-credit-bytes"]))
        # What the method has made, in items and bytes of credit.
        self.made, self.made_bytes = 0, 0
        # Items that are made and not sent.
        self.ready = []
        # The number of items that are sent.
        self.sent = 0
        self.has_ended = False
        # Guards what the two threads share: `credit`, `ready` and `has_ended`.
        self.changed = threading.Condition()
        self.sent_at = time.monotonic()
        # How many messages without items were sent since the caller's last grant.
        self.unanswered = 0

    # In the thread of the method.

    def run(self, items):
        """Sends the items of the method, and then the end, unless the stream has ended before."""
        try:
            for item in items:
                self.send(json.dumps(item, allow_nan=False).encode())
            kind, body = "result", b""
        except Ended:
            return
        except ServiceError as error:
            kind, body = "error", json.dumps(error.args[0]).encode()
        except Exception as error:
            kind, body = "fault", json.dumps({"code": "panicked", "message": repr(error)}).encode()
        finally:
            # Ends the method.
            items.close()
            self.worker.soon(self.worker.thread_ended)
        self.worker.soon(lambda: self.end(kind, body))

    def send(self, item):
        """Waits for credit, and passes the item to the thread of the connection."""
        with self.changed:
            # The method makes no further item before this one may be sent.
            self.changed.wait_for(lambda: self.has_ended or self.has_credit() and len(self.ready) < MAX_ITEMS)
            if self.has_ended:
                raise Ended
            self.ready.append(item)
            self.made += 1
            self.made_bytes += len(item) + ITEM_COST
        self.worker.soon(self.flush)

    def has_credit(self):
        items, *limit = self.credit
        return self.made < items and (not limit or self.made_bytes < limit[0])

    # In the thread of the connection.

    def flush(self):
        with self.changed:
            ready, self.ready = self.ready, []
            self.changed.notify()
        for batch in batches(ready):
            self.publish_items(batch)

    def publish_items(self, items):
        with self.changed:
            body = msgpack.packb([self.sent, items, *self.credit])
        self.sent += len(items)
        self.sent_at = time.monotonic()
        self.publish("rpc.items", {}, body)

    def end(self, kind, body):
        """Sends the items that are ready and the end, unless the stream has ended."""
        if not self.has_ended:
            self.flush()
            self.publish(kind, {"rpc-items": str(self.sent)}, body)
            self.stop()

    def publish(self, kind, headers, body):
        if self.has_ended:
            return
        headers["rpc-worker"] = json.dumps({"id": self.worker.id, "run": self.run_number})
        try:
            self.worker.reply(self.properties, kind, body, headers)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
            # There is no such queue, so the caller is gone, or the queue does not take the message.
            self.stop()
        self.settle()

    def settle(self):
        """Acknowledges the request after its first message, or if the stream stops before that."""
        if self.unacked is not None:
            self.worker.channel.basic_ack(self.unacked)
            self.unacked = None

    def grant(self, credit):
        with self.changed:
            # A grant may arrive late: the credit never shrinks. If one of the two has no bytes,
            # they are not limited.
            self.credit = [max(pair) for pair in zip(self.credit, credit)]
            self.changed.notify()
        self.unanswered = 0

    def stop(self):
        """Ends the stream without a message to its caller."""
        self.settle()
        self.worker.streams.pop(self.request_id, None)
        with self.changed:
            self.has_ended = True
            self.changed.notify()

    def keep_alive(self):
        """Sends a message without items after a pause, or ends the stream if none is answered."""
        if time.monotonic() - self.sent_at < KEEP_ALIVE:
            return
        self.unanswered += 1
        if self.unanswered > MAX_UNANSWERED:
            fault = {"code": "abandoned", "message": "the caller grants no credit"}
            return self.end("fault", json.dumps(fault).encode())
        self.publish_items([])


class Worker:
    """Serves methods that return streams."""

    # Not direct reply-to: the broker closes the connection of a worker that replies to a malformed address.
    REPLY_ADDRESSES = ("amq.gen-", "rpc.reply.")
    MAX_STREAMS = 100

    def __init__(self, url, queue, methods):
        self.id = str(uuid.uuid4())
        self.methods = methods
        self.run_numbers = itertools.count(1)
        self.streams = {}
        # How many methods run, also of streams that have ended.
        self.threads = 0
        self.is_stopping = False
        self.connection = connect(url)
        self.channel = self.connection.channel()
        # `basic_publish` waits until the broker has the message.
        self.channel.confirm_delivery()
        # The broker cancels a consumer if, for example, its queue is deleted. The worker stops
        # then, and whoever runs it starts it again.
        self.channel.add_on_cancel_callback(lambda _: setattr(self, "is_stopping", True))
        self.channel.exchange_declare(CONTROL_EXCHANGE, exchange_type="direct", durable=True)
        limits = {
            "x-queue-type": "classic",
            "x-message-ttl": 60_000,
            "x-max-length": 1024,
            "x-max-length-bytes": 8 * 1024 * 1024,
        }
        control = f"rpc.control.{uuid.uuid4()}"
        self.channel.queue_declare(control, exclusive=True, auto_delete=True, arguments=limits)
        # Credit is sent to the worker's id, and cancellations to the queue or to the id.
        for key in (self.id, queue):
            self.channel.queue_bind(control, CONTROL_EXCHANGE, routing_key=key)
        self.channel.basic_consume(control, self.on_control, auto_ack=True)
        self.channel.queue_declare(queue, durable=True)
        # More streams may run: a request is acknowledged after the first message of its stream.
        self.channel.basic_qos(prefetch_count=16)
        self.channel.basic_consume(queue, self.on_request)

    def run(self):
        """Serves until the worker is told to stop. Then ends its streams with a fault."""
        while not self.is_stopping and self.channel.is_open:
            self.connection.process_data_events(time_limit=1)
            for stream in list(self.streams.values()):
                stream.keep_alive()
        if not self.channel.is_open:
            raise ConnectionError("the broker closed the channel")
        fault = {"code": "interrupted", "message": "the worker stops"}
        for stream in list(self.streams.values()):
            stream.end("fault", json.dumps(fault).encode())
        self.connection.close()

    def soon(self, callback):
        """Runs a function in the thread of the connection: pika is not thread-safe."""
        try:
            self.connection.add_callback_threadsafe(callback)
        except pika.exceptions.ConnectionWrongStateError:
            # The worker has stopped.
            pass

    def thread_ended(self):
        self.threads -= 1

    def on_request(self, channel, frame, properties, body):
        # Anybody can send a request. Never publish to a queue that is not for replies.
        if not str(properties.reply_to or "").startswith(self.REPLY_ADDRESSES):
            return channel.basic_reject(frame.delivery_tag, requeue=False)
        try:
            if frame.redelivered:
                raise Fault("interrupted", "another worker may have run the method")
            if properties.type not in self.methods:
                raise Fault("unknown_method", f"there is no method {properties.type}")
            if self.threads >= self.MAX_STREAMS:
                raise Fault("rejected", "the worker runs as many streams as it can")
            self.begin(frame.delivery_tag, properties, body)
        except Fault as fault:
            self.refuse(frame, properties, fault)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            self.refuse(frame, properties, Fault("bad_request", repr(error)))

    def begin(self, delivery_tag, properties, body):
        if properties.content_type != "application/json":
            raise Fault("unsupported_content_type", "only application/json is supported")
        # Other callers expect an array of all items.
        if "rpc-credit" not in (properties.headers or {}):
            raise Fault("bad_request", "the header rpc-credit is missing: this worker only streams")
        request_id = uuid.UUID(properties.correlation_id).bytes
        if request_id in self.streams:
            # The caller has sent the request again.
            return self.channel.basic_ack(delivery_tag)
        items = self.methods[properties.type](**json.loads(body or b"{}"))
        stream = Stream(self, request_id, delivery_tag, properties)
        self.streams[request_id] = stream
        self.threads += 1
        threading.Thread(target=stream.run, args=[items], daemon=True).start()

    def refuse(self, frame, properties, fault):
        """Answers a request with a fault, and acknowledges it."""
        code, message = fault.args
        is_json = properties.content_type == "application/json"
        body = json.dumps({"code": code, "message": message}) if is_json else f"{code}: {message}"
        properties.content_type = "application/json" if is_json else "text/plain"
        try:
            self.reply(properties, "fault", body.encode(), {})
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError):
            pass
        self.channel.basic_ack(frame.delivery_tag)

    def reply(self, request, kind, body, headers):
        """Publishes a message to the caller whose request has the properties `request`."""
        self.channel.basic_publish(
            exchange="",
            routing_key=request.reply_to,
            mandatory=True,
            properties=pika.BasicProperties(
                type=kind,
                content_type=request.content_type,
                correlation_id=request.correlation_id,
                headers=headers,
                delivery_mode=1,
            ),
            body=body,
        )

    def on_control(self, channel, frame, properties, body):
        # Ignore what was published to the queue directly: the exchange has its own permission.
        if frame.exchange != CONTROL_EXCHANGE or properties.type not in ("rpc.credit", "rpc.cancel"):
            return
        try:
            # In a cancellation, `count` is a time, which is not used. Skip further elements: later
            # versions may add some.
            for request_id, count, *rest in msgpack.unpackb(body):
                stream = self.streams.get(request_id)
                if stream and properties.type == "rpc.credit":
                    stream.grant([number(n) for n in (count, *rest[:1])])
                elif stream:
                    stream.stop()
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
            # Whoever may publish to the exchange can send anything.
            pass


def readings(sensor, count=None):
    """Yields the readings of a sensor. Without a count, they have no end."""
    number = 0
    try:
        while count is None or number < count:
            number += 1
            if sensor == "cellar" and number > 2:
                raise ServiceError({"Broken": {"sensor": sensor}})
            yield {"number": number, "celsius": 20 + number / 2}
    finally:
        # Also when the caller reads no more.
        print(f"made {number} readings of {sensor}", flush=True)


# The caller.


class Client:
    """Calls methods of one queue that return or receive a stream, not both, one at a time."""

    # How many seconds a call waits for the first message of a worker.
    TIME_LIMIT = 10
    # No more is sent beyond so many bytes of items that the method has not taken.
    MAX_UNTAKEN_BYTES = 4 * 1024 * 1024

    def __init__(self, url, queue):
        self.connection = connect(url)
        self.channel = self.connection.channel()
        self.queue = queue
        self.replies = self.channel.queue_declare(queue="", exclusive=True).method.queue

    def stream(self, method, credit=64, **arguments):
        """Yields the items of a stream. Close the generator to end the stream early.

        At most `credit` items are on their way or wait here. Read further within a minute: only then does the
        worker learn that its caller is there.
        """
        request_id = uuid.uuid4()
        self.request(method, arguments, request_id, {"rpc-credit": str(credit)})
        # The next item's number, the credit, items that wait for it, and the end if it has arrived.
        number, granted, arrived, end = 0, credit, {}, None
        try:
            for worker, properties, body in self.messages(request_id):
                if properties.type == "rpc.items":
                    first, items = msgpack.unpackb(body)[:2]
                    # A message may arrive twice, or after a later one.
                    arrived.update((n, item) for n, item in enumerate(items, first) if n >= number)
                    if not items:
                        self.grant(worker, request_id, granted)
                elif "rpc-items" in properties.headers:
                    end = int(properties.headers["rpc-items"]), properties.type, body
                else:
                    # The method did not run, the worker does not stream, or items are lost. Do not
                    # wait for any.
                    end = number, properties.type, body
                while number in arrived:
                    item = json.loads(arrived.pop(number))
                    number += 1
                    yield item
                    if granted - number <= credit // 2:
                        granted = number + credit
                        self.grant(worker, request_id, granted)
                if end and end[0] == number:
                    # There is nothing to cancel any more.
                    request_id = None
                    # A worker that does not stream sends all items as an array.
                    yield from self.read(*end[1:]) or []
                    return
        finally:
            self.cancel(request_id)

    def upload(self, method, items, **arguments):
        """Calls a method that receives a stream, sends the items, and returns the method's result.

        An iterator that may wait for seconds before its next item needs a thread of its own:
        meanwhile, the worker gets no message.
        """
        request_id = uuid.uuid4()
        self.request(method, arguments, request_id, {"rpc-incoming": "1"})
        # The method has taken the items before number `taken`; `kept` has those from there on.
        # Those before number `sent` are sent.
        items, kept, taken, sent, credit = iter(items), collections.deque(), 0, 0, 0
        has_ended = is_done = False
        sent_at = time.monotonic()
        try:
            for worker, properties, body in self.messages(request_id, wakes=True):
                if properties and properties.type != "rpc.credit":
                    # The reply: there is nothing to cancel any more.
                    request_id = None
                    return self.read(properties.type, body)
                if worker is None:
                    # No worker has begun yet.
                    continue
                if properties and not is_done:
                    new_credit, new_taken, asks = msgpack.unpackb(body)[:3]
                    credit = max(credit, new_credit)
                    # Items that the method has taken need not be kept.
                    while taken < new_taken:
                        kept.popleft()
                        taken += 1
                    # If messages are lost, the worker asks for all items that the method has not taken.
                    sent = taken if asks == ASKS_AGAIN else max(sent, taken)
                    # All items have arrived, or the method takes no more.
                    is_done = asks == ASKS_NO_MORE
                if is_done:
                    kept.clear()
                else:
                    size = sum(map(len, kept))
                    while not has_ended and taken + len(kept) < credit and size < self.MAX_UNTAKEN_BYTES:
                        item = next(items, END)
                        has_ended = item is END
                        if not has_ended:
                            kept.append(json.dumps(item, allow_nan=False).encode())
                            size += len(kept[-1])
                    for batch in batches(list(itertools.islice(kept, sent - taken, None))):
                        self.send_items(worker, request_id, sent, batch)
                        sent += len(batch)
                        sent_at = time.monotonic()
                # Until the reply, send the end after each message of the worker, or at least every
                # 5 seconds a message that shows that the caller is there.
                is_end = has_ended and properties and not is_done
                if is_end or time.monotonic() - sent_at >= KEEP_ALIVE:
                    self.send_items(worker, request_id, sent, [], has_ended)
                    sent_at = time.monotonic()
        finally:
            self.cancel(request_id)

    def request(self, method, arguments, request_id, headers):
        self.channel.basic_publish(
            exchange="",
            routing_key=self.queue,
            properties=pika.BasicProperties(
                type=method,
                content_type="application/json",
                correlation_id=str(request_id),
                reply_to=self.replies,
                # The time until the first message of a worker.
                expiration=str(self.TIME_LIMIT * 1000),
                headers=headers,
                delivery_mode=1,
            ),
            body=json.dumps(arguments).encode(),
        )

    def messages(self, request_id, wakes=False):
        """Yields the messages of the worker that answers: its id, the properties and the body.

        If `wakes`, also yields after a second without a message, with `None` as properties and
        body. The id is `None` until a worker has answered.
        """
        run, heard_at, limit = None, time.monotonic(), self.TIME_LIMIT
        for frame, properties, body in self.channel.consume(self.replies, auto_ack=True, inactivity_timeout=1):
            if frame and properties.correlation_id == str(request_id):
                headers = properties.headers = properties.headers or {}
                worker = json.loads(headers.get("rpc-worker", "{}"))
                sender = worker.get("id"), worker.get("run", 0)
                # If the request was delivered twice, two workers may answer, or one worker in two runs. The first run
                # counts. If it has ended without its end, it is silent from now on.
                if run in (None, sender):
                    run, heard_at, limit = sender, time.monotonic(), MAX_SILENCE
                    yield run[0], properties, body
            elif time.monotonic() - heard_at > limit:
                raise TimeoutError(f"no message from the worker within {limit} s")
            elif wakes:
                yield run and run[0], None, None
        raise ConnectionError("the broker cancelled the consumer of the replies")

    def grant(self, worker, request_id, items):
        # If it is lost, the worker's next message without items is answered with another one.
        self.control(worker, "rpc.credit", msgpack.packb([[request_id.bytes, items]]))

    def cancel(self, request_id):
        """Tells the workers that nobody waits for the request. Does nothing if it is `None`."""
        if request_id:
            body = msgpack.packb([[request_id.bytes, self.TIME_LIMIT * 1000]])
            self.control(self.queue, "rpc.cancel", body, expiration="5000")

    def send_items(self, worker, request_id, first, items, is_end=False):
        headers = {"rpc-items": str(first)} if is_end else {}
        body = msgpack.packb([first, items])
        self.control(f"{worker}.items", "rpc.items", body, correlation_id=str(request_id), headers=headers)

    def control(self, key, kind, body, **properties):
        properties = pika.BasicProperties(type=kind, delivery_mode=1, **properties)
        self.channel.basic_publish(CONTROL_EXCHANGE, key, body, properties)

    @staticmethod
    def read(kind, body):
        """Returns the result, or raises the error or the fault."""
        answer = json.loads(body) if body else None
        if kind == "error":
            raise ServiceError(answer)
        if kind == "fault":
            raise Fault(f"{answer['code']}: {answer.get('message', '')}")
        return answer


def call(sensors):
    """Makes the example's calls, and prints what they return."""
    for reading in sensors.stream("readings", sensor="roof", count=3):
        print("reading:", reading)
    # With little credit, the worker waits for its reader.
    print("sum:", sum(reading["celsius"] for reading in sensors.stream("readings", credit=4, sensor="roof", count=100)))
    endless = sensors.stream("readings", credit=4, sensor="roof")
    print("first:", next(endless))
    # Ends the method.
    endless.close()
    try:
        for reading in sensors.stream("readings", sensor="cellar"):
            print("reading:", reading)
    except ServiceError as error:
        print("error:", error)
    numbers = range(1, 5001)
    print("stored:", sensors.upload("store", ({"number": n, "celsius": n / 2} for n in numbers), sensor="roof"))
    try:
        # The method returns after two items.
        sensors.upload("store", ({"number": n, "celsius": 0} for n in itertools.count(1)), sensor="cellar")
    except ServiceError as error:
        print("error:", error)


role, queue = sys.argv[1:]
url = os.environ.get("AMQP_URL", "amqp://localhost")
if role == "worker":
    worker = Worker(url, queue, {"readings": readings})
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: setattr(worker, "is_stopping", True))
    worker.run()
else:
    call(Client(url, queue))
