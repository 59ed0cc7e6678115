"""Why a call fails."""

from __future__ import annotations

from typing import Any, ClassVar

from .executed import Executed
from .protocol.fault_code import executed_of_fault

_RETRYABLE_FAULTS = ("expired", "rejected")


class RpcError(Exception):
    """A call failed. `executed` tells whether its method ran."""

    executed: Executed = Executed.MAYBE

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, `copy` and `pickle` call the class with `args`. Here, these are not the
        # parameters of `__init__`, and a generated exception has only keyword parameters.
        return _with_args, (type(self), self.args), self.__dict__

    @property
    def retryable(self) -> bool:
        """Whether it is safe to make the same call again, and another attempt may help.

        The method is not considered: a failed call of an idempotent one is always safe to make
        again.
        """
        return self._may_pass and self.executed is Executed.NO

    # Whether the cause may go away by itself.
    _may_pass: ClassVar[bool] = False


def _with_args(cls: type[RpcError], args: tuple[Any, ...]) -> RpcError:
    """Makes an exception with its `args` but no attributes. `copy` and `pickle` then set these."""
    return cls.__new__(cls, *args)


class MethodError(RpcError):
    """The method ran and returned its own error. Base of the generated exceptions."""

    executed = Executed.YES

    def __str__(self) -> str:
        return f"the method failed: {self!r}"


class MethodErrorText(MethodError):
    """The method's own error arrived as text, which cannot carry a typed error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"the method failed: {self.text}"


class NoServer(RpcError):
    """The request queue does not exist.

    `executed` is `MAYBE` if the request was sent before, and a worker may have got it.
    """

    executed = Executed.NO
    _may_pass = True

    def __init__(self, queue: str) -> None:
        super().__init__(f'no server: there is no queue "{queue}"')
        self.queue = queue


class NoWorkers(RpcError):
    """A broadcast reached no worker."""

    executed = Executed.NO
    _may_pass = True

    def __init__(self, queue: str) -> None:
        super().__init__(f'no server: no worker of queue "{queue}" can be reached')
        self.queue = queue


class TimedOut(RpcError):
    """No reply or item arrived in time or, for a one-way call or a broadcast, no confirm."""

    _may_pass = True

    def __init__(self, limit: float, executed: Executed, reason: str = "") -> None:
        because = f": {reason}" if reason else ""
        super().__init__(f"no reply within {limit:g} s{because}")
        self.limit = limit
        self.executed = executed


class TooManyCalls(RpcError):
    """As many calls as allowed are in flight. The request was not sent."""

    executed = Executed.NO
    _may_pass = True

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} calls are in flight, which is the limit")
        self.limit = limit


class Fault(RpcError):
    """The worker's runtime refused the call or could not finish it, or the worker is gone.

    `retry_after` is for how many seconds another attempt is not worth it. `None` if unknown.

    A method may raise one itself, for example `Fault("rejected", "too busy")`. If it lets one pass
    that a call of its own raised, its caller gets `panicked`, as for any other exception: that
    fault is about another method.
    """

    is_received: bool = False
    """Whether a call raised the fault, rather than a method that answers with it."""

    def __init__(self, code: str, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.executed = executed_of_fault(code)

    @property
    def retryable(self) -> bool:
        """Whether another attempt is safe and may help."""
        return self.code in _RETRYABLE_FAULTS and self.executed is Executed.NO


def received_fault(code: str, message: str, retry_after: float | None = None) -> Fault:
    """Makes the fault that a call raises."""
    fault = Fault(code, message, retry_after)
    fault.is_received = True
    return fault


class TooLarge(RpcError):
    """The request's body is too large for this connection, or for a broadcast. It was not sent."""

    executed = Executed.NO

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the request has {size} bytes, and at most {limit} may be sent")
        self.size = size
        self.limit = limit


class EncodeFailed(RpcError):
    """The arguments or the options of the call cannot be sent. Nothing was sent."""

    executed = Executed.NO

    def __init__(self, reason: str) -> None:
        super().__init__(f"the call cannot be sent: {reason}")
        self.reason = reason


class BadReply(RpcError):
    """A reply, an item or another message of the worker arrived, but cannot be read."""

    def __init__(self, reason: str, executed: Executed) -> None:
        super().__init__(f"the reply cannot be read: {reason}")
        self.reason = reason
        self.executed = executed


class BadItem(RpcError):
    """The stream that the call sends failed, or an item of it cannot be sent.

    The method had begun.
    """

    executed = Executed.MAYBE

    def __init__(self, reason: str) -> None:
        super().__init__(f"an item cannot be sent: {reason}")
        self.reason = reason


class Refused(RpcError):
    """The broker refused the request, for example because its queue is full."""

    executed = Executed.MAYBE

    def __init__(self, queue: str) -> None:
        super().__init__(f'the broker refused the request for queue "{queue}"')
        self.queue = queue


class BrokerFailed(RpcError):
    """The broker could not be reached, or the connection, a channel or the reply queue was lost.

    Also raised if this program has closed the connection, or if a server cannot start.
    """

    _may_pass = True

    def __init__(self, reason: str, executed: Executed = Executed.NO) -> None:
        super().__init__(f"the broker failed the call: {reason}")
        self.reason = reason
        self.executed = executed


class IncomingError(Exception):
    """The stream that a method receives broke off.

    Its caller is silent or breaks the protocol, or an item is invalid.
    """
