"""Serves as RabbitMQ's RPC tutorial does: tutorial_worker.py

Answers raw user ids from the queue RPC_QUEUE with e-mail addresses, with nothing but correlation_id in the reply.
Prints "ready" once it consumes; ends at SIGTERM or SIGINT.
"""

import os
import signal
import sys

import pika

USERS = {
    b"user:12345": b"alice@example.com",
    b"user:67890": b"bob@example.com",
}


def on_request(channel, method, properties, body):
    email = USERS.get(body, b"no user ID")
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=email,
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)


# Exit normally instead of dying by the signal.
for ending in (signal.SIGTERM, signal.SIGINT):
    signal.signal(ending, lambda *_: sys.exit(0))

connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
channel = connection.channel()
queue = os.environ.get("RPC_QUEUE", "rpc_queue")
channel.queue_declare(queue=queue, durable=False)
channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue=queue, on_message_callback=on_request)
print("ready", flush=True)
channel.start_consuming()
