"""Calls the function of a method, and makes a reply of the value or the items that it returns."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..codec import form_of
from ..protocol.reply import Reply
from ..protocol.request_rules import Run
from .executor import result_reply
from .incoming import IncomingInbox, IncomingItems
from .served import ServedMethod
from .stream_sender import StreamSender, collect

Invoke = Callable[[tuple[Any, ...]], Awaitable[Reply]]


def invocation_of(
    served: ServedMethod,
    run: Run,
    sender: StreamSender | None,
    inbox: IncomingInbox | None,
    max_reply_bytes: int,
) -> Invoke:
    """Returns a function that calls a method, sends its items, and makes its reply.

    `sender` is `None` unless the request grants credit or sends items, and `inbox` unless it sends
    items.
    """
    method, codec = run.method, run.codec

    async def invoke(arguments: tuple[Any, ...]) -> Reply:
        items = _items_of_caller(run, inbox)
        if items is not None:
            arguments = (*arguments, items)
        returned = served.function(*arguments)
        if not method.is_stream:
            value = await returned if inspect.isawaitable(returned) else returned
            # A one-way method that is called with a `reply_to` answers with the empty value.
            return result_reply(method, codec, None if method.is_oneway else value)
        stream: AsyncIterator[Any] = aiter(returned)
        grants_credit = run.stream is not None and run.stream.credit is not None
        # Without credit, `sender` may be there for the items that the caller sends.
        if sender is not None and grants_credit:
            return await sender.send_items(method, stream)
        return await collect(method, codec, stream, max_reply_bytes)

    return invoke


def _items_of_caller(run: Run, inbox: IncomingInbox | None) -> IncomingItems | None:
    converter = run.method.types_in(form_of(run.codec)).incoming
    if inbox is None or converter is None:
        return None
    return IncomingItems(inbox, converter, run.codec)
