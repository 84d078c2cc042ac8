"""Writers and readers on shared names of a replicated store, through all nodes at once, whatever happens to these.

Every worker does one thing at a time and the controller asks for each, so it is known what a worker that dies had
begun. A write writes a value that nobody else ever writes. A worker whose node died waits until the node is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from laila.errors import LabError, LailaError
from laila.lab.checkers.registers import GOT, WRITTEN, Read, Write
from laila.lab.checks.base import Stage
from laila.lab.crew import Worker
from laila.lab.remote import Outcome
from laila.lab.topology import STORE

NAMES = ("shared-a", "shared-b", "shared-c", "shared-d")
"""Few, so that they are contended for."""
WRITES, FORGETS = 0.4, 0.04
"""Shares of all operations; the rest are reads."""
LONGEST = 40
"""A value is repeated so often at most: some kilobytes."""
PAUSE = (0.0, 0.02)
AFTER_AN_ERROR = 0.1
JOIN = 40.0
"""Seconds that a worker may take to peer with all nodes."""
HANG = 25.0
"""Seconds that an operation may last at most; longer than any pause of a node."""
UNKNOWN_OUTCOME = frozenset(
    {"QuorumLost", "DeadlineExceeded", "ClientGone", "NoAnswer", "PeerLost", "Unreachable"}
)
"""How an operation may end while nodes are being broken."""

SAVE, LOAD, FORGET = "replica_save", "replica_load", "replica_forget"


@dataclass(frozen=True, slots=True)
class Done:
    """One operation. `value` is what was written or found; for reads None is that nothing is there."""

    worker: Worker
    op: str
    name: str
    phase: str
    outcome: Outcome
    value: str | None = None
    sequence: int = 0

    @property
    def client(self) -> str:
        return self.worker.name

    @property
    def node(self) -> str:
        return self.worker.node

    @property
    def ok(self) -> bool:
        return self.outcome.ok

    def __str__(self) -> str:
        return f"{self.op.removeprefix('replica_')} of {self.name} by {self.client}: {self.outcome}"


@dataclass(slots=True)
class Forgotten:
    """A name that was saved, forgotten, and is never saved again. `sure`: that it was forgotten was acknowledged."""

    name: str
    sure: bool


@dataclass(slots=True)
class ReplicaLoad:
    """Runs from `start` to `stop`; `done` grows meanwhile."""

    stage: Stage
    done: list[Done] = field(default_factory=list)
    forgotten: list[Forgotten] = field(default_factory=list)
    phase: str = "before"
    surprises: list[str] = field(default_factory=list)
    """Errors of the lab itself."""
    _dying: set[str] = field(default_factory=set)
    _away: dict[str, threading.Event] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """All workers are peers of all nodes when this returns."""
        places = [(node, n) for node in self.stage.names for n in range(self.stage.effort.replica_workers)]
        self._away = {node: threading.Event() for node in self.stage.names}
        self.stage.each(lambda place: hand(self.stage, *place), places)
        for node, number in places:
            seed = self.stage.random.randrange(1 << 40)
            what = (node, number, random.Random(seed))  # noqa: S311  repeatable on purpose
            thread = threading.Thread(target=self._work, args=what, name=f"replicas {node} {number}")
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def expect_death(self, node: str) -> None:
        """This node will be killed, and its workers with it, in the middle of what they do."""
        self._dying.add(node)

    def leave(self, node: str) -> None:
        """It is dead: its workers wait for `back`."""
        self._away[node].set()

    def back(self, node: str) -> None:
        self._dying.discard(node)
        self._away[node].clear()

    # -- what was seen

    def count(self, phase: str, nodes: Iterable[str] | None = None) -> int:
        """Operations that went through in a phase, by workers of these nodes."""
        chosen = set(self.stage.names if nodes is None else nodes)
        return sum(done.ok and done.phase == phase and done.node in chosen for done in list(self.done))

    def errors(self, phase: str) -> Counter[str]:
        return Counter(done.outcome.error for done in list(self.done) if done.phase == phase and not done.ok)

    def acknowledged(self) -> dict[str, tuple[int, str]]:
        """Of each name that was never forgotten the newest acknowledged version: its number and value."""
        newest: dict[str, tuple[int, str]] = {}
        gone = {one.name for one in self.forgotten}
        for done in self.done:
            if done.op == SAVE and done.ok and done.name not in gone:
                newest[done.name] = max(newest.get(done.name, (0, "")), (done.sequence, str(done.value)))
        return newest

    # -- the work

    def _work(self, node: str, number: int, chance: random.Random) -> None:
        turn = 0
        while not self._over.is_set():
            if self._away[node].is_set():
                time.sleep(0.05)
                continue
            turn += 1
            try:
                worker = hand(self.stage, node, number)
                fine = self._one(worker, chance, f"{node}-{number}-{turn}")
            except LailaError as error:
                if node not in self._dying:
                    self.surprises.append(f"{node}/{number}: {error}")
                fine = False
            time.sleep(chance.uniform(*PAUSE) if fine else AFTER_AN_ERROR)

    def _one(self, worker: Worker, chance: random.Random, unique: str) -> bool:
        name, dice = chance.choice(NAMES), chance.random()
        if dice < FORGETS:
            return self._forget(worker, chance, unique)
        if dice < FORGETS + WRITES:
            return self._save(worker, name, new_value(chance, unique)).ok
        return self._ask(worker, LOAD, name).ok

    def _save(self, worker: Worker, name: str, value: str) -> Done:
        return self._ask(worker, SAVE, name, value=value)

    def _forget(self, worker: Worker, chance: random.Random, unique: str) -> bool:
        """Save under a name of one's own, and forget it."""
        name = f"gone-{unique}"
        if not self._save(worker, name, new_value(chance, unique)).ok:
            self.forgotten.append(Forgotten(name, sure=False))
            return False
        done = self._ask(worker, FORGET, name)
        self.forgotten.append(Forgotten(name, sure=done.ok))
        return done.ok

    def _ask(self, worker: Worker, op: str, name: str, **words: Any) -> Done:
        phase = self.phase
        outcome = self.stage.crew.op(worker, op, timeout=HANG, phase=phase, name=name, **words)
        value = words.get("value", outcome.result.get("value"))
        sequence = int(outcome.result.get("sequence") or 0)
        done = Done(worker, op, name, phase, outcome, value, sequence)
        self.done.append(done)
        return done


def hand(stage: Stage, node: str, number: int) -> Worker:
    """A worker beside the node that has the store open. Raises LabError when it cannot have."""
    worker = stage.crew.home(node, number)
    if not worker.joined:
        doors = {
            name: stage.driver.inside(name).peer if name == node else stage.driver.door(name, seen_from=node)
            for name in stage.names
        }
        words = {"nodes": doors, "replicas": places(stage), "patience": stage.effort.replica_timeout}
        outcome = stage.crew.op(worker, "replica_open", timeout=JOIN, phase=stage.step, **words)
        if not outcome.ok:
            raise LabError(f"the worker beside {node} cannot open the replicated store: {outcome}")
        worker.joined = True
    return worker


def places(stage: Stage) -> list[str]:
    """What a person would give to `ReplicatedStore`."""
    return [f"laila://{name}/{STORE}" for name in stage.names]


def new_value(chance: random.Random, unique: str) -> str:
    """Never twice the same. Its last part is how often it is repeated."""
    return f"{chance.getrandbits(32):08x}-{unique}-{chance.randint(1, LONGEST)}"


def records(load: ReplicaLoad) -> tuple[list[Write], list[Read]]:
    """What the judge judges: operations on the shared names, with times as sure as the clocks allow."""
    writes, reads = [], []
    for done in load.done:
        if done.name not in NAMES:
            continue
        began, ended = done.worker.span(done.outcome)
        if done.op == SAVE:
            who = (done.client, done.node, done.name, str(done.value))
            writes.append(Write(*who, began, ended if done.ok else None))
        elif done.op == LOAD and done.ok:
            reads.append(Read(done.client, done.node, done.name, done.value, began, ended))
    return writes, reads


def keep(stage: Stage, writes: Iterable[Write], reads: Iterable[Read]) -> tuple[list[Write], list[Read]]:
    """Put them into the history; the same as the history has them, so that exactly what is kept is judged."""
    kept_writes, kept_reads = [], []
    for write in writes:
        record = write.to_record(stage.history.began)
        stage.history.keep(WRITTEN, record, phase=stage.step)
        kept_writes.append(Write.from_record(record))
    for read in reads:
        record = read.to_record(stage.history.began)
        stage.history.keep(GOT, record, phase=stage.step)
        kept_reads.append(Read.from_record(record))
    return kept_writes, kept_reads
