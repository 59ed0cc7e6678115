"""Whatever can be written is read again, in both forms and through the codecs."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import sample
from rpc_runtime import UNSET, Codec
from rpc_runtime.codec import decode, encode, form_of
from rpc_runtime.types import ConversionError, converter_of

u64 = st.integers(0, 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]))

accounts = st.builds(
    sample.Account,
    id=u64,
    user_name=text,
    email=st.none() | text,
    tags=st.just(UNSET) | st.lists(text, max_size=3),
    balance=st.integers(0, 2**128 - 1),
    favourite=st.sampled_from(sample.Color),
    ages=st.dictionaries(text, st.integers(0, 255), max_size=3),
    by_color=st.dictionaries(
        st.sampled_from(sample.Color),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        max_size=2,
    ),
    by_number=st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.booleans(), max_size=3),
    position=st.none() | st.tuples(finite, finite),
    extra=st.none() | text,
)
values = st.one_of(
    accounts.map(lambda value: (sample.Account, value)),
    st.one_of(
        st.builds(sample.ShapeCircle, radius=finite),
        st.builds(sample.ShapeSquare, value=finite),
        st.builds(sample.ShapePoint),
    ).map(lambda value: (sample.Shape, value)),
    st.one_of(
        st.builds(sample.EventCreated, account=accounts),
        st.builds(sample.EventDeleted, id=u64),
    ).map(lambda value: (sample.Event, value)),
    st.recursive(
        st.builds(sample.Tree, name=text, children=st.just([])),
        lambda trees: st.builds(sample.Tree, name=text, children=st.lists(trees, max_size=3)),
        max_leaves=8,
    ).map(lambda value: (sample.Tree, value)),
    st.binary().map(lambda value: (bytes, value)),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.integers(), inner),
    max_leaves=8,
)


@given(values, st.sampled_from([Codec.MESSAGE_PACK, Codec.JSON]))
def test_values_come_back(value: tuple[Any, Any], codec: Codec) -> None:
    hint, original = value
    converter = converter_of(hint, form_of(codec))
    assert converter.decode(decode(codec, encode(codec, converter.encode(original)))) == original


@given(plain, st.sampled_from([Codec.MESSAGE_PACK, Codec.JSON]))
def test_any_value_is_read_or_refused(value: Any, codec: Codec) -> None:
    for hint in (sample.Account, sample.Shape, sample.Event, sample.Step, sample.Key, bytes):
        converter = converter_of(hint, form_of(codec))
        try:
            read = converter.decode(value)
        except ConversionError:
            continue
        assert converter.decode(converter.encode(read)) == read


@given(st.binary(), st.sampled_from([Codec.MESSAGE_PACK, Codec.JSON]))
def test_any_bytes_are_read_or_refused(body: bytes, codec: Codec) -> None:
    try:
        decode(codec, body)
    except ValueError as error:
        assert str(error)
