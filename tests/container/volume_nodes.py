"""Three nodes on a shared volume, and links to their hands: what tests of volumes in containers stand on."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from lab_support import until

from laila.errors import BadValue, DeadlineExceeded, Denied, LailaError, PeerLost, RemoteError, StorageError
from laila.lab import drivers, registry
from laila.lab.drivers.base import Driver, NodeState, Output
from laila.lab.procid import ProcessId
from laila.lab.topology import shared_volume
from laila.volumes import check
from laila.volumes.nodes import PROBE, NodeLink
from laila.volumes.verdict import Verdict

VOLUME = "shared"
START = 90.0
"""Seconds in which a node must be healthy; most of it is for machines that do much else."""


class DriverNode(NodeLink):
    """A node of a run, by the stdio agent that the driver starts beside it."""

    def __init__(self, driver: Driver, name: str) -> None:
        self.name = name
        self.path = driver.volume_path(name, VOLUME)
        self._number = 0
        self._channel = driver.open(name, PROBE)
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"answers of {name}", daemon=True)
        self._reader.start()

    def ask(self, step: dict[str, Any], timeout: float) -> dict[str, Any]:
        self._number += 1
        self._channel.send(json.dumps({"id": self._number, "step": step}).encode())
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise DeadlineExceeded(f"{self.name} did not answer {step} within {timeout:g} s") from None
            if line is None:
                self._answers.put(None)
                raise PeerLost(f"the agent beside {self.name} is gone: {self._channel.stderr()}")
            answer = json.loads(line)
            if answer["id"] != self._number:
                continue  # the late answer to a step that was given up
            if answer["ok"]:
                return dict(answer["answer"])
            raise _error(answer["error"])

    def close(self) -> None:
        self._channel.close()
        self._reader.join(10)

    def _read(self) -> None:
        for line in self._channel.lines():
            self._answers.put(line)
        self._answers.put(None)


def _error(said: dict[str, Any]) -> LailaError:
    kind, message = said["kind"], said["message"]
    if kind == "StorageError":
        return StorageError(message, reason=said.get("reason", ""))
    known: dict[str, type[LailaError]] = {"BadValue": BadValue, "Denied": Denied}
    return known[kind](message) if kind in known else RemoteError(f"{kind}: {message}", kind=kind)


class Cluster:
    """A running lab of `shared-volume`."""

    def __init__(self, driver: Driver, kind: str) -> None:
        self.driver, self.kind, self.names = driver, kind, driver.topology.names
        self.path = driver.volume_path(self.names[0], VOLUME)

    def start(self, *names: str) -> None:
        """Start them at once, and wait until each is healthy."""
        for name in names:
            self.driver.start(name)
        for name in names:
            until(lambda name=name: self._healthy(name), f"{name} to be healthy", START)

    def _healthy(self, name: str) -> bool:
        state = self.driver.state(name)
        log = self.driver.logs(name).decode("utf-8", "replace")
        assert state is NodeState.RUNNING, f"{name} is {state.value}; it wrote: {log[-2000:]}"
        return self.driver.exec(name, ["laila", "health"]).code == 0

    def shell(self, name: str, command: str, timeout: float = 60) -> Output:
        return self.driver.exec(name, ["sh", "-c", command], timeout=timeout)

    def check(self, seconds: float, names: Sequence[str] = ()) -> Verdict:
        """`laila volume check`, by agents beside these nodes."""
        with ExitStack() as links:
            nodes = [links.enter_context(DriverNode(self.driver, name)) for name in names or self.names]
            return check.run(self.path, nodes, seconds=seconds)


@contextmanager
def cluster(kind: str) -> Iterator[Cluster]:
    """Three healthy nodes on a volume of this kind; nothing of them is left afterwards."""
    shape = shared_volume(3, kind=kind)
    controller = ProcessId.of(os.getpid())
    run = registry.Run(registry.new_run_id(), "docker", shape.to_dict(), "check", controller)
    run.save()
    driver = drivers.make(run, shape)
    try:
        driver.prepare()
        made = Cluster(driver, kind)
        made.start(*made.names)
        yield made
    finally:
        left = driver.remove()
        driver.close()
        run.forget()
    assert left == []
