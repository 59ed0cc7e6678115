"""The service `Conformance`, as `Reference` in Rust implements it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import conformance as api
import rpc_runtime
from rpc_runtime import F32, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, Unset

_BLOB = bytes(range(251))


class Reference(api.ConformanceWorker):
    """Most methods return their argument. Others count what runs and what is stopped."""

    def __init__(self) -> None:
        self._runs: Counter[str] = Counter()
        self._stops: Counter[str] = Counter()

    async def echo_text(self, value: str) -> str:
        return value

    async def echo_bytes(self, value: bytes) -> bytes:
        return value

    async def echo_char(self, value: str) -> str:
        return value

    async def echo_bool(self, value: bool) -> bool:
        return value

    async def echo_unit(self, value: None) -> None:
        return value

    async def echo_i8(self, value: I8) -> I8:
        return value

    async def echo_i16(self, value: I16) -> I16:
        return value

    async def echo_i32(self, value: I32) -> I32:
        return value

    async def echo_i64(self, value: I64) -> I64:
        return value

    async def echo_i128(self, value: I128) -> I128:
        return value

    async def echo_u8(self, value: U8) -> U8:
        return value

    async def echo_u16(self, value: U16) -> U16:
        return value

    async def echo_u32(self, value: U32) -> U32:
        return value

    async def echo_u64(self, value: U64) -> U64:
        return value

    async def echo_u128(self, value: U128) -> U128:
        return value

    async def echo_f32(self, value: F32) -> F32:
        return value

    async def echo_f64(self, value: float) -> float:
        return value

    async def echo_numbers(self, value: api.Numbers) -> api.Numbers:
        return value

    async def echo_containers(self, value: api.Containers) -> api.Containers:
        return value

    async def echo_person(self, value: api.Person) -> api.Person:
        return value

    async def echo_page(self, value: api.Page) -> api.Page:
        return value

    async def echo_tree(self, value: api.Tree) -> api.Tree:
        return value

    async def echo_user_id(self, value: api.UserId) -> api.UserId:
        return value

    async def echo_pair(self, value: api.Pair) -> api.Pair:
        return value

    async def echo_marker(self, value: api.Marker) -> api.Marker:
        return value

    async def echo_color(self, value: api.Color) -> api.Color:
        return value

    async def echo_direction(self, value: api.Direction) -> api.Direction:
        return value

    async def echo_shape(self, value: api.Shape) -> api.Shape:
        return value

    async def echo_event(self, value: api.Event) -> api.Event:
        return value

    async def echo_command(self, value: api.Command) -> api.Command:
        return value

    async def echo_scalar(self, value: api.Scalar) -> api.Scalar:
        return value

    async def echo_option(self, value: U64 | None) -> U64 | None:
        return value

    async def echo_list(self, value: list[I64]) -> list[I64]:
        return value

    async def echo_tuple(self, value: tuple[U64, str]) -> tuple[U64, str]:
        return value

    async def echo_map(self, value: dict[str, U64]) -> dict[str, U64]:
        return value

    async def echo_numbered(self, value: dict[U64, str]) -> dict[U64, str]:
        return value

    async def words_join(self, first_word: str, two: str | None, class_: str | Unset) -> str:
        third = "three" if isinstance(class_, Unset) else class_
        return f"{first_word} {'-' if two is None else two} {third}"

    async def with_options_(self, timeout: U32, self_: U32, from_: U32) -> U32:
        return timeout + self_ + from_

    async def double(self, value: U32) -> U64:
        return 2 * value

    async def refuse(self, value: U64, refusal: U8 | None) -> U64:
        _raise(refusal)
        return value

    async def reject(self, code: U16) -> None:
        if code:
            raise api.Rejection(code=code, reason=f"code {code}")

    async def complain(self, reason: str) -> U64:
        if reason:
            raise api.ComplainFailed(error=reason)
        return 0

    async def fail_with_shape(self, shape: api.Shape | None) -> None:
        if shape is not None:
            raise api.FailWithShapeFailed(error=shape)

    async def panic(self) -> None:
        raise RuntimeError("as requested")

    async def sleep(self, ms: U32) -> U32:
        await asyncio.sleep(ms / 1000)
        return ms

    async def wait(self, entry: str, ms: U32) -> U32:
        try:
            await asyncio.sleep(ms / 1000)
        except asyncio.CancelledError:
            self._stops[entry] += 1
            raise
        return ms

    async def stopped(self, entry: str) -> U32:
        return self._stops[entry]

    async def header(self, name: str) -> str | None:
        return rpc_runtime.context().headers.get(name)

    async def time_left(self) -> U64 | None:
        left = rpc_runtime.context().time_left
        return None if left is None else int(left * 1000)

    async def notify(self, entry: str) -> None:
        self._runs[entry] += 1

    async def record(self, entry: str, failures: U32) -> None:
        self._runs[entry] += 1
        if self._runs[entry] <= failures:
            raise api.RefusalTooMany(value=self._runs[entry])

    async def runs(self, entry: str) -> U32:
        return self._runs[entry]

    async def ask(self, entry: str) -> str:
        if not entry:
            raise api.RefusalClosed()
        self._runs[entry] += 1
        return entry

    async def tell(self, entry: str) -> None:
        self._runs[entry] += 1

    async def count(self, items: U64) -> AsyncIterator[U64]:
        for item in range(items):
            yield item

    async def count_to(self, items: U64, refusal: U8 | None) -> AsyncIterator[U64]:
        for item in range(items):
            yield item
        _raise(refusal)

    async def blobs(self, sizes: list[U32]) -> AsyncIterator[bytes]:
        for size in sizes:
            yield (_BLOB * (size // len(_BLOB) + 1))[:size]

    async def resumable(self, items: U64, after: U64 | None) -> AsyncIterator[U64]:
        for item in range(0 if after is None else after + 1, items):
            yield item

    async def ticks(self, entry: str, ms: U32) -> AsyncIterator[U64]:
        with self._counts_stop(entry):
            for tick in itertools.count():
                await asyncio.sleep(ms / 1000)
                yield tick

    @contextlib.contextmanager
    def _counts_stop(self, entry: str) -> Iterator[None]:
        try:
            yield
        finally:
            self._stops[entry] += 1

    async def sum(self, items: AsyncIterator[U64]) -> U64:
        total = 0
        with contextlib.suppress(rpc_runtime.IncomingError):
            async for item in items:
                total += item
        return total % 2**64

    async def concat(self, limit: U32, items: AsyncIterator[bytes]) -> bytes:
        whole = bytearray()
        try:
            async for part in items:
                whole += part
                if len(whole) > limit:
                    raise api.RefusalTooMany(value=limit)
        except rpc_runtime.IncomingError:
            raise api.RefusalClosed() from None
        return bytes(whole)

    async def take(self, items: U32, items2: AsyncIterator[api.Person]) -> U32:
        taken = 0
        with contextlib.suppress(rpc_runtime.IncomingError):
            while taken < items:
                try:
                    await anext(items2)
                except StopAsyncIteration:
                    break
                taken += 1
        return taken

    async def answer(self, word: str, items: AsyncIterator[str]) -> AsyncIterator[str]:
        with contextlib.suppress(rpc_runtime.IncomingError):
            async for line in items:
                yield f"{word}: {line}"

    async def check(self, items: AsyncIterator[api.Shape]) -> AsyncIterator[api.Shape]:
        try:
            async for shape in items:
                if isinstance(shape, api.ShapeNothing):
                    raise api.RefusalClosed()
                yield shape
        except rpc_runtime.IncomingError:
            raise api.RefusalClosed() from None


def _raise(number: int | None) -> None:
    """Raises the error of this number, if there is one."""
    match number:
        case None:
            return
        case 0:
            raise api.RefusalUnknownUser(id=2**64 - 1)
        case 1:
            raise api.RefusalClosed()
        case 2:
            raise api.RefusalTooMany(value=2**32 - 1)
        case _:
            raise api.RefusalNotBetween(value=(-(2**63), 2**63 - 1))
