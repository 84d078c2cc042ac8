"""The processes of a node: its main one and all that descend from it, as programs beside it see them."""

from __future__ import annotations

from dataclasses import dataclass

from laila.errors import LabError
from laila.lab.drivers.base import Driver
from laila.lab.faults.struck import PATIENCE

_EVERY_STAT = (
    'for each in /proc/[0-9]*/stat; do read -r line <"$each" && echo "$line"; done 2>/dev/null; true'
)


@dataclass(frozen=True, slots=True)
class Process:
    """One of them. `started` is in ticks since boot: a pid is reused, both together are not."""

    pid: int
    parent: int
    started: int

    def __str__(self) -> str:
        return f"{self.pid}/{self.started}"


def family(driver: Driver, name: str) -> list[Process]:
    """Of a running node, the main process first. Programs that the lab runs beside it do not belong to it.

    Raises LabError where there is no shell beside it, or its main process is not seen from there.
    """
    told = driver.exec(name, ["sh", "-c", _EVERY_STAT], timeout=PATIENCE)
    seen = {process.pid: process for line in told.stdout.splitlines() if (process := _process(line))}
    main = seen.get(driver.main_pid(name))
    if main is None:
        complaint = told.stderr.decode("utf-8", "replace").strip()
        raise LabError(f"the main process of {name} is not seen beside it{': ' * bool(complaint)}{complaint}")
    found = [main]
    for process in found:  # which grows meanwhile
        found += [one for one in seen.values() if one.parent == process.pid and one not in found]
    return found


def incarnation(driver: Driver, name: str) -> str:
    """The main process of a running node as `pid/start time`; empty when nothing beside it can tell."""
    try:
        return str(family(driver, name)[0])
    except LabError:
        return ""


def _process(stat: bytes) -> Process | None:
    pid, _, rest = stat.partition(b" ")
    fields = rest.rpartition(b")")[2].split()  # the name, in parentheses, may hold anything
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return Process(int(pid), int(fields[1]), int(fields[19]))
