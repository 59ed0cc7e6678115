"""Conversions of single types: what they accept, what they refuse, and where they say it is."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any

import pytest

import sample
from rpc_runtime import F32, I8, I64, I128, U8, U64, U128, Char, Unset, record, variant, wire
from rpc_runtime.types import ConversionError, Form, converter_of

MSGPACK, JSON = Form.MESSAGE_PACK, Form.JSON


def encode(hint: Any, value: Any, form: Form = MSGPACK) -> Any:
    return converter_of(hint, form).encode(value)


def decode(hint: Any, value: Any, form: Form = MSGPACK) -> Any:
    return converter_of(hint, form).decode(value)


def refusal(hint: Any, value: Any, form: Form = MSGPACK) -> str:
    with pytest.raises(ConversionError) as caught:
        decode(hint, value, form)
    return str(caught.value)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize(
    ("hint", "least", "greatest"),
    [(U8, 0, 255), (I8, -128, 127), (U64, 0, 2**64 - 1), (I64, -(2**63), 2**63 - 1)],
)
def test_integers_have_limits(hint: Any, least: int, greatest: int, form: Form) -> None:
    for value in (least, greatest):
        assert encode(hint, value, form) == value
        assert decode(hint, value, form) == value
    for value in (least - 1, greatest + 1):
        assert refusal(hint, value, form) == f"expected an integer from {least} to {greatest}"
        with pytest.raises(ConversionError):
            encode(hint, value, form)


class Shade(str, enum.Enum):  # noqa: UP042
    """An enum as it was written before `StrEnum`: `str(Shade.RED)` is "Shade.RED"."""

    RED = "red"


@pytest.mark.parametrize("form", list(Form))
def test_text_of_a_subclass_is_its_content(form: Form) -> None:
    for hint, value, expected in [
        (str, Shade.RED, "red"),
        (list[str], [Shade.RED], ["red"]),
        (dict[str, U8], {Shade.RED: 1}, {"red": 1}),
    ]:
        assert repr(encode(hint, value, form)) == repr(expected)


def test_booleans_and_floats_are_no_integers() -> None:
    assert refusal(U8, True) == "expected an integer from 0 to 255, found a boolean"
    assert refusal(U8, 1.0) == "expected an integer from 0 to 255, found a number"
    assert refusal(bool, 1) == "expected a boolean, found an integer"


def test_integers_of_128_bits_are_text_in_message_pack() -> None:
    assert encode(U128, 2**128 - 1) == str(2**128 - 1)
    assert encode(U128, 2**128 - 1, JSON) == 2**128 - 1
    assert decode(I128, str(-(2**127))) == -(2**127)
    assert decode(I128, (-5).to_bytes(16, "big", signed=True)) == -5
    assert decode(U128, 7) == 7
    for text in ("", "-", "1_0", "٣", "9" * 41, "-1"):
        with pytest.raises(ConversionError):
            decode(U128, text)


@record
class _WithList:
    numbers: list[int] = dataclasses.field(default_factory=list)


def test_values_do_not_share_a_default() -> None:
    converter = converter_of(_WithList, MSGPACK)
    first, second = converter.decode({}), converter.decode({})
    first.numbers.append(1)
    assert second.numbers == []


def test_floats_accept_integers_but_no_text() -> None:
    assert decode(float, 3) == 3.0
    assert type(decode(float, 3)) is float
    assert refusal(float, "3") == "expected a number, found text"
    for too_large in (1e39, 3.4028235677973366e38):
        assert refusal(F32, too_large) == "the number is too large for 32 bits"


def test_a_character_is_one() -> None:
    assert encode(Char, "\U0001f980") == "\U0001f980"
    for text in ("", "ab"):
        assert refusal(Char, text) == "expected one character"
        with pytest.raises(ConversionError):
            encode(Char, text)
    assert refusal(Char, 7) == "expected text, found an integer"


def test_floats_of_32_bits_are_rounded_to_them() -> None:
    assert decode(F32, 0.1, JSON) == 0.10000000149011612
    assert decode(float, 0.1, JSON) == 0.1
    assert decode(F32, float("inf")) == float("inf")


def test_a_struct_without_fields_is_an_empty_list_or_null() -> None:
    decode(None, [])
    decode(None, None)
    assert refusal(None, [1]) == "expected null, found an array"
    assert encode(None, None) is None


def test_json_has_no_infinity() -> None:
    assert encode(float, float("inf")) == float("inf")
    for value in (float("inf"), float("nan")):
        with pytest.raises(ConversionError, match="JSON has no such number"):
            encode(float, value, JSON)


def test_bytes_are_numbers_in_json() -> None:
    assert encode(bytes, b"\x00\xff") == b"\x00\xff"
    assert encode(bytes, b"\x00\xff", JSON) == [0, 255]
    for form in Form:
        assert decode(bytes, [0, 255], form) == b"\x00\xff"
    assert refusal(bytes, [1, 256]) == "[1]: expected an integer from 0 to 255"
    assert refusal(bytes, "text") == "expected bytes, found text"


def test_keys_of_maps_are_text_in_json() -> None:
    assert encode(dict[I64, bool], {-1: True}, JSON) == {"-1": True}
    assert encode(dict[I64, bool], {-1: True}) == {-1: True}
    assert decode(dict[I64, bool], {"-1": True}, JSON) == {-1: True}
    assert encode(dict[bool, str], {True: "a"}, JSON) == {"true": "a"}
    assert decode(dict[bool, str], {"false": "a"}, JSON) == {False: "a"}
    assert decode(dict[sample.Color, U8], {"Red": 1}) == {sample.Color.RED: 1}
    assert "expected the text of an integer" in refusal(dict[I64, bool], {"x": True}, JSON)
    with pytest.raises(TypeError):
        converter_of(dict[float, str], JSON)


def test_tuples_have_a_length() -> None:
    assert decode(tuple[U8, str], [1, "a"]) == (1, "a")
    assert refusal(tuple[U8, str], [1]) == "expected an array of 2 items, found 1"
    assert refusal(tuple[U8, str], [1, 2]) == "[1]: expected text, found an integer"


def test_errors_name_the_place() -> None:
    account = {
        "id": 1,
        "userName": "a",
        "balance": "1",
        "favourite": "Red",
        "ages": {"x": 300},
        "by_color": {},
        "by_number": {},
    }
    place = refusal(dict[str, list[sample.Account]], {"users": [account]})
    assert place == "users[0].ages.x: expected an integer from 0 to 255"


def test_a_struct_is_a_map() -> None:
    @record
    class Point:
        x: float
        label: str | None
        hidden: bool | Unset = Unset.UNSET
        size: U8 = 7

    # Local classes are found here.
    globals()["Point"] = Point
    assert encode(Point, Point(x=1.0, label=None)) == {"x": 1.0, "label": None, "size": 7}
    assert decode(Point, {"x": 1, "unknown": [1]}) == Point(x=1.0, label=None)
    assert decode(Point, {"x": 1, "hidden": True}).hidden is True
    assert refusal(Point, {}) == 'the field "x" is missing'
    assert refusal(Point, [1]) == "expected a map, found an array"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Point(x=1.0, label=None).x = 2.0  # type: ignore[misc]


def test_names_on_the_wire_may_differ() -> None:
    fields = converter_of(sample.Account, JSON)
    with pytest.raises(ConversionError, match='the field "userName" is missing'):
        fields.decode({"id": 1})
    assert wire("userName").name == "userName"


def test_a_type_may_contain_itself() -> None:
    tree = sample.Tree(name="a", children=[sample.Tree(name="b", children=[])])
    plain = {"name": "a", "children": [{"name": "b", "children": []}]}
    assert encode(sample.Tree, tree) == plain
    assert decode(sample.Tree, plain) == tree
    deep: dict[str, Any] = {"name": "leaf", "children": []}
    for _ in range(100_000):
        deep = {"name": "a", "children": [deep]}
    assert refusal(sample.Tree, deep) == "the value is nested too deeply"


def test_surrogates_are_no_text() -> None:
    with pytest.raises(ConversionError, match="not valid UTF-8"):
        encode(str, "\ud800")
    assert "not valid UTF-8" in refusal(str, "\ud800", JSON)


def test_names_of_variants() -> None:
    assert encode(sample.Color, sample.Color.DARK_GREEN) == "dark-green"
    assert decode(sample.Color, "dark-green") is sample.Color.DARK_GREEN
    assert refusal(sample.Color, "Blue") == ('unknown variant, expected one of "Red", "dark-green"')
    with pytest.raises(ConversionError):
        encode(sample.Color, "Red")


@pytest.mark.parametrize(
    ("hint", "value", "plain"),
    [
        (sample.Shape, sample.ShapeCircle(radius=1.0), {"Circle": {"radius": 1.0}}),
        (sample.Shape, sample.ShapeSquare(value=2.0), {"Square": 2.0}),
        (sample.Shape, sample.ShapeLine(value=(0, 1)), {"Line": [0, 1]}),
        (sample.Shape, sample.ShapePoint(), "Point"),
        (sample.Event, sample.EventDeleted(id=1), {"type": "deleted", "id": 1}),
        (sample.Event, sample.EventPing(), {"type": "ping"}),
        (sample.Step, sample.StepWalk(meters=1), {"t": "walk", "c": {"meters": 1}}),
        (sample.Step, sample.StepTurn(value=90), {"t": "turn", "c": 90}),
        (sample.Step, sample.StepStay(), {"t": "stay"}),
        (sample.Key, sample.KeyById(id=1), {"id": 1}),
        (sample.Key, sample.KeyByName(name="a"), {"name": "a"}),
        (sample.Key, "a", "a"),
    ],
)
def test_enums_in_all_forms(hint: Any, value: Any, plain: Any) -> None:
    for form in Form:
        assert encode(hint, value, form) == plain
        assert decode(hint, plain, form) == value


def test_what_is_no_variant_is_refused() -> None:
    assert refusal(sample.Shape, "Circle") == 'the variant "Circle" has a content, which is missing'
    assert refusal(sample.Shape, {"Cube": 1}).startswith("unknown variant, expected one of")
    assert refusal(sample.Shape, {"Circle": 1, "Point": None}).startswith("expected the name")
    assert refusal(sample.Shape, {"Circle": {"radius": "x"}}) == (
        "Circle.radius: expected a number, found text"
    )
    assert refusal(sample.Event, {"id": 1}) == 'the field "type" is missing'
    assert refusal(sample.Event, {"type": "x"}).startswith("unknown variant")
    assert refusal(sample.Step, {"t": "walk"}) == 'the field "c" is missing'
    assert refusal(sample.Key, 1).startswith("no variant fits: ")


def test_a_unit_variant_may_have_an_empty_content() -> None:
    assert decode(sample.Shape, {"Point": None}) == sample.ShapePoint()


def test_enums_of_a_union_may_share_the_name_of_a_variant() -> None:
    @variant("Id", shape="newtype")
    class NumberId:
        value: U8

    @variant("Any")
    class NumberAny:
        pass

    @variant("Id", shape="newtype")
    class TextId:
        value: str

    globals().update(NumberId=NumberId, TextId=TextId)
    hint = NumberId | NumberAny | TextId | None
    for value, plain in [
        (NumberId(value=1), {"Id": 1}),
        (TextId(value="a"), {"Id": "a"}),
        (NumberAny(), "Any"),
        (None, None),
    ]:
        assert encode(hint, value) == plain
        assert decode(hint, plain) == value
    assert refusal(hint, {"Id": True}).startswith("no variant fits: ")


def test_errors_are_variants_too() -> None:
    plain = {"UnknownUser": {"id": "user:1"}}
    error = decode(sample.QueryError, plain)
    assert isinstance(error, sample.QueryErrorUnknownUser)
    assert error.id == "user:1"
    assert encode(sample.QueryError, error) == plain
    assert encode(sample.ParseNumberFailed, sample.ParseNumberFailed(error="x")) == "x"
    assert decode(sample.ParseNumberFailed, "x").error == "x"


def test_a_tagged_variant_with_one_value_must_be_a_map() -> None:
    @variant("number", tag="type", shape="newtype")
    class Number:
        value: U8

    globals()["Number"] = Number
    with pytest.raises(ConversionError, match="must have fields"):
        encode(Number, Number(value=1))


def test_mistakes_in_declarations_are_found() -> None:
    with pytest.raises(TypeError):
        variant("a", content="c")
    with pytest.raises(TypeError):
        variant("a", shape="newtype")(type("Empty", (), {}))
    with pytest.raises(TypeError):
        converter_of(complex, JSON)


def test_a_field_cannot_hide_the_tag_of_its_variant() -> None:
    @variant("circle", tag="type")
    class Circle:
        kind: Annotated[str, wire("type")]

    @variant("bag", tag="type", shape="newtype")
    class Bag:
        value: dict[str, U8]

    globals().update(Circle=Circle, Bag=Bag)
    for value in (Circle(kind="round"), Bag(value={"type": 1})):
        with pytest.raises(ConversionError, match='"type"'):
            encode(type(value), value)
    assert encode(Bag, Bag(value={"size": 1})) == {"type": "bag", "size": 1}
