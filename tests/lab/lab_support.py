"""What the lab's tests need more than once: small efforts, registered runs, a channel whose other end is the test."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from laila.errors import LabError
from laila.lab.checks import MAIN_JOB, Effort, Step
from laila.lab.drivers import Choice
from laila.lab.drivers.base import Channel
from laila.lab.folder import Folder
from laila.lab.progress import Quiet
from laila.lab.result import Result
from laila.lab.runner import Order, check
from laila.lab.topology import PoolSpec, Topology, replicated

QUICK = Effort(
    small=3,
    array_bytes=1 << 20,
    load_for=0.8,
    least_writes=20,
    least_after=10,
    ready_within=30.0,
    stranger_stays=0.3,
)
FORGETFUL = (PoolSpec("scratch", "memory"), PoolSpec("durable", "memory"))
"""A node that calls a pool durable and keeps it in memory."""


def run_check(topology: Topology, driver: str, out: Path, **changes: object) -> tuple[Result, Folder]:
    """A small check in this process."""
    order = Order(topology, Choice(driver, "a test"), seed=7, command="a test", out=str(out), effort=QUICK)
    return check(replace(order, **changes), Quiet())  # type: ignore[arg-type]  # fields of Order


def only(*keys: str) -> tuple[Step, ...]:
    """Nodes that see each other, and then these steps of the main job."""
    return tuple(step for step in MAIN_JOB if step.key in ("start", "links", *keys))


def states(result: Result) -> dict[str, str]:
    return {step.key: step.state for step in result.steps}


def evidence(result: Result, key: str) -> str:
    """What a step said, all of it."""
    return next("\n".join((step.detail, *step.evidence)) for step in result.steps if step.key == key)


def with_pools(topology: Topology, pools: tuple[PoolSpec, ...]) -> Topology:
    return replace(topology, nodes=tuple(replace(node, pools=pools) for node in topology.nodes))


def with_node(topology: Topology, name: str, **changes: object) -> Topology:
    """The topology with one node changed."""
    nodes = tuple(replace(n, **changes) if n.name == name else n for n in topology.nodes)  # type: ignore[arg-type]  # fields of NodeSpec
    return replace(topology, nodes=nodes)


def forgetful() -> Topology:
    return with_pools(replicated(), FORGETFUL)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "laila.cli.main", "lab", *words]


def lab(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `laila lab …` as a person does."""
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=timeout, check=False)


def interrupted(words: Sequence[str], when: Callable[[str], bool], number: signal.Signals) -> tuple[int, str]:
    """Start `laila lab …`, send a signal as soon as a line of its output says so; exit code and output."""
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if when(line):
                process.send_signal(number)
                break
        rest, _ = process.communicate(timeout=90)
        return process.returncode, "".join(lines) + rest


def processes_of(run_id: str) -> list[int]:
    from laila.lab.procid import marked

    return [pid for pid in marked(run_id) if pid != os.getpid()]


def until(done: Callable[[], object], what: str, timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.02)


class TestedEnd(Channel):
    """A channel: what is sent to it lies in `sent`, what it says is put into `says` (None ends it)."""

    __test__ = False  # not a test class, though its name begins like one

    def __init__(self) -> None:
        self.sent: queue.Queue[bytes] = queue.Queue()
        self.says: queue.Queue[bytes | None] = queue.Queue()
        self.closed = False

    def send(self, line: bytes) -> None:
        if self.closed:
            raise LabError("the program beside the node is gone")
        self.sent.put(line)

    def lines(self) -> Iterator[bytes]:
        while (line := self.says.get()) is not None:
            yield line

    def stderr(self) -> str:
        return "first\nlast words\n"

    def close(self, timeout: float = 5.0) -> int | None:
        self.closed = True
        self.says.put(None)
        return 0
