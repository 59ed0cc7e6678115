"""Turns type hints into converters."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

from . import containers, scalars, structs, unions
from .conversion import ConversionError, Converter, Form
from .declarations import Variant, is_transparent, variant_of
from .hints import members_of
from .markers import IntegerRange, SingleCharacter, SinglePrecision, Unset

_TOO_DEEP = "the value is nested too deeply"


def converter_of(hint: Any, form: Form) -> Converter:
    """Makes the converter of a type. That takes a while, so keep it.

    Raises `TypeError` if the type cannot be converted.
    """
    return _guarded(_Compiler(form).compile(hint))


def _guarded(converter: Converter) -> Converter:
    """Returns a converter that raises `ConversionError` in place of `RecursionError`."""

    def with_guard(convert: Any) -> Any:
        def guarded(value: Any) -> Any:
            try:
                return convert(value)
            except RecursionError:
                raise ConversionError(_TOO_DEEP) from None

        return guarded

    return Converter(with_guard(converter.encode), with_guard(converter.decode))


class _Compiler:
    """Makes the converters of one type and of those in it."""

    def __init__(self, form: Form) -> None:
        self._form = form
        # Types that contain themselves find their converter here. The key of a union is the tuple
        # of its members, because their order matters.
        self._known: dict[Any, Converter] = {}

    def compile(self, hint: Any) -> Converter:
        origin = get_origin(hint)
        if origin is Annotated:
            return self._annotated(hint)
        if members := members_of(hint):
            return self._once(members, lambda: self._union(members))
        if origin is None:
            return self._plain(hint)
        arguments = get_args(hint)
        if origin is list:
            return containers.sequence(self.compile(arguments[0]))
        if origin in (set, frozenset):
            return containers.sequence(self.compile(arguments[0]), origin)
        if origin is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return containers.sequence(self.compile(arguments[0]), tuple)
            return containers.fixed([self.compile(argument) for argument in arguments])
        if origin is dict:
            return self._map(*arguments)
        raise _unsupported(hint)

    def _annotated(self, hint: Any) -> Converter:
        kind, *marks = get_args(hint)
        for mark in marks:
            if isinstance(mark, IntegerRange):
                return scalars.integer(self._form, mark)
            if isinstance(mark, SinglePrecision):
                return scalars.floating(self._form, is_single=True)
            if isinstance(mark, SingleCharacter):
                return scalars.character()
        return self.compile(kind)

    def _plain(self, hint: Any) -> Converter:
        if hint is Any or hint is object:
            return scalars.anything()
        if hint is None or hint is type(None):
            return scalars.unit()
        if hint is bool:
            return scalars.boolean()
        if hint is str:
            return scalars.text()
        if hint is int:
            return scalars.integer(self._form, None)
        if hint is float:
            return scalars.floating(self._form, is_single=False)
        if hint is bytes:
            return scalars.binary(self._form)
        if isinstance(hint, type):
            return self._once(hint, lambda: self._class(hint))
        raise _unsupported(hint)

    def _once(self, key: Any, compile_it: Callable[[], Converter]) -> Converter:
        """Compiles a type that may contain itself, unless that was done or has begun."""
        known = self._known.get(key)
        if known is not None:
            return known
        # Found if the type contains itself. It looks the compiled converter up when it is used.
        self._known[key] = Converter(
            lambda value: self._known[key].encode(value),  # noqa: PLW0108
            lambda value: self._known[key].decode(value),  # noqa: PLW0108
        )
        compiled = compile_it()
        self._known[key] = compiled
        return compiled

    def _class(self, cls: type) -> Converter:
        if issubclass(cls, enum.Enum):
            return scalars.unit_enum(cls)
        if variants := _variants_of([cls]):
            return self._tagged(variants)
        if hasattr(cls, "__dataclass_fields__"):
            return self._content(cls, is_single=is_transparent(cls))
        if variants := _variants_of(cls.__subclasses__()):
            # The base class of the variants of an error.
            return self._tagged(variants)
        raise _unsupported(cls)

    def _content(self, cls: type, is_single: bool) -> Converter:
        """Compiles the fields of a class. If it `is_single`, its only field stands for it."""
        fields = structs.fields_of(cls, self._resolve)
        return structs.only_field(cls, fields[0]) if is_single else structs.struct(cls, fields)

    def _resolve(self, hint: Any) -> tuple[Converter, bool]:
        """Compiles the type of a field. Also returns whether a missing field may be `None`."""
        has_none = hint is Any or type(None) in members_of(hint)
        return self.compile(hint), has_none

    def _union(self, members: tuple[Any, ...]) -> Converter:
        # `UNSET` is never converted: what holds it leaves it out.
        kinds = [kind for kind in members if kind is not type(None) and kind is not Unset]
        if not kinds:
            return scalars.unit()
        variants = _variants_of(kinds)
        if len(kinds) == 1:
            converter = self.compile(kinds[0])
        elif len(variants) == len(kinds) and _are_like_one_enum(variants):
            converter = self._tagged(variants)
        else:
            converter = unions.untagged([self.compile(kind) for kind in kinds])
        return containers.optional(converter) if type(None) in members else converter

    def _tagged(self, variants: list[tuple[type, Variant]]) -> Converter:
        cases = []
        for cls, variant in variants:
            content = self._content(cls, is_single=variant.shape == "newtype")
            cases.append(unions.Case(cls, variant, content))
        return unions.tagged(cases)

    def _map(self, key: Any, value: Any) -> Converter:
        kind = get_args(key)[0] if get_origin(key) is Annotated else key
        is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
        if kind not in (str, int, bool) and not is_enum:
            raise TypeError(f"a map cannot have keys of the type {key!r}")
        converter = containers.key_in(self._form, kind, self.compile(key))
        return containers.mapping(converter, self.compile(value))


def _variants_of(kinds: list[Any]) -> list[tuple[type, Variant]]:
    """Returns those of the types that are variants."""
    return [(kind, variant) for kind in kinds if (variant := variant_of(kind)) is not None]


def _are_like_one_enum(variants: list[tuple[type, Variant]]) -> bool:
    """Whether the name of a variant decides which one a value is.

    Python flattens a union of enums, so the variants may be of several enums. If two have the same
    name, or their tags differ, each must be tried, like the types of any other union.
    """
    taggings = {(variant.tag, variant.content) for _, variant in variants}
    names = {variant.name for _, variant in variants}
    return len(taggings) == 1 and len(names) == len(variants)


def _unsupported(hint: Any) -> TypeError:
    return TypeError(f"values of the type {hint!r} cannot be converted")
