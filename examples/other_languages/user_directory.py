"""The service `UserDirectory`, from Python.

Looks users up.

Written by `rpc generate python`: do not edit it. Its format is that of `ruff format
--line-length 100`.
"""

from __future__ import annotations

import abc

import rpc_runtime
from rpc_runtime import U64, Argument, Method

# Types.


class DirectoryError(rpc_runtime.MethodError):
    """Why the directory could not answer."""


@rpc_runtime.variant("UnknownUser")
class DirectoryErrorUnknownUser(DirectoryError):
    """No user has this id."""

    id: str
    """The requested id."""


# Methods.

_GET_EMAIL = Method[str](
    "get_email",
    (Argument("id", str),),
    returns=str,
    error=DirectoryError,
    default=True,
    idempotent=True,
)
_COUNT = Method[U64]("count", returns=U64, idempotent=True)

_SERVICE = rpc_runtime.Service(
    "UserDirectory",
    queue="rpc_queue",
    methods=(_GET_EMAIL, _COUNT),
    description=(
        '{"name":"UserDirectory","queue":"rpc_queue","docs":"Looks users up.","methods":[{"name":"g'
        'et_email","docs":"Returns the e-mail address of one user.","arguments":[{"name":"id","type'
        '":"&str","schema":{"type":"string"}}],"returns":"String","error":"DirectoryError","default'
        '":true,"idempotent":true,"result_schema":{"type":"string"},"error_schema":{"$ref":"#/defin'
        'itions/DirectoryError"}},{"name":"count","docs":"Returns the number of users.","returns":"'
        'u64","idempotent":true,"result_schema":{"format":"uint64","minimum":0,"type":"integer"}}],'
        '"definitions":{"DirectoryError":{"description":"Why the directory could not answer.","oneO'
        'f":[{"additionalProperties":false,"description":"No user has this id.","properties":{"Unkn'
        'ownUser":{"properties":{"id":{"description":"The requested id.","type":"string"}},"require'
        'd":["id"],"type":"object"}},"required":["UnknownUser"],"type":"object"}]}}}'
    ),
)


# Callers.


class UserDirectoryClient(rpc_runtime.Client):
    """Calls the service `UserDirectory`."""

    _service = _SERVICE

    async def get_email(self, id: str) -> str:
        """Returns the e-mail address of one user."""
        return await self._call(_GET_EMAIL, id)

    async def count(self) -> U64:
        """Returns the number of users."""
        return await self._call(_COUNT)


# Workers.


class UserDirectoryWorker(rpc_runtime.Worker):
    """Serves the service `UserDirectory`."""

    _service = _SERVICE

    @abc.abstractmethod
    async def get_email(self, id: str) -> str:
        """Returns the e-mail address of one user."""

    @abc.abstractmethod
    async def count(self) -> U64:
        """Returns the number of users."""
