"""Who holds a lock: what people read in a timeout's message and in `holder()`."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass

MAX_PURPOSE = 60
"""Characters of a purpose that are recorded; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock exclusively, as it described itself; `since` is in seconds since the epoch."""

    node: str
    host: str
    pid: int
    since: float
    purpose: str
    token: int

    def __str__(self) -> str:
        if not self.pid:
            return "somebody who leaves no record"
        node = f" (node {self.node})" if self.node else ""
        since = f", since {max(0.0, time.time() - self.since):.0f} s" if self.since else ""
        purpose = f", for {self.purpose}" if self.purpose else ""
        return f"pid {self.pid} on {self.host}{node}{since}{purpose}"

    @classmethod
    def here(cls, node: str, token: int, since: float, purpose: str) -> Holder:
        """This process, as a holder."""
        return cls(node, host_name(), os.getpid(), since, plain(purpose), token)


def node_name(node: str = "") -> str:
    """The name under which this process appears: as given, else from LAILA_NAME, else the host's name."""
    return plain(node or os.environ.get("LAILA_NAME", "") or host_name())


def host_name() -> str:
    """This machine's or container's name."""
    return socket.gethostname()


def plain(text: str) -> str:
    """One printable line of at most MAX_PURPOSE characters: records are text that people read."""
    if len(text) <= MAX_PURPOSE and text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text[:MAX_PURPOSE])
