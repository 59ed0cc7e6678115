"""The service `Sample`: what `rpc generate python` writes, with every kind of method and type."""

from __future__ import annotations

import abc
import enum
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeAlias

import rpc_runtime
from rpc_runtime import (
    F32,
    I64,
    U8,
    U16,
    U32,
    U64,
    U128,
    UNSET,
    Argument,
    Method,
    Retry,
    Unset,
    wire,
)

# Types.


class Color(enum.StrEnum):
    """An enum whose variants have no content: a value is the name of its variant."""

    RED = "Red"
    DARK_GREEN = "dark-green"


@rpc_runtime.record
class Account:
    """A struct."""

    id: U64
    user_name: Annotated[str, wire("userName")]
    email: str | None = None
    tags: list[str] | Unset = UNSET
    balance: U128
    favourite: Color
    ages: dict[str, U8]
    by_color: dict[Color, F32]
    by_number: dict[I64, bool]
    position: tuple[float, float] | None = None
    extra: Any = None


@rpc_runtime.record
class Tree:
    """A struct that contains itself."""

    name: str
    children: list[Tree]


@rpc_runtime.variant("Circle")
class ShapeCircle:
    """A variant with fields: `{"Circle": {"radius": 1.0}}`."""

    radius: float


@rpc_runtime.variant("Square", shape="newtype")
class ShapeSquare:
    """A variant with one value: `{"Square": 1.0}`."""

    value: float


@rpc_runtime.variant("Line", shape="newtype")
class ShapeLine:
    """A variant with several values: `{"Line": [0, 1]}`."""

    value: tuple[I64, I64]


@rpc_runtime.variant("Point")
class ShapePoint:
    """A variant without content: `"Point"`."""


# An externally tagged enum.
Shape: TypeAlias = ShapeCircle | ShapeSquare | ShapeLine | ShapePoint


@rpc_runtime.variant("created", tag="type")
class EventCreated:
    """`{"type": "created", "account": ...}`."""

    account: Account


@rpc_runtime.variant("deleted", tag="type")
class EventDeleted:
    """`{"type": "deleted", "id": 1}`."""

    id: U64


@rpc_runtime.variant("ping", tag="type")
class EventPing:
    """`{"type": "ping"}`."""


# An internally tagged enum.
Event: TypeAlias = EventCreated | EventDeleted | EventPing


@rpc_runtime.variant("walk", tag="t", content="c")
class StepWalk:
    """`{"t": "walk", "c": {"meters": 1}}`."""

    meters: U32


@rpc_runtime.variant("turn", tag="t", content="c", shape="newtype")
class StepTurn:
    """`{"t": "turn", "c": 90}`."""

    value: U16


@rpc_runtime.variant("stay", tag="t", content="c")
class StepStay:
    """`{"t": "stay"}`."""


# An adjacently tagged enum.
Step: TypeAlias = StepWalk | StepTurn | StepStay


@rpc_runtime.record
class KeyById:
    """A variant of `Key`."""

    id: U64


@rpc_runtime.record
class KeyByName:
    """A variant of `Key`."""

    name: str


# An untagged enum: the first variant that fits.
Key: TypeAlias = KeyById | KeyByName | str


# Errors.


class QueryError(rpc_runtime.MethodError):
    """An enum that is only used as an error: each variant is an exception."""


@rpc_runtime.variant("UnknownUser")
class QueryErrorUnknownUser(QueryError):
    """`{"UnknownUser": {"id": "user:1"}}`."""

    id: str


@rpc_runtime.variant("NoRoute")
class QueryErrorNoRoute(QueryError):
    """`"NoRoute"`."""


@rpc_runtime.variant("TooMany", shape="newtype")
class QueryErrorTooMany(QueryError):
    """`{"TooMany": 3}`."""

    value: U32


@rpc_runtime.record
class StoreError(rpc_runtime.MethodError):
    """A struct that is only used as an error."""

    part: U32
    reason: str


@rpc_runtime.transparent
class ParseNumberFailed(rpc_runtime.MethodError):
    """The error of `parse_number`, whose type is no exception."""

    error: str


# Methods.

_GET_EMAIL: Method[str] = Method(
    "get_email",
    (Argument("id", str),),
    returns=str,
    error=QueryError,
    idempotent=True,
    default=True,
)
_FIND: Method[list[Account]] = Method(
    "find",
    (
        Argument("key", Key),
        Argument("from", U64 | None),
        Argument("limit", U32 | Unset, aliases=("max",)),
    ),
    returns=list[Account],
    idempotent=True,
    timeout=5.0,
)
_SAVE: Method[None] = Method("save", (Argument("account", Account),), returns=None, cancel=True)
_AREA: Method[float] = Method("area", (Argument("shape", Shape),), returns=float)
_ECHO_EVENT: Method[Event] = Method("echo_event", (Argument("event", Event),), returns=Event)
_ECHO_STEP: Method[Step] = Method("echo_step", (Argument("step", Step),), returns=Step)
_ECHO_TREE: Method[Tree] = Method("echo_tree", (Argument("tree", Tree),), returns=Tree)
_ECHO_BYTES: Method[bytes] = Method("echo_bytes", (Argument("data", bytes),), returns=bytes)
_PARSE_NUMBER: Method[I64] = Method(
    "parse_number",
    (Argument("text", str),),
    returns=I64,
    error=ParseNumberFailed,
)
_IMPORT: Method[None] = Method("import", returns=None, function="import_")
_LOG: Method[None] = Method("log", (Argument("line", str),), returns=None, oneway=True)
_SEND_MAIL: Method[None] = Method(
    "send_mail",
    (Argument("to", str),),
    returns=None,
    error=QueryError,
    oneway=True,
    idempotent=True,
    retry=Retry(times=2, min_delay=0.1, max_delay=0.2),
)
_TRADES: Method[Event] = Method(
    "trades",
    (Argument("symbol", str),),
    returns=Event,
    error=QueryError,
    stream=True,
)
_ENTRIES: Method[U64] = Method(
    "entries",
    (Argument("account", str), Argument("after", U64 | None)),
    returns=U64,
    idempotent=True,
    stream=True,
    resume="after",
)
_UPLOAD: Method[U64] = Method(
    "upload",
    (Argument("name", str),),
    incoming=bytes,
    returns=U64,
    error=StoreError,
)
_CHAT: Method[str] = Method(
    "chat",
    (Argument("room", str),),
    incoming=str,
    returns=str,
    stream=True,
)
_RELOAD: Method[U64] = Method(
    "reload",
    (Argument("reason", str),),
    returns=U64,
    error=QueryError,
    broadcast=True,
)
_CLEAR: Method[None] = Method("clear", returns=None, broadcast=True, oneway=True)

_SERVICE = rpc_runtime.Service(
    "Sample",
    queue="sample",
    methods=(
        _GET_EMAIL,
        _FIND,
        _SAVE,
        _AREA,
        _ECHO_EVENT,
        _ECHO_STEP,
        _ECHO_TREE,
        _ECHO_BYTES,
        _PARSE_NUMBER,
        _IMPORT,
        _LOG,
        _SEND_MAIL,
        _TRADES,
        _ENTRIES,
        _UPLOAD,
        _CHAT,
        _RELOAD,
        _CLEAR,
    ),
    description=(
        '{"name":"Sample","queue":"sample","methods":['
        '{"name":"get_email","arguments":[{"name":"id","type":"&str"}],"returns":"String","er'
        'ror":"QueryError","default":true,"idempotent":true},'
        '{"name":"find","arguments":[{"name":"key","type":"Key"},{"name":"from","type":"Optio'
        'n<u64>","optional":true},{"name":"limit","type":"u32","optional":true,"aliases":["ma'
        'x"]}],"returns":"Vec<Account>","idempotent":true,"timeout_ms":5000},'
        '{"name":"save","arguments":[{"name":"account","type":"Account"}],"returns":"()","can'
        'cel":true},'
        '{"name":"area","arguments":[{"name":"shape","type":"Shape"}],"returns":"f64"},'
        '{"name":"echo_event","arguments":[{"name":"event","type":"Event"}],"returns":"Event"'
        "},"
        '{"name":"echo_step","arguments":[{"name":"step","type":"Step"}],"returns":"Step"},'
        '{"name":"echo_tree","arguments":[{"name":"tree","type":"Tree"}],"returns":"Tree"},'
        '{"name":"echo_bytes","arguments":[{"name":"data","type":"Vec<u8>"}],"returns":"Vec<u'
        '8>"},'
        '{"name":"parse_number","arguments":[{"name":"text","type":"&str"}],"returns":"i64","'
        'error":"String"},'
        '{"name":"import","returns":"()"},'
        '{"name":"log","arguments":[{"name":"line","type":"&str"}],"returns":"()","oneway":tr'
        "ue},"
        '{"name":"send_mail","arguments":[{"name":"to","type":"&str"}],"returns":"()","error"'
        ':"QueryError","idempotent":true,"oneway":true,"retry":{"times":2,"min_delay_ms":100,'
        '"max_delay_ms":200}},'
        '{"name":"trades","arguments":[{"name":"symbol","type":"&str"}],"returns":"Event","er'
        'ror":"QueryError","stream":true},'
        '{"name":"entries","arguments":[{"name":"account","type":"&str"},{"name":"after","typ'
        'e":"Option<u64>","optional":true}],"returns":"u64","idempotent":true,"stream":true,"'
        'resume":"after"},'
        '{"name":"upload","arguments":[{"name":"name","type":"&str"}],"returns":"u64","error"'
        ':"StoreError","incoming":"Vec<u8>"},'
        '{"name":"chat","arguments":[{"name":"room","type":"&str"}],"returns":"String","strea'
        'm":true,"incoming":"String"},'
        '{"name":"reload","arguments":[{"name":"reason","type":"&str"}],"returns":"u64","erro'
        'r":"QueryError","broadcast":true},'
        '{"name":"clear","returns":"()","oneway":true,"broadcast":true}]}'
    ),
)


# Callers.


class SampleClient(rpc_runtime.Client):
    """Calls the service `Sample`."""

    _service = _SERVICE

    async def get_email(self, id: str) -> str:
        """Returns the address of a user."""
        return await self._call(_GET_EMAIL, id)

    async def find(
        self, key: Key, from_: U64 | None = None, limit: U32 | Unset = UNSET
    ) -> list[Account]:
        """Finds accounts."""
        return await self._call(_FIND, key, from_, limit)

    async def save(self, account: Account) -> None:
        """Saves an account."""
        await self._call(_SAVE, account)

    async def area(self, shape: Shape) -> float:
        """Returns an area."""
        return await self._call(_AREA, shape)

    async def echo_event(self, event: Event) -> Event:
        """Returns its argument."""
        return await self._call(_ECHO_EVENT, event)

    async def echo_step(self, step: Step) -> Step:
        """Returns its argument."""
        return await self._call(_ECHO_STEP, step)

    async def echo_tree(self, tree: Tree) -> Tree:
        """Returns its argument."""
        return await self._call(_ECHO_TREE, tree)

    async def echo_bytes(self, data: bytes) -> bytes:
        """Returns its argument."""
        return await self._call(_ECHO_BYTES, data)

    async def parse_number(self, text: str) -> I64:
        """Reads a number."""
        return await self._call(_PARSE_NUMBER, text)

    async def import_(self) -> None:
        """A method whose name is a word of the language."""
        await self._call(_IMPORT)

    async def log(self, line: str) -> None:
        """A one-way method: returns once the broker has the request."""
        await self._send(_LOG, line)

    async def send_mail(self, to: str) -> None:
        """A job."""
        await self._send(_SEND_MAIL, to)

    def trades(self, symbol: str) -> rpc_runtime.ResultStream[Event]:
        """Trades as they happen."""
        return self._stream(_TRADES, symbol)

    def entries(self, account: str, after: U64 | None = None) -> rpc_runtime.ResultStream[U64]:
        """All entries of an account, or those after one."""
        return self._stream(_ENTRIES, account, after)

    async def upload(self, name: str, items: rpc_runtime.Items[bytes]) -> U64:
        """Receives a stream."""
        return await self._call_with_items(_UPLOAD, items, name)

    def chat(self, room: str, items: rpc_runtime.Items[str]) -> rpc_runtime.ResultStream[str]:
        """Receives a stream, and returns one."""
        return self._stream_with_items(_CHAT, items, room)

    def reload(self, reason: str) -> rpc_runtime.Answers[U64]:
        """Every worker loads its settings again."""
        return self._broadcast(_RELOAD, reason)

    async def clear(self) -> None:
        """Every worker drops its cache. Nobody answers."""
        await self._broadcast_oneway(_CLEAR)


# Workers.


class SampleWorker(rpc_runtime.Worker):
    """Serves the service `Sample`."""

    _service = _SERVICE

    @abc.abstractmethod
    async def get_email(self, id: str) -> str:
        """Returns the address of a user."""

    @abc.abstractmethod
    async def find(self, key: Key, from_: U64 | None, limit: U32 | Unset) -> list[Account]:
        """Finds accounts."""

    @abc.abstractmethod
    async def save(self, account: Account) -> None:
        """Saves an account."""

    @abc.abstractmethod
    async def area(self, shape: Shape) -> float:
        """Returns an area."""

    @abc.abstractmethod
    async def echo_event(self, event: Event) -> Event:
        """Returns its argument."""

    @abc.abstractmethod
    async def echo_step(self, step: Step) -> Step:
        """Returns its argument."""

    @abc.abstractmethod
    async def echo_tree(self, tree: Tree) -> Tree:
        """Returns its argument."""

    @abc.abstractmethod
    async def echo_bytes(self, data: bytes) -> bytes:
        """Returns its argument."""

    @abc.abstractmethod
    async def parse_number(self, text: str) -> I64:
        """Reads a number."""

    @abc.abstractmethod
    async def import_(self) -> None:
        """A method whose name is a word of the language."""

    @abc.abstractmethod
    async def log(self, line: str) -> None:
        """A one-way method: returns once the broker has the request."""

    @abc.abstractmethod
    async def send_mail(self, to: str) -> None:
        """A job."""

    @abc.abstractmethod
    def trades(self, symbol: str) -> AsyncIterator[Event]:
        """Trades as they happen."""

    @abc.abstractmethod
    def entries(self, account: str, after: U64 | None) -> AsyncIterator[U64]:
        """All entries of an account, or those after one."""

    @abc.abstractmethod
    async def upload(self, name: str, items: AsyncIterator[bytes]) -> U64:
        """Receives a stream."""

    @abc.abstractmethod
    def chat(self, room: str, items: AsyncIterator[str]) -> AsyncIterator[str]:
        """Receives a stream, and returns one."""

    @abc.abstractmethod
    async def reload(self, reason: str) -> U64:
        """Every worker loads its settings again."""

    @abc.abstractmethod
    async def clear(self) -> None:
        """Every worker drops its cache. Nobody answers."""
