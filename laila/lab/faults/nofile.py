"""The processes of a node may open no file more: each new file, pipe or connection is refused.

The limit is set below the running processes, one by one, by a program beside the node that belongs to the same user:
that needs no rights, and the number up to which it may be raised again stays. The limit is the lowest number that is
free, so what is open goes on. One trait of such a limit is no lack of files: `poll` refuses longer lists than that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults.base import NoBite, NotHealed, Scene
from laila.lab.faults.doorbell import Doorbell
from laila.lab.faults.family import family
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import PATIENCE, NodeFault, died, start_fallen

_LOOK = """
for pid; do
    while read -r one two three soft hard rest; do
        [ "$one $two $three" = "Max open files" ] && echo "$pid $soft $hard" $(ls "/proc/$pid/fd")
    done <"/proc/$pid/limits"
done 2>/dev/null
true
"""
_SET = """
while [ $# -gt 2 ]; do
    if command -v prlimit >/dev/null; then
        prlimit --pid "$1" --nofile="$2:$3"
    else
        python3 -c "import resource; resource.prlimit($1, resource.RLIMIT_NOFILE, ($2, $3))"
    fi && set=yes
    shift 3
done
[ "$set" ]
"""
_ENOUGH = 16
"""Free numbers of a process that nobody limited."""


@dataclass(frozen=True, slots=True)
class Files:
    """What one process has open, and may. `id` is its pid and start."""

    id: str
    pid: int
    soft: int
    hard: int
    numbers: frozenset[int]

    @property
    def lowest(self) -> int:
        """The number that its next file gets."""
        return next(number for number in range(len(self.numbers) + 1) if number not in self.numbers)

    @property
    def free(self) -> int:
        return self.soft - sum(1 for number in self.numbers if number < self.soft)


class NoFiles(NodeFault):
    """See the top of this file."""

    kind: ClassVar[str] = "nofile"
    summary: ClassVar[str] = "nodes can open no more files and connections"

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._before: dict[str, list[Files]] = {}
        self._set: dict[str, list[int]] = {}
        self._bells: dict[str, Doorbell] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return ""

    def inject(self) -> dict[str, Any]:
        """Limit every process of theirs to what it has."""
        for name in self.nodes:
            self._before[name] = files(self.driver, name)
            if (bell := Doorbell.of(self.driver, name)) is not None:
                self._bells[name] = bell
        self._remember()
        for name in self.nodes:
            self._tighten(name)
        return {}

    def _remember(self) -> None:
        before = {name: [[f.id, f.soft, f.hard] for f in found] for name, found in self._before.items()}
        self.remember(before=before, set=self._set)

    def _tighten(self, name: str) -> None:
        """Until no number is free below the limit, though files are closed and opened meanwhile."""
        for _ in range(5):
            loose = [one for one in files(self.driver, name) if one.free > 0]
            if not loose:
                return
            self._set[name] = sorted({*self._set.get(name, ()), *(one.lowest for one in loose)})
            self._remember()
            _limit(self.driver, name, [(one.pid, one.lowest, one.hard) for one in loose])

    def prove(self) -> str:
        """No number is free, and the node's door does not answer any more, which would take one."""
        return "; ".join(self._refused(name) for name in self.nodes)

    def _refused(self, name: str) -> str:
        bell, said = self._bells.get(name), "its door cannot be knocked at from here"

        def full() -> bool:
            nonlocal said
            if died(self.driver, name):
                return True
            ring = None if bell is None else bell.ring()
            if ring is not None and ring.answered:
                self._tighten(name)  # something was closed, and its number is free again
                return False
            said = said if ring is None or bell is None else f"{bell} answered before, now it {ring}"
            return all(one.free <= 0 for one in files(self.driver, name))

        if name not in self._before:
            free = min(one.free for one in files(self.driver, name))
            raise NoBite(f"{self.spec}: {name} was not touched, it may open {free} files more")
        self.until(full, NoBite, f"{name} to be refused a file")
        if end := died(self.driver, name):
            return f"{end}: it had {len(self._before[name][0].numbers)} files open and could open no more"
        now = files(self.driver, name)[0]
        return (
            f"{name} has {len(now.numbers)} files open and may have no number beyond {now.soft - 1}; {said}"
        )

    def heal(self) -> None:
        """Give the numbers back; those that died of it are started again."""
        before = {name: [[f.id, f.soft, f.hard] for f in found] for name, found in self._before.items()}
        self.undo(self.driver, {"before": before, "set": self._set})
        for name in self._before:
            self.scene.ready(name)

    def prove_healed(self) -> str:
        """Each process may open what it might before, and the door answers."""
        return "; ".join(self._healed(name) for name in self.nodes)

    def _healed(self, name: str) -> str:
        running, was = NodeState.RUNNING, {one.id: one.soft for one in self._before.get(name, ())}
        self.until(lambda: self.driver.state(name) is running, NotHealed, f"{name} to run")
        now = files(self.driver, name)
        for one in now:
            if one.soft < was.get(one.id, 0) or one.free < min(_ENOUGH, one.hard):
                raise NotHealed(f"{self.spec}: process {one.pid} of {name} may have {one.soft} files only")
        text = f"{name} has {len(now[0].numbers)} files open and may have {now[0].soft}"
        if (bell := self._bells.get(name)) is None:
            return text
        self.until(lambda: Doorbell.of(self.driver, name) is not None, NotHealed, f"{bell} to answer")
        return f"{text}; {bell} answers"

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """Children that were started meanwhile have the limit too: they get their main process's old one."""
        before = facts.get("before", {})
        fallen = start_fallen(driver, tuple(before))
        for name in before:
            if name in fallen or not before[name]:
                continue
            was = {str(id): (int(soft), int(hard)) for id, soft, hard in before[name]}
            main, lowered = next(iter(was.values())), facts.get("set", {}).get(name, ())
            limits = []
            for one in files(driver, name):
                soft, hard = was.get(one.id, main if one.soft in lowered else (one.soft, one.hard))
                if soft != one.soft:
                    limits.append((one.pid, soft, hard))
            if limits:
                _limit(driver, name, limits)


def files(driver: Driver, name: str) -> list[Files]:
    """Of every process of a node that a program beside it may look into. Raises LabError when there is none."""
    driver.need(name, NodeState.RUNNING, "count the files of")
    ids = {process.pid: str(process) for process in family(driver, name)}
    told = driver.exec(name, ["sh", "-c", _LOOK, "sh", *map(str, ids)], timeout=PATIENCE)
    found = []
    for line in told.stdout.decode("ascii", "replace").splitlines():
        pid, soft, hard, *numbers = line.split()
        if numbers and soft.isdigit() and hard.isdigit():
            found.append(Files(ids[int(pid)], int(pid), int(soft), int(hard), frozenset(map(int, numbers))))
    if not found:
        raise LabError(f"nobody beside {name} can see which files its processes have open")
    return found


def _limit(driver: Driver, name: str, limits: Sequence[tuple[int, int, int]]) -> None:
    """Set (pid, soft, hard). Raises LabError when not one could be."""
    words = [str(number) for limit in limits for number in limit]
    done = driver.exec(name, ["sh", "-c", _SET, "sh", *words], timeout=PATIENCE)
    if done.code:
        said = (done.stderr.decode("utf-8", "replace").strip() or "it says nothing").splitlines()[-1]
        raise LabError(
            f"the limits of {name} could not be set, which takes prlimit or python3 beside it: {said}"
        )
