"""Calls with one reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from ..deadline import TimeLimit
from ..errors import RpcError
from ..protocol.item_sender import ItemSender
from ..protocol.names import INCOMING_HEADER
from ..protocol.request_id import uuid_of
from ..protocol.volume import Volume
from ..tasks import cancel_and_wait
from .inbox import ReplyInbox
from .reply_reader import ReplyReader
from .request import Request
from .stream_inbox import StreamInbox
from .stream_wait import wait_for_end
from .upload import Upload

if TYPE_CHECKING:
    from ..connection import Connection


async def call(connection: Connection, request: Request, limit: TimeLimit) -> Any:
    """Sends a request, waits for its reply, and returns or raises what that holds."""
    caller = connection.caller
    inbox = ReplyInbox()
    with caller.registered(request.correlation_id, inbox):
        try:
            await caller.send(request, inbox, limit)
        except (RpcError, asyncio.CancelledError):
            cancel_call(connection, request, limit.left)
            raise
    reader = ReplyReader(request.method, request.codec, connection.max_accepted_bytes)
    if inbox.reply is None:
        raise RuntimeError("a call ended without a reply")
    return reader.result(inbox.reply, request.times_sent)


async def call_with_items(
    connection: Connection,
    request: Request,
    items: AsyncIterable[Any] | Iterable[Any],
    limit: TimeLimit,
) -> Any:
    """Makes a call that sends a stream while its method runs, and whose result is a value."""
    caller = connection.caller
    request.headers[INCOMING_HEADER] = "1"
    inbox = StreamInbox(caller, request.correlation_id, Volume(), ItemSender())
    reader = ReplyReader(request.method, request.codec, connection.max_accepted_bytes)
    upload = Upload(connection, request, items, inbox)
    task: asyncio.Task[None] | None = None
    try:
        with caller.registered(request.correlation_id, inbox):
            try:
                await caller.send(request, inbox, limit)
                # A worker that refuses the request sends nothing but its reply.
                if inbox.receiver.ended is None:
                    task = asyncio.get_running_loop().create_task(upload.run(), name="rpc upload")
                reply = await wait_for_end(caller, inbox, limit.seconds, upload)
            except (RpcError, asyncio.CancelledError):
                cancel_call(connection, request, limit.left)
                raise
    finally:
        await cancel_and_wait(task)
        await upload.close()
    return reader.result(reply, request.times_sent)


def cancel_call(connection: Connection, request: Request, time_left: float) -> None:
    """Tells the workers that nobody waits for a call, if its request was sent.

    The request can still wait in its queue for `time_left` seconds.
    """
    identity = uuid_of(request.correlation_id)
    if request.times_sent > 0 and identity is not None:
        connection.caller.control.cancel(request.queue, identity, time_left)
