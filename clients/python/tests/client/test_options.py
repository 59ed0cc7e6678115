"""Options that do not fit the method of a call."""

from __future__ import annotations

import pytest

import sample
from rpc_runtime import EncodeFailed, connect
from support.service import account


async def test_only_a_job_can_be_delayed() -> None:
    client = sample.SampleClient(connect()).with_options(delay=1.0)
    with pytest.raises(EncodeFailed, match="only a job"):
        await client.save(account())
    with pytest.raises(EncodeFailed, match="only a job"):
        await client.log("line")
    with pytest.raises(EncodeFailed, match="only a job"):
        await client.upload("name", [b""])
    with pytest.raises(EncodeFailed, match="only a job"):
        await client.reload("reason").collect()
    with pytest.raises(EncodeFailed, match="only a job"):
        await client.clear()
    for stream in (client.entries("1"), client.chat("room", ["hello"])):
        with pytest.raises(EncodeFailed, match="only a job"):
            await anext(stream)
