"""A steady load of unique durable writes and of reads, whose every outcome is kept for judging.

Workers sit beside the surviving nodes and work on the victim's durable pool through their own node; one
more per survivor works on another survivor, which must not notice anything. An entry is written once, so
whatever is read under its id is either the written value or wrong.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

from laila.lab.checks.base import Stage
from laila.lab.remote import Outcome


@dataclass(frozen=True, slots=True)
class Done:
    """One operation of the load. For a write `seed` makes the value again; `prints` is what was expected
    and what was got.
    """

    client: str
    at: str
    op: str
    seed: int
    outcome: Outcome
    entry_id: str = ""
    expected: str = ""
    got: str = ""

    @property
    def wrong_value(self) -> bool:
        return self.op == "remember" and self.outcome.ok and self.expected != self.got

    def __str__(self) -> str:
        return f"{self.op} by {self.client} on {self.at}, {self.outcome.seconds:.2f} s: {self.outcome}"


@dataclass(slots=True)
class Load:
    """Runs from `start` to `stop`; `done` grows meanwhile."""

    stage: Stage
    victim: str
    pool: str
    done: list[Done] = field(default_factory=list)
    acknowledged: dict[str, tuple[str, int]] = field(default_factory=dict)
    """id → (fingerprint, seed) of writes on the victim that were acknowledged."""
    phase: str = "before"
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        survivors = [name for name in self.stage.names if name != self.victim]
        for number, name in enumerate(survivors):
            targets = [self.victim] * self.stage.effort.workers
            if len(survivors) > 1:
                targets.append(survivors[(number + 1) % len(survivors)])
            for turn, target in enumerate(targets):
                thread = threading.Thread(
                    target=self._work, args=(name, target, turn), name=f"load {name} {turn}"
                )
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: str, target: str, worker: int) -> None:
        """One write, then one read of something that was acknowledged before, again and again."""
        chance = random.Random(f"{client} {worker}")  # noqa: S311  repeatable on purpose
        mine: list[tuple[str, str, int]] = []
        number = 0
        while not self._over.is_set():
            seed = chance.randrange(1 << 48)
            written = self._write(client, target, f"load-{client}-{worker}-{number}", seed)
            if written.outcome.ok:
                mine.append((written.entry_id, written.expected, seed))
            read = self._read(client, target, chance.choice(mine)) if mine else written
            number += 1
            if not (written.outcome.ok and read.outcome.ok):
                time.sleep(0.05)  # its node is down: ask again, but do not burn the machine

    def _write(self, client: str, target: str, nickname: str, seed: int) -> Done:
        entries = [{"nickname": nickname, "value": {"kind": "small", "seed": seed}}]
        outcome = self.stage.op(
            client, "memorize", at=target, entries=entries, pool=self.pool, phase=self.phase
        )
        entry_id, expected = (
            (outcome.result["ids"][0], outcome.result["prints"][0]) if outcome.ok else ("", "")
        )
        done = Done(client, target, "memorize", seed, outcome, entry_id, expected)
        self.done.append(done)
        if outcome.ok and target == self.victim:
            self.acknowledged[entry_id] = (expected, seed)
        return done

    def _read(self, client: str, target: str, known: tuple[str, str, int]) -> Done:
        entry_id, expected, seed = known
        outcome = self.stage.op(
            client, "remember", at=target, ids=[entry_id], pool=self.pool, phase=self.phase
        )
        got = outcome.result["prints"][0] if outcome.ok else ""
        done = Done(client, target, "remember", seed, outcome, entry_id, expected, got)
        self.done.append(done)
        return done
