"""What happens to a node's links, for whoever wants to log or draw it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

from .errors import LailaError
from .proxies import LinkInfo

Listener = Callable[[str, dict[str, Any]], object]


class Events:
    """`subscribe(call)`: `call(kind, fields)` runs in the I/O thread and must be quick.

    Kinds: link_up, link_lost, refused, dial_failed, crashed.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def link_up(self, info: LinkInfo) -> None:
        self._tell("link_up", info.as_dict())

    def link_lost(self, info: LinkInfo, reason: str, error: LailaError) -> None:
        """`reason` is one word, "goodbye" when the other side left in order."""
        self._tell("link_lost", {**info.as_dict(), "reason": reason, "error": error.message})

    def refused(self, address: str, reason: str, error: LailaError) -> None:
        self._tell("refused", {"address": address, "reason": reason, "error": error.message})

    def dial_failed(self, address: str, error: LailaError) -> None:
        self._tell("dial_failed", {"address": address, "kind": type(error).__name__, "error": error.message})

    def crashed(self, error: BaseException) -> None:
        """A bug: the I/O thread goes on, but nobody should miss it."""
        trace = "".join(traceback.format_exception(error))
        if not self._tell("crashed", {"error": trace}):
            sys.stderr.write(f"laila: an unexpected error in the I/O thread\n{trace}")

    def _tell(self, kind: str, fields: dict[str, Any]) -> bool:
        for listener in self._listeners:
            try:
                listener(kind, fields)
            except Exception as error:  # a listener's trouble must not become the links'
                sys.excepthook(type(error), error, error.__traceback__)
        return bool(self._listeners)
