"""How Python types look on the wire: conversion between typed and plain values.

A plain value is what MessagePack and JSON hold: `None`, booleans, numbers, text, bytes, lists and
dictionaries. The types follow serde's data model.
"""

from .compile import converter_of
from .conversion import ConversionError, Converter, Form
from .declarations import record, transparent, variant
from .markers import (
    F32,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    UNSET,
    Char,
    Unset,
    wire,
)

__all__ = [
    "F32",
    "I8",
    "I16",
    "I32",
    "I64",
    "I128",
    "U8",
    "U16",
    "U32",
    "U64",
    "U128",
    "UNSET",
    "Char",
    "ConversionError",
    "Converter",
    "Form",
    "Unset",
    "converter_of",
    "record",
    "transparent",
    "variant",
    "wire",
]
