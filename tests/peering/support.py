"""Nodes for tests: several in this process, or one in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy, DefaultPool, DefaultTCPIPProtocol

SECRET = "4f1c9a7e0b2d4c8f9e3a6b5d7c1f0e2a"  # noqa: S105  of nodes that live for seconds
OTHER_SECRET = "a2e0f1c7d5b6a3e9f8c4d2b0e7a9c1f4"  # noqa: S105  as above
FAST = Limits(
    ping_interval=0.2, dead_after=0.8, connect_timeout=3.0, reconnect_first=0.05, reconnect_most=0.3
)

CHILD = """
import sys
from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy, DefaultPool, DefaultTCPIPProtocol
from laila.pools import SqlitePool
secret, port, state, durable = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
limits = Limits(ping_interval=0.2, dead_after=0.8, reconnect_first=0.05, reconnect_most=0.3)
policy = DefaultPolicy(name="child", identity_dir=state or None, limits=limits)
policy.memory.extend(DefaultPool(), "store")
if durable:
    policy.memory.extend(SqlitePool(durable), "durable")
protocol = policy.communication.add_connection(DefaultTCPIPProtocol(port=port, peer_secret_key=secret))
print(protocol.port, flush=True)
sys.stdin.read()
policy.close()
"""


@contextmanager
def node(
    name: str = "", secret: str = SECRET, limits: Limits = FAST, host: str = "127.0.0.1", **protocol: object
) -> Iterator[tuple[DefaultPolicy, DefaultTCPIPProtocol]]:
    """A listening node in this process with a pool "store"."""
    with DefaultPolicy(name=name, limits=limits) as policy:
        policy.memory.extend(DefaultPool(), "store")
        connection = DefaultTCPIPProtocol(host=host, peer_secret_key=secret, **protocol)  # type: ignore[arg-type]
        policy.communication.add_connection(connection)
        yield policy, connection


@contextmanager
def child(
    secret: str = SECRET, port: int = 0, state: str = "", durable: str = ""
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node in a process of its own: the process and its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, secret, str(port), state, durable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], object], seconds: float = 10.0, what: str = "") -> None:
    """Wait for a condition; fails the test when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)
