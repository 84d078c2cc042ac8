"""The workers of a check: programs beside the nodes that work on the shared volume, or on replicas, by node and number.

They are started when first asked for, share the fate of their node, and can be killed one by one. All that they do
goes through `Crew.op`, so it is in the history, and their clocks are read with every answer.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from laila.errors import LabError
from laila.lab.clocks import Moment, NodeClock
from laila.lab.drivers.base import Driver
from laila.lab.history import History
from laila.lab.remote import Outcome, RemoteClient


@dataclass(slots=True)
class Worker:
    """One of them. `name` is `node/number`, on another volume than the shared one `node/volume/number`, on the node's
    own state directory `node/home/number`."""

    name: str
    node: str
    pid: int
    client: RemoteClient
    clock: NodeClock
    joined: bool = False
    """Whether it has the replicated store open."""

    def moment(self, told: float) -> Moment:
        """A time that it told, on the controller's clock."""
        return self.clock.moment(told)

    def span(self, outcome: Outcome) -> tuple[Moment, Moment]:
        """When it began and ended what it was asked to do."""
        if len(outcome.clock) == 2:
            return self.moment(outcome.clock[0]), self.moment(outcome.clock[1])
        return Moment(outcome.started, outcome.ended), Moment(outcome.started, outcome.ended)


class Crew:
    """Safe under threads, as long as each worker is asked by one thread at a time."""

    def __init__(self, driver: Driver, history: History, volume: str) -> None:
        self.driver = driver
        self.history = history
        self.volume = volume
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def of(self, node: str, number: int = 0) -> Worker:
        """The worker of that number beside the node, started if need be. Raises LabError when it cannot be."""
        return self._named(f"{node}/{number}", node, self.driver.volume_path(node, self.volume))

    def at(self, node: str, number: int, volume: str) -> Worker:
        """The same on another volume."""
        return self._named(f"{node}/{volume}/{number}", node, self.driver.volume_path(node, volume))

    def home(self, node: str, number: int = 0) -> Worker:
        """The same on the node's own state directory."""
        return self._named(f"{node}/home/{number}", node, self.driver.state_path(node))

    def _named(self, name: str, node: str, place: str) -> Worker:
        with self._lock:
            worker = self._workers.get(name)
        if worker is not None and worker.client.gone:
            self._close([name])
            worker = None
        if worker is None:
            worker = self._start(name, node, place)
            with self._lock:
                self._workers[name] = worker
        return worker

    def _start(self, name: str, node: str, place: str) -> Worker:
        argv = ["laila", "lab", "worker", "--volume", place]
        client = RemoteClient(self.driver, node, argv=argv)
        hello = client.call("hello", timeout=60)
        if not hello.ok:
            complaint = client.complaints() or f" ({hello})"
            client.close(0.1)
            raise LabError(f"the worker beside {node} did not start{complaint}")
        clock = NodeClock(node, str(hello.result["boot_id"]))
        worker = Worker(name, node, int(hello.result["pid"]), client, clock)
        self._read_clock(worker, hello)
        return worker

    def op(self, worker: Worker, op: str, *, timeout: float = 10.0, phase: str = "", **words: Any) -> Outcome:
        """One operation, into the history."""
        outcome = worker.client.call(op, timeout=timeout, **words)
        self._read_clock(worker, outcome)
        brief = {key: words[key] for key in ("name", "path") if key in words}
        self.history.op(op, outcome, client=worker.name, at=worker.node, phase=phase, **brief)
        return outcome

    def dismiss(self, *workers: Worker) -> None:
        """End workers that are not needed any more, or forget some that were killed."""
        self._close([worker.name for worker in workers])

    def leave(self, node: str) -> None:
        """End the workers of a node, or forget those of one that died."""
        with self._lock:
            names = [name for name, worker in self._workers.items() if worker.node == node]
        self._close(names)

    def clocks(self) -> list[NodeClock]:
        """One of each node."""
        with self._lock:
            workers = list(self._workers.values())
        return list({worker.node: worker.clock for worker in workers}.values())

    def close(self) -> None:
        self._close(list(self._workers))

    def _close(self, names: list[str]) -> None:
        for name in names:
            with self._lock:
                worker = self._workers.pop(name, None)
            if worker is not None:
                worker.client.close()

    def _read_clock(self, worker: Worker, outcome: Outcome) -> None:
        if len(worker.clock.readings) < 64:
            worker.clock.add(outcome.started, outcome.clock, outcome.ended)
