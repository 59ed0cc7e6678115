"""Calls one method as generated clients do: typed_caller.py json|msgpack METHOD ARGUMENTS_AS_JSON

Prints what the reply is as one line of JSON: its type, its content type and its decoded body, where bytes are shown
as {"bytes": "<hex>"}.
"""

import json
import os
import sys
import uuid

import msgpack
import pika

TIMEOUT = 10
CODECS = {
    "application/json": (lambda value: json.dumps(value).encode(), json.loads),
    # In MessagePack, keys of maps may have any type.
    "application/msgpack": (msgpack.packb, lambda body: msgpack.unpackb(body, strict_map_key=False)),
}

codec, method_name, arguments = sys.argv[1:]
content_type = f"application/{codec}"
encode, _ = CODECS[content_type]

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
callback_queue = channel.queue_declare(queue="", exclusive=True).method.queue
correlation_id = str(uuid.uuid4())
channel.basic_publish(
    exchange="",
    routing_key=os.environ.get("RPC_QUEUE", "rpc_queue"),
    properties=pika.BasicProperties(
        type=method_name,
        content_type=content_type,
        reply_to=callback_queue,
        correlation_id=correlation_id,
    ),
    body=encode(json.loads(arguments)),
)


def shown(value):
    """Returns the value in a form that JSON supports."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    return value


for method, properties, body in channel.consume(callback_queue, auto_ack=True, inactivity_timeout=TIMEOUT):
    if method is None:
        sys.exit(f"no reply to {method_name} within {TIMEOUT} s")
    if properties.correlation_id != correlation_id:
        continue
    # A reply of unknown form is printed as bytes.
    _, decode = CODECS.get(properties.content_type, (None, bytes))
    reply = {
        "type": properties.type,
        "content_type": properties.content_type,
        "body": shown(decode(body)),
    }
    print(json.dumps(reply))
    break
connection.close()
