"""The bodies of a method's messages: arguments, results, errors and items."""

from __future__ import annotations

from typing import Any

from ..describe import Argument, Method
from ..types import UNSET, ConversionError
from ..types.conversion import Converter
from . import plain_text
from .bodies import CodecError, decode, encode, form_of
from .content_type import Codec


def encode_arguments(method: Method[Any], values: tuple[Any, ...], codec: Codec) -> bytes:
    """Writes the arguments of a call. Raises `CodecError` if that is not possible."""
    if len(values) != len(method.arguments):
        raise CodecError(f"{method.name} has {len(method.arguments)} arguments, not {len(values)}")
    types = method.types_in(form_of(codec))
    plain: dict[str, Any] = {}
    for argument, converter, value in zip(method.arguments, types.arguments, values, strict=True):
        if value is UNSET:
            continue
        plain[argument.name] = _convert(converter.encode, value, argument.name)
    if codec is not Codec.TEXT:
        return encode(codec, plain)
    if len(method.arguments) > 1:
        raise CodecError("plain text holds one argument only")
    # Empty if there is no argument, or if it is `UNSET`.
    return b"".join(plain_text.encode(value) for value in plain.values())


def decode_arguments(method: Method[Any], body: bytes, codec: Codec) -> tuple[Any, ...]:
    """Reads the arguments of a request: a map, an array in their order, or plain text.

    Arguments that the method does not have are skipped. Raises `CodecError` if one is missing or
    does not have its type.
    """
    types = method.types_in(form_of(codec))
    if codec is Codec.TEXT:
        return _arguments_of_text(method, types.arguments, body)
    plain = decode(codec, body) if body else {}
    if isinstance(plain, list):
        # Positional. Values beyond the last argument are skipped.
        plain = {
            argument.name: value for argument, value in zip(method.arguments, plain, strict=False)
        }
    if not isinstance(plain, dict):
        raise CodecError("the arguments must be a map or an array")
    return tuple(
        _argument(argument, converter, plain)
        for argument, converter in zip(method.arguments, types.arguments, strict=True)
    )


def _argument(argument: Argument, converter: Converter, plain: dict[Any, Any]) -> Any:
    """Reads an argument by its name or an alias. If there is none, takes its `value_if_missing`."""
    for name in (argument.name, *argument.aliases):
        if name in plain:
            return _convert(converter.decode, plain[name], argument.name)
    try:
        return argument.value_if_missing
    except LookupError:
        raise CodecError(f'the argument "{argument.name}" is missing') from None


def _arguments_of_text(
    method: Method[Any], converters: tuple[Converter, ...], body: bytes
) -> tuple[Any, ...]:
    """Reads the only argument from plain text. A method without arguments ignores the text."""
    if not converters:
        return ()
    if len(converters) > 1:
        raise CodecError("plain text holds one argument only, and the method has more")
    if not method.arguments[0].is_scalar:
        raise CodecError("plain text holds no structured argument: use JSON or MessagePack")
    return (_of_text(converters[0], body),)


def encode_value(converter: Converter, value: Any, codec: Codec) -> bytes:
    """Writes a result, an error or an item. Raises `CodecError`."""
    plain = _convert(converter.encode, value, "")
    return plain_text.encode(plain) if codec is Codec.TEXT else encode(codec, plain)


def decode_value(converter: Converter, body: bytes, codec: Codec) -> Any:
    """Reads a result, an error or an item. Raises `CodecError`.

    In MessagePack and JSON, an empty body stands for `None`.
    """
    if codec is Codec.TEXT:
        return _of_text(converter, body)
    plain = decode(codec, body) if body else None
    return _convert(converter.decode, plain, "")


def _of_text(converter: Converter, body: bytes) -> Any:
    """Reads plain text as the first of its candidates that the converter accepts."""
    for plain in plain_text.candidates(body):
        try:
            return converter.decode(plain)
        except ConversionError:
            continue
    raise plain_text.wrong_type()


def _convert(convert: Any, value: Any, place: str) -> Any:
    """Calls a function of a converter, and raises `CodecError` instead of `ConversionError`.

    The text of the error begins with `place`, an argument's name, unless that is empty.
    """
    try:
        return convert(value)
    except ConversionError as error:
        raise CodecError(str(error.within(place) if place else error)) from None
