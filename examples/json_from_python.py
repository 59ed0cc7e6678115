"""Calls a worker written in Rust, in JSON. json_from_python.rs serves, and runs this script.

A request names its method in the property `type` and has its arguments, by name, in the body. The `type` of the reply is
`result`, `error` (the method's own) or `fault` (from the worker's runtime, for example for an unknown method).
"""

import json
import os
import uuid

import pika

# How many seconds a call waits for its reply.
TIME_LIMIT = 10


class ServiceError(Exception):
    """The method's own error, as the service's trait declares it."""


class Fault(Exception):
    """The worker's runtime answers in place of the method. The code says whether the method ran."""


class Client:
    """Calls the methods of one queue, one at a time."""

    def __init__(self, url, queue):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.queue = queue
        # Only this connection may use the queue, and it is deleted with the connection.
        self.replies = self.channel.queue_declare(queue="", exclusive=True).method.queue

    def call(self, method, **arguments):
        """Calls a method, and returns its result or raises its error."""
        request_id = str(uuid.uuid4())
        # The broker drops the request if it is still in the queue after this time.
        self.send(method, arguments, request_id, str(TIME_LIMIT * 1000))
        # The first call starts a consumer, and later ones go on with it.
        replies = self.channel.consume(self.replies, auto_ack=True, inactivity_timeout=TIME_LIMIT)
        for method_frame, properties, body in replies:
            if method_frame is None:
                raise TimeoutError(f"no reply to {method} within {TIME_LIMIT} s")
            # Skip a late reply to an earlier request.
            if properties.correlation_id == request_id:
                return self.read(properties.type, json.loads(body))

    def tell(self, method, **arguments):
        """Sends a one-way request, which has no reply. Once queued, it survives a restart."""
        self.send(method, arguments, None, None)

    def send(self, method, arguments, request_id, expiration):
        """Publishes a request, one-way if it has no id. `expiration` is in milliseconds."""
        self.channel.basic_publish(
            exchange="",
            routing_key=self.queue,
            properties=pika.BasicProperties(
                type=method,
                content_type="application/json",
                correlation_id=request_id,
                reply_to=self.replies if request_id else None,
                expiration=expiration,
                delivery_mode=1 if request_id else 2,
            ),
            body=json.dumps(arguments).encode(),
        )

    @staticmethod
    def read(kind, answer):
        """Returns the result, or raises the error or the fault."""
        if kind == "error":
            raise ServiceError(answer)
        if kind == "fault":
            raise Fault(f"{answer['code']}: {answer['message']}")
        return answer


library = Client(os.environ.get("AMQP_URL", "amqp://localhost"), "example.library")
print("books:", library.call("add", isbn="0-306-40615-2", book={"title": "Frankenstein", "year": 1818}))
print("books:", library.call("add", isbn="0-19-852663-6", book={"title": "A book without a year"}))
print("found:", library.call("find", isbn="0-306-40615-2"))
print("found:", library.call("find", isbn="0-19-852663-6"))
try:
    library.call("find", isbn="42")
except ServiceError as error:
    print("error:", error)
library.tell("close")
try:
    library.call("add", isbn="42", book={"title": "Too late", "year": 2000})
except ServiceError as error:
    print("error:", error)
try:
    library.call("burn", isbn="42")
except Fault as fault:
    print("fault:", fault)
