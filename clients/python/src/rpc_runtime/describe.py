"""What a service is: its methods, their arguments, types and options."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from .types import Form, Unset, converter_of
from .types.conversion import Converter
from .types.hints import members_of

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a method: its name on the wire, its type, and other names that are read."""

    name: str
    type: Any
    aliases: tuple[str, ...] = ()

    @property
    def is_scalar(self) -> bool:
        """Whether a worker reads the argument from plain text.

        That is a number, a boolean, text, bytes, `None`, an enum of names, or a value of any type.
        """
        members = members_of(self.type)
        values = [member for member in members if member is not Unset]
        # `U8 | Unset` is a scalar with a default. Any other union is structured.
        hint = values[0] if Unset in members and len(values) == 1 else self.type
        # `U8` is `Annotated[int, ...]`.
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        is_enum = isinstance(kind, type) and issubclass(kind, enum.Enum)
        return is_enum or kind in (Any, None, bool, bytes, float, int, str)

    @property
    def value_if_missing(self) -> Any:
        """The value that a worker passes to the method if a request leaves the argument out.

        `UNSET` if its type has that, otherwise `None` if its type has that or is `Any`. Raises
        `LookupError` if the argument must not be missing.
        """
        members = members_of(self.type)
        if Unset in members:
            return Unset.UNSET
        if type(None) in members or self.type is Any:
            return None
        raise LookupError(self.name)


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed job is retried. Delays are in seconds.

    They grow by the same factor each time, from `min_delay` to `max_delay`. A single retry comes
    after `min_delay`, and so do all retries if that is 0. Each wait is up to a fifth shorter or
    longer than its delay, and then rounded up to a tenth of a second and to two digits.
    """

    times: int
    min_delay: float
    max_delay: float


class Method(Generic[R]):
    """A method of a service. `R` is what it returns, or the type of its stream's items."""

    def __init__(
        self,
        name: str,
        arguments: tuple[Argument, ...] = (),
        *,
        returns: Any,
        error: Any = None,
        incoming: Any = None,
        function: str | None = None,
        default: bool = False,
        idempotent: bool = False,
        oneway: bool = False,
        broadcast: bool = False,
        stream: bool = False,
        cancel: bool = False,
        resume: str | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
    ) -> None:
        """Describes a method.

        `name` is its name on the wire, and `function` that of the function if it differs. `error`
        is an exception class: a record, or the base class of variants. `incoming` is the type of
        the items that the method receives. A `default` method runs if a request names none.
        `cancel`, `idempotent`, `stream` and `incoming` each let callers cancel it. `resume` names
        the argument that gets the last item when an interrupted stream is resumed. `timeout` is in
        seconds.
        """
        self.name = name
        self.arguments = arguments
        self.returns = returns
        self.error = error
        self.incoming = incoming
        self.function = function or name
        self.is_default = default
        self.is_idempotent = idempotent
        self.is_oneway = oneway
        self.is_broadcast = broadcast
        self.is_stream = stream
        self.is_cancellable = cancel or idempotent or stream or incoming is not None
        self.resume = resume
        self.retry = retry
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"Method({self.name!r})"

    @property
    def is_job(self) -> bool:
        """Whether the requests are jobs: one that fails is retried, or kept as a dead letter."""
        return self.is_oneway and self.is_idempotent and not self.is_broadcast

    @property
    def has_stream(self) -> bool:
        """Whether items go in either direction."""
        return self.is_stream or self.incoming is not None

    def types_in(self, form: Form) -> MethodTypes:
        """Returns the converters of the method's types, which the first use in a form makes."""
        return self._message_pack if form is Form.MESSAGE_PACK else self._json

    @cached_property
    def _message_pack(self) -> MethodTypes:
        return MethodTypes.of(self, Form.MESSAGE_PACK)

    @cached_property
    def _json(self) -> MethodTypes:
        return MethodTypes.of(self, Form.JSON)


@dataclass(frozen=True, slots=True)
class MethodTypes:
    """The converters of a method's types in one form."""

    arguments: tuple[Converter, ...]
    returns: Converter
    error: Converter | None
    incoming: Converter | None

    @staticmethod
    def of(method: Method[Any], form: Form) -> MethodTypes:
        """Makes the converters. Raises `TypeError` if a type cannot be converted."""

        def optional(hint: Any) -> Converter | None:
            return None if hint is None else converter_of(hint, form)

        return MethodTypes(
            tuple(converter_of(argument.type, form) for argument in method.arguments),
            converter_of(method.returns, form),
            optional(method.error),
            optional(method.incoming),
        )


class Service:
    """A service: its name, its default queue, its methods, and its description for `rpc.describe`.

    `description` is the JSON text of the service's description.
    """

    def __init__(
        self, name: str, *, queue: str, methods: tuple[Method[Any], ...], description: str = "{}"
    ) -> None:
        self.name = name
        self.queue = queue
        self.methods = methods
        self._description = description

    def __repr__(self) -> str:
        return f"Service({self.name!r})"

    @cached_property
    def description(self) -> dict[str, Any]:
        """The description as a plain value. The service's name is added if the text has none."""
        description = json.loads(self._description)
        if not isinstance(description, dict):
            raise TypeError(f"the description of {self.name} is not a JSON object")
        return {"name": self.name, **description}
