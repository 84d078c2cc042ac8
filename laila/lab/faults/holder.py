"""A client program is killed while it holds a lock.

Who holds is known to whoever runs the clients (`Scene.holders`). A holder may let go while a signal is on its way: so
it is stopped first, which keeps it from doing anything more; then the list is looked at once more. Who is still on it
was surely in its critical section, and is killed there. Who is not goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Channel, Driver, NodeState
from laila.lab.faults.base import Fault, NoBite, NotHealed, Scene
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import PATIENCE, chosen

_SIGNALS = """
while read -r signal pid; do
    [ "$signal" = LOOK ] || kill -s "$signal" "$pid" 2>/dev/null
    read -r line 2>/dev/null <"/proc/$pid/stat" && echo "$line" || echo gone
done
"""
_LOOK, _STOP, _GO_ON, _KILL = "LOOK", "STOP", "CONT", "KILL"
_STANDS = ("T", "t")
_DEAD = ("Z", "X")
_STOPS_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A client program; `started` tells it from another one with the same pid."""

    name: str
    node: str
    pid: int
    started: str


class _Signals:
    """A shell beside a node that sends signals and says what became of whom, as fast as a line travels."""

    def __init__(self, driver: Driver, node: str) -> None:
        self.node = node
        self._channel: Channel = driver.open(node, ["sh", "-c", _SIGNALS])
        self._lines: Iterator[bytes] = self._channel.lines()

    def send(self, signal: str, pid: int) -> tuple[str, str]:
        """State and start time of the process afterwards; both empty when it is gone."""
        self._channel.send(f"{signal} {pid}".encode("ascii"))
        line = next(self._lines, None)
        if line is None:
            raise LabError(f"the shell beside {self.node} ended{': ' * bool(said := self._said())}{said}")
        fields = line.rpartition(b")")[2].split()
        if len(fields) < 20 or fields[0].decode("ascii") in _DEAD:
            return "", ""
        return fields[0].decode("ascii"), fields[19].decode("ascii")

    def close(self) -> None:
        self._channel.close(1.0)

    def _said(self) -> str:
        return self._channel.stderr().strip()[-200:]


class KillHolder(Fault):
    """See the top of this file."""

    kind: ClassVar[str] = "kill-holder"
    summary: ClassVar[str] = "a client program dies of SIGKILL while it holds a lock"

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._allowed = chosen(scene, spec) if spec.groups else scene.names
        self._victim: Victim | None = None
        self._killed = 0.0
        self._signals: dict[str, _Signals] = {}
        self._looked = 0

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        topology = driver.topology
        if topology.foreign or topology.volumes:
            return ""
        return f"the nodes of {topology.name} share no volume, so no client holds a lock"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Beside which it may happen; once it has, beside which it did."""
        return self._allowed if self._victim is None else (self._victim.node,)

    def inject(self) -> dict[str, Any]:
        """Wait for a holder, and kill it. Raises NoBite when nobody was caught holding anything."""
        end = time.monotonic() + self.scene.within
        while time.monotonic() < end:
            if (victim := self._catch()) is not None:
                self._victim = victim
                return {"killed": victim.name}
            time.sleep(0.002)
        raise NoBite(
            f"{self.spec}: within {self.scene.within:g} s no client beside {', '.join(self._allowed)} was caught while "
            f"it held a lock; {self._looked} were tried"
        )

    def _catch(self) -> Victim | None:
        holders = {name: at for name, at in self.scene.holders().items() if at[0] in self._allowed}
        if not holders:
            return None
        name = self.scene.chance.choice(sorted(holders))
        node, pid = holders[name]
        send = self._beside(node).send
        _, started = send(_LOOK, pid)
        if not started:
            return None
        self._looked += 1
        self.remember(name=name, node=node, pid=pid, started=started)
        stands = self._stop(node, pid)
        if not stands or self.scene.holders().get(name) != (node, pid):
            send(_GO_ON, pid)
            return None
        self.scene.doomed(name)
        send(_KILL, pid)
        self._killed = time.monotonic()
        return Victim(name, node, pid, started)

    def _stop(self, node: str, pid: int) -> bool:
        """Whether it stands still."""
        send, end = self._beside(node).send, time.monotonic() + _STOPS_WITHIN
        state, _ = send(_STOP, pid)
        while state and state not in _STANDS and time.monotonic() < end:
            state, _ = send(_LOOK, pid)
        return state in _STANDS

    def prove(self) -> str:
        """It is gone, and it was listed while it could do nothing more."""
        victim = self._victim
        if victim is None:
            raise NoBite(
                f"{self.spec}: nobody was killed; {len(self.scene.holders())} clients hold a lock now"
            )
        self.until(lambda: not self._lives(victim), NoBite, f"{victim.name} to be gone")
        return (
            f"{victim.name} (pid {victim.pid} beside {victim.node}) was stopped, still held its lock, and was killed: "
            f"it is gone; {self._looked - 1} others had let go in time"
        )

    def _lives(self, victim: Victim) -> bool:
        return self._beside(victim.node).send(_LOOK, victim.pid)[1] == victim.started

    def heal(self) -> None:
        """Nobody is left who stands still. A new client is started by who runs them."""
        for signals in self._signals.values():
            signals.close()
        self._signals.clear()

    def prove_healed(self) -> str:
        """Somebody holds a lock again."""
        victim = self._victim
        if victim is None:
            return f"nobody was killed beside any of {len(self._allowed)} nodes"
        dead = victim.node, victim.pid
        self.until(
            lambda: any(at != dead for at in self.scene.holders().values()),
            NotHealed,
            f"anybody to hold a lock after {victim.name} was killed with one",
        )
        next_one = next(name for name, at in self.scene.holders().items() if at != dead)
        since = time.monotonic() - self._killed
        return f"{next_one} holds a lock {since:.2f} s after {victim.name} was killed with one"

    def _beside(self, node: str) -> _Signals:
        if node not in self._signals:
            self._signals[node] = _Signals(self.scene.driver, node)
        return self._signals[node]

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Who was stopped, and not killed, goes on."""
        node = facts.get("node", "")
        if not node or driver.state(node) is not NodeState.RUNNING:
            return  # nothing was done, or it died with its node
        line = f'read -r line <"/proc/{facts["pid"]}/stat" && echo "$line"'
        told = driver.exec(node, ["sh", "-c", line], timeout=PATIENCE).stdout
        fields = told.rpartition(b")")[2].split()
        if len(fields) > 19 and fields[19].decode("ascii") == facts["started"]:
            with suppress(LabError):  # it ended
                driver.exec(node, ["sh", "-c", f"kill -s CONT {facts['pid']}"], timeout=PATIENCE)
