"""Typed RPC over RabbitMQ: the runtime of clients and workers that `rpc generate python` writes."""

from .client.answers import Answer, Answers, WorkerInfo
from .client.client import Client, Items
from .client.result_stream import ResultStream
from .codec import Codec
from .connection import Connection, connect
from .describe import Argument, Method, Retry, Service
from .errors import (
    BadItem,
    BadReply,
    BrokerFailed,
    EncodeFailed,
    Fault,
    IncomingError,
    MethodError,
    MethodErrorText,
    NoServer,
    NoWorkers,
    Refused,
    RpcError,
    TimedOut,
    TooLarge,
    TooManyCalls,
)
from .executed import Executed
from .protocol.reply_address import ReplyAddresses
from .types import (
    F32,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    UNSET,
    Char,
    Unset,
    record,
    transparent,
    variant,
    wire,
)
from .version import __version__
from .worker.context import Context, context
from .worker.request_queue import RequestQueue
from .worker.server import Server, serve
from .worker.worker import Worker

__all__ = [
    "F32",
    "I8",
    "I16",
    "I32",
    "I64",
    "I128",
    "U8",
    "U16",
    "U32",
    "U64",
    "U128",
    "UNSET",
    "Answer",
    "Answers",
    "Argument",
    "BadItem",
    "BadReply",
    "BrokerFailed",
    "Char",
    "Client",
    "Codec",
    "Connection",
    "Context",
    "EncodeFailed",
    "Executed",
    "Fault",
    "IncomingError",
    "Items",
    "Method",
    "MethodError",
    "MethodErrorText",
    "NoServer",
    "NoWorkers",
    "Refused",
    "ReplyAddresses",
    "RequestQueue",
    "ResultStream",
    "Retry",
    "RpcError",
    "Server",
    "Service",
    "TimedOut",
    "TooLarge",
    "TooManyCalls",
    "Unset",
    "Worker",
    "WorkerInfo",
    "__version__",
    "connect",
    "context",
    "record",
    "serve",
    "transparent",
    "variant",
    "wire",
]
