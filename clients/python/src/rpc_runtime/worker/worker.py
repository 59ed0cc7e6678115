"""The base class of generated workers."""

from __future__ import annotations

import abc
from typing import ClassVar

from ..describe import Service


class Worker(abc.ABC):
    """Implements the methods of a service."""

    _service: ClassVar[Service]
