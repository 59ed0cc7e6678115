"""Reads replies: returns the value, or raises the error that they hold."""

from __future__ import annotations

from typing import Any

from ..codec import Codec, CodecError, UnsupportedContent, codec_of, decode, form_of
from ..codec.method_bodies import decode_value
from ..describe import Method
from ..errors import BadReply, MethodErrorText, RpcError, received_fault
from ..executed import Executed
from ..protocol.fault_code import INTERRUPTED
from ..protocol.message import header_number
from ..protocol.names import RETRY_AFTER_HEADER
from ..protocol.reply import ReplyKind, kind_of, read_fault
from ..transport.delivery import Delivery


class ReplyReader:
    """Reads the replies to calls of one method."""

    def __init__(self, method: Method[Any], codec: Codec, max_bytes: int) -> None:
        self._method = method
        # The codec of messages that name none.
        self._codec = codec
        self._max_bytes = max_bytes

    def codec_of(self, delivery: Delivery) -> Codec:
        """Returns the codec of a reply. Raises `BadReply` if it is malformed or too large."""
        if delivery.malformed is not None:
            raise BadReply(delivery.malformed, Executed.MAYBE)
        self._check_size("it", delivery.message.body)
        return self.codec_of_items(delivery)

    def codec_of_items(self, delivery: Delivery) -> Codec:
        """Returns the codec of a message with items. `item` checks the size of each of them.

        Raises `BadReply` if the codec is not supported.
        """
        message = delivery.message
        try:
            return codec_of(message.content_type, message.content_encoding) or self._codec
        except UnsupportedContent as error:
            raise BadReply(str(error), Executed.MAYBE) from None

    def _check_size(self, what: str, body: bytes) -> None:
        """Raises `BadReply` if a reply or an item is too large."""
        if len(body) > self._max_bytes:
            reason = f"{what} has {len(body)} bytes, and at most {self._max_bytes} are accepted"
            raise BadReply(reason, Executed.MAYBE)

    def result(self, delivery: Delivery, times_sent: int = 1) -> Any:
        """Returns the method's result. Raises its error, a fault or `BadReply`."""
        codec = self.codec_of(delivery)
        self.raise_failure(delivery, codec, times_sent)
        types = self._method.types_in(form_of(codec))
        try:
            return decode_value(types.returns, delivery.message.body, codec)
        except CodecError as error:
            raise BadReply(str(error), Executed.YES) from None

    def all_items(self, delivery: Delivery) -> list[Any]:
        """Returns the items of a reply from a worker that knows no streams.

        They are in an array or, in plain text, one in each line. Raises like `result`.
        """
        codec = self.codec_of(delivery)
        self.raise_failure(delivery, codec)
        body = delivery.message.body
        returns = self._method.types_in(form_of(codec)).returns
        try:
            if codec is Codec.TEXT:
                # Not `splitlines`: a text may contain `\r`. An empty body has no items.
                lines = body.split(b"\n") if body else []
                return [decode_value(returns, line, codec) for line in lines]
            # Each item has the type of the method's results.
            return [returns.decode(item) for item in _array(codec, body)]
        except ValueError as error:
            raise BadReply(str(error), Executed.YES) from None

    def item(self, body: bytes, codec: Codec) -> Any:
        """Reads an item of a stream. Raises `BadReply`."""
        self._check_size("an item", body)
        try:
            return decode_value(self._method.types_in(form_of(codec)).returns, body, codec)
        except CodecError as error:
            raise BadReply(f"an item of the stream: {error}", Executed.MAYBE) from None

    def raise_failure(self, delivery: Delivery, codec: Codec, times_sent: int = 1) -> None:
        """Raises the error or the fault that a reply holds, or `BadReply` if that is unreadable.

        Does nothing if the reply holds a result.
        """
        message = delivery.message
        kind = kind_of(message.type)
        if kind is ReplyKind.FAULT:
            raise self._fault(delivery, codec, times_sent)
        if kind is ReplyKind.ERROR:
            raise self._method_error(message.body, codec)

    def _fault(self, delivery: Delivery, codec: Codec, times_sent: int) -> RpcError:
        """Returns the fault that a reply holds, or `BadReply`.

        If the request was sent several times, a refusal becomes `interrupted`.
        """
        message = delivery.message
        try:
            code, text = read_fault(codec, message.body)
        except CodecError as error:
            return BadReply(f"a fault: {error}", Executed.MAYBE)
        millis = header_number(message.headers, RETRY_AFTER_HEADER, -1)
        retry_after = millis / 1000 if 0 <= millis < 1 << 32 else None
        fault = received_fault(code, text, retry_after)
        if times_sent > 1 and fault.executed is Executed.NO:
            # Only one of the requests was refused. Another one may run.
            reason = f"the request was sent {times_sent} times, and one was refused: {fault}"
            return received_fault(INTERRUPTED, reason, retry_after)
        return fault

    def _method_error(self, body: bytes, codec: Codec) -> RpcError:
        """Returns the method's error, or `BadReply`. In plain text, only its text is known."""
        if codec is Codec.TEXT:
            return MethodErrorText(body.decode(errors="replace"))
        converter = self._method.types_in(form_of(codec)).error
        if converter is None:
            reason = "it is an error, and the method has none: the versions of the service differ"
            return BadReply(reason, Executed.YES)
        try:
            error = decode_value(converter, body, codec)
        except CodecError as unreadable:
            return BadReply(f"the method's error: {unreadable}", Executed.YES)
        if not isinstance(error, RpcError):
            return BadReply("the method's type of error is no exception", Executed.YES)
        return error


def _array(codec: Codec, body: bytes) -> list[Any]:
    value = decode(codec, body) if body else []
    if not isinstance(value, list):
        raise CodecError("expected an array of items")
    return value
