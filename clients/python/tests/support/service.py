"""An implementation of the sample service, which records what it runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import rpc_runtime
import sample
from rpc_runtime import I64, U32, U64, Unset


def account(identity: int = 1) -> sample.Account:
    return sample.Account(
        id=identity,
        user_name="alice",
        tags=["a"],
        balance=2**100,
        favourite=sample.Color.RED,
        ages={"bob": 7},
        by_color={sample.Color.DARK_GREEN: 1.5},
        by_number={-1: True},
        position=(1.0, 2.0),
        extra={"any": [1, None]},
    )


class Implementation(sample.SampleWorker):
    """Some arguments make a method slow, fail or crash."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.contexts: list[rpc_runtime.Context] = []
        self.lines: list[str] = []
        self.mails: list[tuple[str, int]] = []
        self.release = asyncio.Event()
        self.began = asyncio.Event()

    def _begin(self, method: str) -> None:
        self.runs[method] += 1
        self.contexts.append(rpc_runtime.context())
        self.began.set()

    async def _hold(self, method: str) -> None:
        self._begin(method)
        try:
            await self.release.wait()
        finally:
            self.ended[method] += 1

    async def get_email(self, id: str) -> str:
        self._begin("get_email")
        if id == "missing":
            raise sample.QueryErrorUnknownUser(id=id)
        if id == "many":
            raise sample.QueryErrorTooMany(value=3)
        if id == "nowhere":
            raise sample.QueryErrorNoRoute()
        if id == "crash":
            raise KeyError("secret")
        if id == "busy":
            raise rpc_runtime.Fault("rejected", "too busy", retry_after=1.5)
        if id == "slow":
            await self._hold("slow")
        return f"{id}@example.com"

    async def find(
        self, key: sample.Key, from_: U64 | None, limit: U32 | Unset
    ) -> list[sample.Account]:
        self._begin("find")
        if isinstance(limit, Unset):
            return [account(7)]
        return [account(from_ or 0)] * limit

    async def save(self, account: sample.Account) -> None:
        self._begin("save")
        if account.id == 0:
            await self._hold("save slow")

    async def area(self, shape: sample.Shape) -> float:
        await self._hold("area")
        return 1.0

    async def echo_event(self, event: sample.Event) -> sample.Event:
        return event

    async def echo_step(self, step: sample.Step) -> sample.Step:
        return step

    async def echo_tree(self, tree: sample.Tree) -> sample.Tree:
        return tree

    async def echo_bytes(self, data: bytes) -> bytes:
        return data

    async def parse_number(self, text: str) -> I64:
        if text == "huge":
            return 2**70
        try:
            return int(text)
        except ValueError:
            raise sample.ParseNumberFailed(error=f"{text!r} is no number") from None

    async def import_(self) -> None:
        self._begin("import")

    async def log(self, line: str) -> None:
        self._begin("log")
        self.lines.append(line)

    async def send_mail(self, to: str) -> None:
        self._begin("send_mail")
        attempt = rpc_runtime.context().attempt
        self.mails.append((to, attempt))
        if to == "nowhere" or (to == "second" and attempt == 1):
            raise sample.QueryErrorNoRoute()
        if to == "crash":
            raise RuntimeError("broken")
        if to == "slow":
            await self._hold("mail")

    async def trades(self, symbol: str) -> AsyncIterator[sample.Event]:
        self._begin("trades")
        try:
            for number in range(3):
                yield sample.EventDeleted(id=number)
            if symbol == "bad":
                raise sample.QueryErrorNoRoute()
            if symbol == "crash":
                raise RuntimeError("broken")
            if symbol == "idle":
                await self._hold("idle")
        finally:
            self.ended["trades"] += 1

    async def entries(self, account: str, after: U64 | None) -> AsyncIterator[U64]:
        self._begin("entries")
        number = 0 if after is None else after + 1
        end = int(account) if account.isdigit() else 2**63
        try:
            while number < end:
                yield number
                number += 1
                if account == "slow":
                    await asyncio.sleep(0.01)
        finally:
            self.ended["entries"] += 1

    async def upload(self, name: str, items: AsyncIterator[bytes]) -> U64:
        self._begin("upload")
        size = 0
        try:
            async for part in items:
                size += len(part)
                if name == "full" and size > 10:
                    raise sample.StoreError(part=1, reason="full")
                if name == "enough" and size > 10:
                    return size
                if name == "slow":
                    await asyncio.sleep(0.002)
                if name == "hang":
                    await self._hold("hang")
        finally:
            self.ended["upload"] += 1
        return size

    async def chat(self, room: str, items: AsyncIterator[str]) -> AsyncIterator[str]:
        self._begin("chat")
        async for line in items:
            yield f"{room}: {line}"

    async def reload(self, reason: str) -> U64:
        self._begin("reload")
        if reason == "bad":
            raise sample.QueryErrorNoRoute()
        if reason == "slow":
            await self._hold("slow reload")
        return 7

    async def clear(self) -> None:
        self._begin("clear")
