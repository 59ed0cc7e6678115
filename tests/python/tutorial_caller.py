"""Calls as RabbitMQ's RPC tutorial does: tutorial_caller.py ID...

Sends each raw user id to the queue RPC_QUEUE with nothing but reply_to and correlation_id, and prints each raw
reply. Meets a Rust server as a client that has never heard of it.
"""

import os
import sys
import time
import uuid

import pika

TIMEOUT = 10


class UserClient:
    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        self.channel = self.connection.channel()
        self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
        self.channel.basic_consume(
            queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True
        )

    def on_response(self, channel, method, properties, body):
        if properties.correlation_id == self.correlation_id:
            self.response = body

    def call(self, user_id):
        self.response = None
        self.correlation_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key=os.environ.get("RPC_QUEUE", "rpc_queue"),
            properties=pika.BasicProperties(
                reply_to=self.callback_queue, correlation_id=self.correlation_id
            ),
            body=user_id.encode(),
        )
        deadline = time.monotonic() + TIMEOUT
        while self.response is None:
            if time.monotonic() >= deadline:
                sys.exit(f"no reply to {user_id} within {TIMEOUT} s")
            self.connection.process_data_events(time_limit=1)
        return self.response


client = UserClient()
for user_id in sys.argv[1:]:
    print(client.call(user_id).decode())
client.connection.close()
