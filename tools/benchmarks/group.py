"""A group is a set of contenders that do the same works: what to run, in which order, how to print and to judge it.

Groups share nothing but the harness: `peer_group`, `artifact_group`, `lock_group`, `replica_group` and `checker_group`
each hold one as data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .bars import Bar
from .facts import Facts
from .results import Results

Column = tuple[str, str, str]  # metric, heading, format
Step = tuple[int, tuple[str, ...], str]  # repetition, works that share their processes, contender


@dataclass(frozen=True, slots=True)
class Table:
    """A heading and the columns under it; with `ratios`, each column is followed by those to the references."""

    heading: str
    columns: tuple[Column, ...]
    ratios: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run. `seconds` is for one rate, `crowd_seconds` for many clients at once."""

    repetitions: int
    seconds: float
    crowd_seconds: float
    quick: bool
    home: str
    redis: str | None
    maif: Path | None
    pin: str
    etcd: str | None = None
    names: int = 10_000  # that a replicated store has when all of it is verified

    def cores(self, side: str) -> dict[str, str]:
        """The setting that keeps a side to its cores: `apart` is one core each, `together` both on one."""
        have = sorted(os.sched_getaffinity(0))
        if self.pin == "free":
            return {}
        return {"BENCH_CORES": str(have[-1] if self.pin == "apart" and side == "client" else have[0])}


@dataclass(frozen=True, slots=True)
class Group:
    """Contenders by their names on the command line; the works, tables and bars that are theirs."""

    name: str
    contenders: Mapping[str, Facts]
    works: tuple[str, ...]
    tables: Mapping[str, tuple[Table, ...]]  # by work
    references: tuple[tuple[str, str], ...]  # contender, column heading of the ratio to it
    note: str
    bars: tuple[Bar, ...]
    steps: Callable[[Plan, Results], Iterator[Step]]
    do: Callable[[Plan, tuple[str, ...], str], dict[str, Any]]
