"""What a step of a check works with: the stage (nodes, clients, eyes, history) and the ways in which it can
end.

A step returns what it saw, in a sentence with numbers. It raises CheckFailed when the nodes did something
wrong; any other error means that nothing could be judged. Every operation goes through `Stage.op`, so it is
in the history.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from laila.errors import LabError
from laila.lab.crew import Crew
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.history import History
from laila.lab.progress import Progress
from laila.lab.remote import Outcome, RemoteClient
from laila.lab.topology import Topology, VolumeSpec
from laila.lab.watch import Watch

T = TypeVar("T")
R = TypeVar("R")


class CheckFailed(Exception):
    """The nodes did something that they must never do. `evidence` is one line for each finding."""

    def __init__(self, message: str, evidence: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.evidence = tuple(evidence)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a check does. Sizes are bytes, times seconds."""

    small: int = 20
    array_bytes: int = 64 << 20
    workers: int = 4
    load_for: float = 2.0
    """How long the load runs undisturbed before a node is killed, and again after it is back."""
    least_writes: int = 50
    """Durable writes that must have been acknowledged before the kill; with fewer there is no verdict."""
    least_after: int = 20
    ready_within: float = 60.0
    heal_within: float = 30.0
    op_timeout: float = 10.0
    array_timeout: float = 60.0
    stranger_stays: float = 2.0
    volume_for: float = 4.0
    """Seconds for all that the check of the volume repeats."""
    lock_for: float = 2.0
    """How long the clients contend for one lock; again, a few times, while too little was seen."""
    lock_clients: int = 2
    """Of these on each node."""
    least_holds: int = 20
    """Exclusive holds on each node that a verdict needs."""
    least_contended: int = 10
    """Holds on each node for which a client on another node had to let go first."""
    pass_within: float = 10.0
    """From the death of a holder until another one holds the lock."""
    registrations: int = 15
    """Of each client."""
    fresh_for: float = 2.0
    """How long writers publish and readers load, all at once."""
    least_reads: int = 20
    """On each node."""
    writers_killed: int = 30
    replica_workers: int = 2
    """Beside each node, one operation at a time each."""
    replica_for: float = 2.0
    """How long they work before the first fault, and again after the last one."""
    replica_timeout: float = 5.0
    """What one operation on the replicated store may take."""
    fault_for: float = 1.5
    """How long a node stays broken at least."""
    least_replica_ops: int = 30
    """Operations that must go through before, during and after each fault."""
    converge_within: float = 10.0
    """From the end of all work to equal replicas, without anybody's help."""
    repair_within: float = 4.0
    """What damaged replicas get to become good by themselves, before a scrub is asked for."""
    file_timeout: float = 30.0


SHARED = Effort(array_bytes=16 << 20)
"""For a volume of one machine: peering is checked with larger arrays where it is all that is checked."""
NETWORKED = Effort(
    volume_for=6.0,
    lock_for=5.0,
    least_holds=8,
    least_contended=5,
    pass_within=60.0,
    registrations=4,
    fresh_for=5.0,
    least_reads=10,
    writers_killed=12,
    file_timeout=120.0,
    op_timeout=30.0,
    heal_within=90.0,
    ready_within=120.0,
)
"""For volumes on which every operation travels: less of it, and more patience."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table. After a vital one fails, the others are skipped, but for those that `always` run."""

    key: str
    title: str
    run: Callable[[Stage], str]
    vital: bool = False
    always: bool = False


class CannotHere(Exception):
    """This step needs something that this machine or driver does not have: it is skipped, and says why."""


class Stage:
    """Everything that one check has."""

    def __init__(
        self, driver: Driver, history: History, progress: Progress, *, seed: int, effort: Effort | None = None
    ) -> None:
        self.driver = driver
        self.topology: Topology = driver.topology
        self.history = history
        self.progress = progress
        self.effort = effort or Effort()
        self.random = random.Random(seed)  # noqa: S311  repeatable on purpose
        self.watch = Watch(self.topology.names, history)
        self.clients: dict[str, RemoteClient] = {}
        self.step = ""
        self.facts: dict[str, Any] = {}
        """What one step leaves for later ones and for the report."""
        self._crew: Crew | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.topology.names

    @property
    def volume(self) -> VolumeSpec:
        """The volume that all nodes share. Raises LabError when there is none."""
        if (found := shared_by_all(self.topology)) is None:
            raise LabError(f"the nodes of {self.topology.name!r} share no volume")
        return found

    @property
    def small(self) -> VolumeSpec | None:
        """A volume with a size limit that every node mounts."""
        return next((v for v in self.topology.volumes if v.size_mib and self._everybody(v)), None)

    @property
    def read_only(self) -> VolumeSpec | None:
        """The shared volume once more, where nobody may write."""
        volumes, name = self.topology.volumes, self.volume.name
        return next((v for v in volumes if v.read_only_of == name and self._everybody(v)), None)

    def _everybody(self, volume: VolumeSpec) -> bool:
        return all(volume.mounted_by(name) for name in self.names)

    @property
    def crew(self) -> Crew:
        """The workers beside the nodes."""
        if self._crew is None:
            shared = shared_by_all(self.topology)
            self._crew = Crew(self.driver, self.history, "" if shared is None else shared.name)
        return self._crew

    def need_safe(self) -> None:
        """Stores refuse to work on a volume that is known to be UNSAFE: raises CannotHere there."""
        if "unsafe" in self.facts:
            raise CannotHere("the volume is UNSAFE, and stores refuse to work on it")

    def tell(self, text: str) -> None:
        self.progress.tell(self.step, text)

    def op(
        self, client: str, op: str, *, at: str = "", timeout: float = 0.0, phase: str = "", **words: Any
    ) -> Outcome:
        """One operation by the client beside `client` on the memory of node `at` (empty: its own)."""
        target = {"at": at} if at and at != client else {}
        outcome = self.clients[client].call(op, timeout=timeout or self.effort.op_timeout, **target, **words)
        brief = {key: words[key] for key in ("pool",) if key in words}
        count = len(words.get("ids") or words.get("entries") or ())
        self.history.op(
            op, outcome, client=client, at=at or client, phase=phase or self.step, count=count, **brief
        )
        return outcome

    def must(
        self, client: str, op: str, *, at: str = "", timeout: float = 0.0, **words: Any
    ) -> dict[str, Any]:
        """The result of an operation that the nodes have no excuse to fail."""
        outcome = self.op(client, op, at=at, timeout=timeout, **words)
        if not outcome.ok:
            self.fail(f"{op} by {client} on {at or client} failed: {outcome}")
        return outcome.result

    def fail(self, message: str, evidence: Sequence[str] = ()) -> NoReturn:
        raise CheckFailed(message, evidence)

    def join(self, name: str) -> RemoteClient:
        """A client beside a node that was just started, once it is connected. Raises LabError with the
        node's last words.
        """
        client = RemoteClient(self.driver, name, wait=self.effort.ready_within)
        answers: list[Outcome] = []
        asking = threading.Thread(
            target=lambda: answers.append(client.call("hello", timeout=self.effort.ready_within + 5)),
            daemon=True,
        )
        asking.start()
        while asking.is_alive():
            asking.join(0.25)
            if asking.is_alive() and self.driver.state(name) is not NodeState.RUNNING:
                client.close(0.1)
                raise LabError(f"{name} ended right after its start: {self.last_words(name)}")
        if not answers or not answers[0].ok:
            complaint = client.complaints() or f" ({answers[0]})"
            client.close(0.1)
            words = self.last_words(name)
            raise LabError(f"the client beside {name} did not get through{complaint}; {name} says: {words}")
        self.clients[name] = client
        return client

    def leave(self, name: str) -> None:
        """End the client beside a node, and its workers."""
        self.watch.unfollow(name)
        if self._crew is not None:
            self._crew.leave(name)
        if (client := self.clients.pop(name, None)) is not None:
            client.close()

    def last_words(self, name: str) -> str:
        lines = self.driver.logs(name).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def each(self, work: Callable[[T], R], names: Sequence[T]) -> list[R]:
        """Do it for all of them side by side; the first error is raised after all have ended."""
        pool = ThreadPoolExecutor(max_workers=len(names))
        try:
            futures = [pool.submit(work, name) for name in names]
            wait_for_futures(futures)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt must not wait for slow nodes
        return [future.result() for future in futures]

    def close(self) -> None:
        """End clients and eyes; nodes stay."""
        for name in list(self.clients):
            self.leave(name)
        if self._crew is not None:
            self._crew.close()
        self.watch.close()


def shared_by_all(topology: Topology) -> VolumeSpec | None:
    """The first volume without a size limit that every node mounts."""
    plain = [v for v in topology.volumes if not v.size_mib and not v.read_only_of]
    return next((v for v in plain if all(v.mounted_by(name) for name in topology.names)), None)
