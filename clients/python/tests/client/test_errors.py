"""Exceptions can be copied and pickled, for example to get out of a process pool."""

from __future__ import annotations

import copy
import pickle

import pytest

import sample
from rpc_runtime import BrokerFailed, Executed, Fault, MethodErrorText, NoServer, RpcError, TimedOut
from rpc_runtime.errors import received_fault

ERRORS: list[RpcError] = [
    sample.QueryErrorNoRoute(),
    sample.StoreError(part=7, reason="full"),
    sample.QueryErrorTooMany(value=3),
    NoServer("mail"),
    TimedOut(1.5, Executed.NO, "the broker blocks publishers"),
    received_fault("expired", "too late", 2.0),
    MethodErrorText("no route"),
    BrokerFailed("it is gone", Executed.MAYBE),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_copies_are_equal(error: RpcError) -> None:
    for copied in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(copied) is type(error)
        assert (str(copied), vars(copied)) == (str(error), vars(error))
        assert (copied.executed, copied.retryable) == (error.executed, error.retryable)
    assert isinstance(ERRORS[5], Fault) and ERRORS[5].is_received
