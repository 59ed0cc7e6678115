"""What a peer sends that knows the service `Conformance` differently."""

from __future__ import annotations

import rpc_runtime
from rpc_runtime import U8, U32, U64, Argument, Method

_UNKNOWN: Method[U32] = Method("unknown", returns=U32)
_ECHO_U8: Method[U8] = Method("echo_u8", (Argument("value", str),), returns=U8)
_ECHO_I16: Method[U8] = Method("echo_i16", returns=U8)
_DOUBLE: Method[U64] = Method("double", (Argument("value", U32), Argument("by", U32)), returns=U64)
_JOIN: Method[str] = Method("words.join", (Argument("first", str),), returns=str)

_SERVICE = rpc_runtime.Service(
    "Foreign",
    queue="conformance",
    methods=(_UNKNOWN, _ECHO_U8, _ECHO_I16, _DOUBLE, _JOIN),
    description='{"name":"Foreign","queue":"conformance","methods":[]}',
)


class ForeignClient(rpc_runtime.Client):
    """Methods of `Conformance` with other arguments, and methods that it does not have."""

    _service = _SERVICE

    async def unknown(self) -> U32:
        """Does not exist."""
        return await self._call(_UNKNOWN)

    async def echo_u8(self, value: str) -> U8:
        """Has an argument of another type."""
        return await self._call(_ECHO_U8, value)

    async def echo_i16(self) -> U8:
        """Has no argument."""
        return await self._call(_ECHO_I16)

    async def double(self, value: U32, by: U32) -> U64:
        """Has an argument more."""
        return await self._call(_DOUBLE, value, by)

    async def join(self, first: str) -> str:
        """Has only the first argument, by its other name."""
        return await self._call(_JOIN, first)
