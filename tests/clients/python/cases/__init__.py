"""The cases, which callers in all languages run. Those in Rust describe them."""

from . import errors, requests, streams, values
from .case import CASES, Case
from .context import Caller

__all__ = ["CASES", "Caller", "Case", "errors", "requests", "streams", "values"]
