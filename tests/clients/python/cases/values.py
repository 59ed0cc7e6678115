"""Values of every type, at their limits, which come back as they were."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable, Iterator

import conformance as api
from conformance import Color, Direction
from rpc_runtime import EncodeFailed, Executed

from .case import case
from .context import Caller, echo, ensure, fails

TEXTS = (
    "",
    "a",
    "na\u00efve \u20ac",
    "\0 in a\0text\0",
    '"quotes" \\ / \b\f\n\r\t\x1f\x7f',
    "\u2028\u2029",
    "\ufffd\uffff\ufeff",
    "\U0001d11e\U0001f980\U0010ffff",
    "e\u0301\U0001f469\u200d\U0001f52c",
)
"""Text that encoders get wrong."""


@case
async def text(caller: Caller) -> None:
    await echo(caller.client.echo_text, (*TEXTS, "\u20ac\U0001f980x" * 20_000))


@case
async def bytes_(caller: Caller) -> None:
    every = bytes(range(256))
    await echo(caller.client.echo_bytes, (b"", b"\0", b"\xff" * 300, every, every * 300))


@case
async def character(caller: Caller) -> None:
    values = ("a", "\0", '"', "\u00df", "\uffff", "\U0001d11e", "\U0010ffff")
    await echo(caller.client.echo_char, values)


@case
async def truth(caller: Caller) -> None:
    await echo(caller.client.echo_bool, (True, False))


@case
async def unit(caller: Caller) -> None:
    await caller.client.echo_unit(None)


def integers(least: int, greatest: int) -> Iterator[int]:
    """The limits of an integer's type, what lies between the forms of MessagePack, and 2^53."""
    yield from (least, 0, 1, greatest)
    for bits in (7, 8, 15, 16, 31, 32, 53, 63, 64, 100, 126, 127):
        for near in (2**bits - 1, 2**bits, 2**bits + 1, 33, 32):
            for value in (near, -near):
                if least <= value <= greatest:
                    yield value


async def _signed(method: Callable[[int], Awaitable[int]], bits: int) -> None:
    await echo(method, dict.fromkeys(integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)))


async def _unsigned(method: Callable[[int], Awaitable[int]], bits: int) -> None:
    await echo(method, dict.fromkeys(integers(0, 2**bits - 1)))


@case
async def i8(caller: Caller) -> None:
    await _signed(caller.client.echo_i8, 8)


@case
async def i16(caller: Caller) -> None:
    await _signed(caller.client.echo_i16, 16)


@case
async def i32(caller: Caller) -> None:
    await _signed(caller.client.echo_i32, 32)


@case
async def i64(caller: Caller) -> None:
    await _signed(caller.client.echo_i64, 64)


@case
async def i128(caller: Caller) -> None:
    await _signed(caller.client.echo_i128, 128)


@case
async def u8(caller: Caller) -> None:
    await _unsigned(caller.client.echo_u8, 8)


@case
async def u16(caller: Caller) -> None:
    await _unsigned(caller.client.echo_u16, 16)


@case
async def u32(caller: Caller) -> None:
    await _unsigned(caller.client.echo_u32, 32)


@case
async def u64(caller: Caller) -> None:
    await _unsigned(caller.client.echo_u64, 64)


@case
async def u128(caller: Caller) -> None:
    await _unsigned(caller.client.echo_u128, 128)


async def _floats(method: Callable[[float], Awaitable[float]], values: tuple[float, ...]) -> None:
    for value in values:
        back = await method(value)
        ensure(struct.pack("d", back) == struct.pack("d", value), value, "came back as", back)


def single(bits: int) -> float:
    """The float of 32 bits."""
    value: float = struct.unpack("f", struct.pack("I", bits))[0]
    return value


@case
async def f32(caller: Caller) -> None:
    tenth, greatest = single(0x3DCCCCCD), single(0x7F7FFFFF)
    limits = (greatest, -greatest, single(0x00800000), single(1), 2.0**-23)
    await _floats(caller.client.echo_f32, (0.0, -0.0, 1.0, -1.5, tenth, 16777216.0, *limits))


@case
async def f64(caller: Caller) -> None:
    greatest = 1.7976931348623157e308
    limits = (greatest, -greatest, 2.2250738585072014e-308, 5e-324, 2.0**-52)
    others = (0.1, 1 / 3, 1e21, 1e-7, 9_007_199_254_740_993.0, 1e300)
    await _floats(caller.client.echo_f64, (0.0, -0.0, 1.0, -1.5, *others, *limits))


@case
async def not_finite_numbers(caller: Caller) -> None:
    for value in (math.inf, -math.inf, math.nan):
        for method in (caller.client.echo_f64, caller.client.echo_f32):
            if caller.is_json:
                error = await fails(method(value), EncodeFailed)
                ensure(error.executed is Executed.NO)
                continue
            back = await method(value)
            ensure(back == value or (math.isnan(back) and math.isnan(value)), value, back)


@case
async def numbers(caller: Caller) -> None:
    greatest = api.Numbers(
        i8=2**7 - 1,
        i16=2**15 - 1,
        i32=2**31 - 1,
        i64=2**63 - 1,
        i128=2**127 - 1,
        u8=2**8 - 1,
        u16=2**16 - 1,
        u32=2**32 - 1,
        u64=2**64 - 1,
        u128=2**128 - 1,
        f32=single(0x7F7FFFFF),
        f64=1.7976931348623157e308,
    )
    least = api.Numbers(
        i8=-(2**7),
        i16=-(2**15),
        i32=-(2**31),
        i64=-(2**63),
        i128=-(2**127),
        u8=0,
        u16=0,
        u32=0,
        u64=0,
        u128=0,
        f32=-single(0x7F7FFFFF),
        f64=-1.7976931348623157e308,
    )
    await echo(caller.client.echo_numbers, (greatest, least))


@case
async def containers(caller: Caller) -> None:
    full = api.Containers(
        maybe=2**32 - 1,
        lists=[[], ["a", ""]],
        holes=[None, True, None, False],
        tuple_=(255, "\U0001f980", True),
        array=[-(2**15), 0, 2**15 - 1],
        by_name={"": 0, "__proto__": 2**64 - 1},
        by_number={0: [], 2**32 - 1: ["max"]},
        by_signed={-(2**63): True, -1: False, 2**63 - 1: True},
        bytes_=list(range(256)),
        character="\U0001d11e",
        nothing=None,
    )
    empty = api.Containers(
        lists=[],
        holes=[],
        tuple_=(0, "", None),
        array=[0, 0, 0],
        by_name={},
        by_number={},
        by_signed={},
        bytes_=[],
        character=" ",
        nothing=None,
    )
    await echo(caller.client.echo_containers, (full, empty))


def person_named(name: str, inviting: api.Person | None = None) -> api.Person:
    """A person with everything, who was invited by one with only what is necessary."""
    return api.Person(
        id=1,
        full_name=name,
        born_on="2000-02-29",
        home=api.Address(street="Stra\u00dfe 2", zip_code="01234", class_="first"),
        invited_by=inviting or stranger(),
        favourite=Color.DARK_BLUE,
        nick_names=["al", "\U0001f980"],
    )


def stranger() -> api.Person:
    """A person whose optional values have their defaults, as every worker answers them."""
    return api.Person(
        id=2**64 - 1,
        full_name="",
        born_on="1969-12-31",
        home=api.Address(street="Road 1"),
        favourite=Color.RED,
        nick_names=[],
    )


@case
async def person(caller: Caller) -> None:
    last = person_named("0")
    for number in range(1, 10):
        last = person_named(str(number), last)
    await echo(caller.client.echo_person, (person_named("Alice"), last))
    # Values that are left out may stay so, or become their defaults.
    bare = api.Person(id=1, full_name="", born_on="", home=api.Address(street=""))
    back = await caller.client.echo_person(bare)
    ensure(back.favourite in (Color.RED, bare.favourite), back)
    ensure(back.nick_names in ([], bare.nick_names), back)


@case
async def page(caller: Caller) -> None:
    people = [person_named("Alice"), person_named("Bob")]
    pages = (api.Page(items=[]), api.Page(items=people, next=2**64 - 1))
    await echo(caller.client.echo_page, pages)


@case
async def tree(caller: Caller) -> None:
    wide = api.Tree(value=0, children=[api.Tree(value=n, children=[]) for n in range(1000)])
    deep = api.Tree(value=-(2**63), children=[])
    for value in range(40):
        deep = api.Tree(value=value, children=[deep])
    leaf = api.Tree(value=2**63 - 1, children=[])
    await echo(caller.client.echo_tree, (leaf, wide, deep))


@case
async def user_id(caller: Caller) -> None:
    await echo(caller.client.echo_user_id, (0, 2**64 - 1))


@case
async def pair(caller: Caller) -> None:
    await echo(caller.client.echo_pair, ((0, ""), (255, "b")))


@case
async def marker(caller: Caller) -> None:
    await caller.client.echo_marker(None)


@case
async def color(caller: Caller) -> None:
    await echo(caller.client.echo_color, Color)


@case
async def direction(caller: Caller) -> None:
    await echo(caller.client.echo_direction, Direction)


def shapes() -> list[api.Shape]:
    """One shape of each kind."""
    return [
        api.ShapeNothing(),
        api.ShapeCircle(value=0.1),
        api.ShapeOwned(value=person_named("Alice")),
        api.ShapeLine(value=((0.0, 1.0), (-1.0, 1e300))),
        api.ShapeRectangle(width=1.0, height=-0.5),
        api.ShapeRectangle(width=1.0, height=-0.5, fill=Color.GREEN),
        api.ShapeGroup(value=[]),
        api.ShapeGroup(
            value=[api.ShapeNothing(), api.ShapeGroup(value=[api.ShapeCircle(value=2.0)])]
        ),
    ]


@case
async def shape(caller: Caller) -> None:
    await echo(caller.client.echo_shape, shapes())


@case
async def event(caller: Caller) -> None:
    events: list[api.Event] = [
        api.EventStarted(),
        api.EventJoined(street="Road 1"),
        api.EventJoined(street="Road 1", zip_code="1", class_="1"),
        api.EventMoved(x=-(2**31), y=2**31 - 1),
    ]
    await echo(caller.client.echo_event, events)


@case
async def command(caller: Caller) -> None:
    commands: list[api.Command] = [
        api.CommandStop(),
        api.CommandWait(value=2**64 - 1),
        api.CommandGo(value=(-(2**31), 2**31 - 1)),
        api.CommandSay(text="hello"),
        api.CommandSay(text="hello", times=255),
    ]
    await echo(caller.client.echo_command, commands)


@case
async def scalar(caller: Caller) -> None:
    scalars: list[api.Scalar] = [
        -(2**63),
        0,
        2**63 - 1,
        "",
        "7",
        (True, "b"),
        api.ScalarName(name="n"),
        None,
    ]
    await echo(caller.client.echo_scalar, scalars)


@case
async def option(caller: Caller) -> None:
    await echo(caller.client.echo_option, (None, 0, 2**64 - 1))


@case
async def list_(caller: Caller) -> None:
    values: list[list[int]] = [[], [-(2**63), 0, 2**63 - 1], list(range(5000))]
    await echo(caller.client.echo_list, values)


@case
async def tuple_(caller: Caller) -> None:
    await echo(caller.client.echo_tuple, ((0, ""), (2**64 - 1, "b")))


@case
async def map_(caller: Caller) -> None:
    names = (*TEXTS, "__proto__", "constructor", "1", "-0")
    await echo(caller.client.echo_map, ({}, dict.fromkeys(names, 2**64 - 1)))


@case
async def numbered(caller: Caller) -> None:
    keys = (0, 1, 127, 128, 2**53 + 1, 2**64 - 1)
    await echo(caller.client.echo_numbered, ({}, {key: str(key) for key in keys}))
