"""Options that do not fit the method of a call."""

from __future__ import annotations

from typing import Any

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


def test_the_app_id_fits_into_a_property() -> None:
    assert connect(app_id="x" * 255).app_id == "x" * 255
    with pytest.raises(ValueError, match="at most 255 bytes"):
        connect(app_id="é" * 128)


@pytest.mark.parametrize("name", ["priority", "credit", "credit_bytes", "expect_workers"])
def test_whole_numbers_are_needed(name: str) -> None:
    options: dict[str, Any] = {name: 1.5}
    with pytest.raises(EncodeFailed, match=f"{name} must be an integer"):
        sample.SampleClient(connect()).with_options(**options)
