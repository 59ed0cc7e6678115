"""The base class of generated clients."""

from __future__ import annotations

import copy
import functools
import uuid
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, Unpack

from ..codec import CodecError
from ..codec.method_bodies import encode_arguments
from ..deadline import TimeLimit
from ..describe import Method, Service
from ..errors import EncodeFailed, TooLarge
from ..protocol.jobs import DELAY_HEADER
from .answers import Answers
from .calls import call, call_with_items
from .options import CallOptions, Options, check_queue
from .request import Request
from .result_stream import ResultStream

if TYPE_CHECKING:
    from ..connection import Connection

_R = TypeVar("_R")
_T = TypeVar("_T")

Items: TypeAlias = AsyncIterable[_T] | Iterable[_T]
"""A stream that a caller sends."""


class Client:
    """Calls the methods of a service.

    A generated subclass has a function for each method of the service. It calls the function here
    for methods of its kind, such as `_call` or `_broadcast`.
    """

    _service: ClassVar[Service]

    def __init__(self, connection: Connection, queue: str | None = None) -> None:
        """Makes a client of the workers that serve this queue, by default that of the service.

        Raises `ValueError` if this cannot be the name of a queue.
        """
        self._connection = connection
        self._queue = self._service.queue if queue is None else queue
        self._options = CallOptions(codec=connection.codec)
        check_queue(self._queue)

    @property
    def queue(self) -> str:
        """The request queue."""
        return self._queue

    def with_options(self, **options: Unpack[Options]) -> Self:
        """Returns a client whose calls have these options, and this client's others.

        Raises `EncodeFailed` if an option is invalid. Times are in seconds.

        `timeout`: how long a call waits, or its reader waits for an item; by default the method's
        or else the connection's. `headers`: headers of its requests, in place of all earlier ones.
        `priority`: for queues with priorities. `codec`: how values are written.
        `credit`, `credit_bytes`: how many items of a result stream, and how many bytes of them, may
        be on their way or wait for the reader. `delay`: runs jobs later; other calls fail.
        `expect_workers`, `quiet_for`: a broadcast ends with this many answers, or if none follows
        for this long: see `Answers`.
        `wait_for_server`: calls wait for the queue if it does not exist, and broadcasts for a
        worker.
        """
        changed = copy.copy(self)
        try:
            changed._options = self._options.changed(**options)
        except (TypeError, ValueError) as error:
            raise EncodeFailed(f"an option is invalid: {error}") from None
        return changed

    async def _call(self, method: Method[_R], *arguments: Any) -> _R:
        result: _R = await call(
            self._connection, self._request(method, arguments), self._limit(method)
        )
        return result

    async def _send(self, method: Method[None], *arguments: Any) -> None:
        """Sends a one-way request, which the broker has confirmed when this returns."""
        request = self._request(method, arguments)
        await self._connection.caller.send_oneway(request, self._limit(method))

    def _stream(self, method: Method[_R], *arguments: Any) -> ResultStream[_R]:
        """Makes a stream of results.

        It makes the first request when it is first read. Each time it is resumed, it makes another
        one, with the last item that was read among the arguments.
        """
        return self._result_stream(method, arguments, None)

    async def _call_with_items(self, method: Method[_R], items: Items[Any], *arguments: Any) -> _R:
        result: _R = await call_with_items(
            self._connection, self._request(method, arguments), items, self._limit(method)
        )
        return result

    def _stream_with_items(
        self, method: Method[_R], items: Items[Any], *arguments: Any
    ) -> ResultStream[_R]:
        """Makes a stream of results of a method that receives a stream too.

        It makes its request when it is first read. It is never resumed, because `items` cannot be
        read again.
        """
        return self._result_stream(method, arguments, items)

    def _result_stream(
        self, method: Method[_R], arguments: tuple[Any, ...], items: Items[Any] | None
    ) -> ResultStream[_R]:
        return ResultStream(
            self._connection,
            method,
            arguments,
            functools.partial(self._request, method),
            self._options,
            self._timeout(method),
            items=items,
        )

    def _broadcast(self, method: Method[_R], *arguments: Any) -> Answers[_R]:
        request = self._request(method, arguments)
        return Answers(self._connection, request, self._options, self._timeout(method))

    async def _broadcast_oneway(self, method: Method[None], *arguments: Any) -> None:
        """Sends a one-way broadcast."""
        request = self._request(method, arguments)
        await Answers.send_oneway(self._connection, request, self._limit(method))

    def _timeout(self, method: Method[Any]) -> float:
        return self._options.timeout or method.timeout or self._connection.timeout

    def _limit(self, method: Method[Any]) -> TimeLimit:
        return TimeLimit.of(self._timeout(method))

    def _request(self, method: Method[Any], arguments: tuple[Any, ...]) -> Request:
        """Makes a request with an id of its own. Raises `EncodeFailed` or `TooLarge`."""
        options = self._options
        headers = dict(options.headers)
        if options.delay > 0:
            if not method.is_job:
                raise EncodeFailed("only a job can be delayed")
            headers[DELAY_HEADER] = str(round(options.delay * 1000))
        try:
            body = encode_arguments(method, arguments, options.codec)
        except CodecError as error:
            raise EncodeFailed(str(error)) from None
        limit = self._connection.max_sent_bytes
        if len(body) > limit:
            raise TooLarge(len(body), limit)
        return Request(
            queue=self._queue,
            method=method,
            codec=options.codec,
            body=body,
            correlation_id=str(uuid.uuid4()),
            headers=headers,
            priority=options.priority,
            app_id=self._connection.app_id,
            waits_for_server=options.wait_for_server,
        )
