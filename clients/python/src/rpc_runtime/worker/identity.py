"""Who a worker is."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
import uuid
from typing import Any

from .. import version

_MAX_HEADER = 1024


class Identity:
    """The identity of one `Server`. Another one has another id, also in the same process."""

    def __init__(self, name: str | None, app_id: str | None, app_version: str | None) -> None:
        self.id = str(uuid.uuid4())
        self._began = time.monotonic()
        self._known = {
            "id": self.id,
            "name": name,
            "host": socket.gethostname() or None,
            "pid": os.getpid(),
            "app_id": app_id,
            "version": app_version,
            "runtime_version": version.__version__,
        }
        # The header `rpc-worker` with the id alone.
        self.id_header = json.dumps({"id": self.id})
        # No two streams of the worker have the same number.
        self._runs = itertools.count(1)

    def describe(self) -> dict[str, Any]:
        """Describes the worker as a plain value, without what is not known."""
        uptime = int((time.monotonic() - self._began) * 1000)
        known = {name: value for name, value in self._known.items() if value is not None}
        return {**known, "uptime_ms": uptime}

    def broadcast_header(self) -> str:
        """Writes the header `rpc-worker` with the description, or the id if that is too long."""
        text = json.dumps(self.describe(), separators=(",", ":"))
        return text if len(text) <= _MAX_HEADER else self.id_header

    def next_run_header(self) -> str:
        """Writes the header `rpc-worker` of the next stream's messages.

        If a request is delivered to this worker again, its caller can tell the runs apart.
        """
        return json.dumps({"id": self.id, "run": next(self._runs)})

    def line(self) -> str:
        """Describes the worker in a line of text."""
        known = self.describe()
        name = f" {json.dumps(known['name'])}" if "name" in known else ""
        app = f" of {known['app_id']}" if "app_id" in known else ""
        app += f" {known['version']}" if "version" in known else ""
        host = f" on {known['host']}" if "host" in known else ""
        return (
            f"worker {self.id}{name}{app}{host}, process {known['pid']}, "
            f"rpc-runtime {known['runtime_version']}, up {known['uptime_ms'] // 1000}s"
        )
