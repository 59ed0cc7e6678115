"""Calls with direct reply-to: direct_caller.py ID...

As tutorial_caller.py, but without a reply queue: RabbitMQ's pseudo-queue amq.rabbitmq.reply-to brings the replies
to the channel that asked.
"""

import os
import sys
import time
import uuid

import pika

TIMEOUT = 10
REPLY_TO = "amq.rabbitmq.reply-to"


class UserClient:
    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
        self.channel = self.connection.channel()
        # The broker requires this before the first request, on its channel and without acknowledgements.
        self.channel.basic_consume(queue=REPLY_TO, on_message_callback=self.on_response, auto_ack=True)

    def on_response(self, channel, method, properties, body):
        if properties.correlation_id == self.correlation_id:
            self.response = body

    def call(self, user_id):
        self.response = None
        self.correlation_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key=os.environ.get("RPC_QUEUE", "rpc_queue"),
            properties=pika.BasicProperties(reply_to=REPLY_TO, correlation_id=self.correlation_id),
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
