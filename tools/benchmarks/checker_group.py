"""The judges of the lab: registers by zones beside the search of Wing and Gong, on the same histories.

`some` and `million` are operations in memory, `file` is a million lines of a history.jsonl, read and judged. In `swaps`
half are compare-and-set, which only the search can judge. Memory is all that the process has resident.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environments
from .bars import Bar
from .facts import Facts
from .group import Group, Plan, Step, Table
from .processes import Child
from .results import Results

PATIENCE = 600.0
MILLION = 1_000_000
COUNTS = {"some": 100_000, "million": MILLION, "file": MILLION, "swaps": 100_000}

CONTENDERS: dict[str, Facts] = {
    "laila": Facts(
        "checker_works", "zones", "zones", environment="artifacts", works=("some", "million", "file"), checkout=True
    ),
    "search": Facts(
        "checker_works", "search", "Wing-Gong-Lowe", environment="artifacts", works=("some", "million", "swaps"),
        checkout=True,
    ),
}  # fmt: skip


def _table(work: str, words: str) -> tuple[Table, ...]:
    columns = (
        (f"{work}.rate", "ops/s", ",.0f"),
        (f"{work}.seconds", "s", ",.2f"),
        (f"{work}.computing", "computing s", ",.2f"),
        (f"{work}.peak", "MiB", ",.0f"),
    )
    return (Table(words, columns, ratios=False),)


TABLES: dict[str, tuple[Table, ...]] = {
    "some": _table("some", "100,000 reads and writes of 4 names"),
    "million": _table("million", "1,000,000 reads and writes of 4 names"),
    "file": _table("file", "the same from the lines of a history.jsonl, with integrity"),
    "swaps": _table("swaps", "100,000 reads, writes and swaps of 4 names"),
}

BARS: tuple[Bar, ...] = (
    *(Bar(f"{work}.rate", 100_000) for work in ("some", "million")),
    *(Bar(f"{work}.seconds", 10, at_most=True) for work in ("million", "file")),
    *(Bar(f"{work}.peak", 1000, at_most=True) for work in ("million", "file")),
)


def steps(plan: Plan, results: Results) -> Iterator[Step]:
    """Interleaved: both do a work before the next begins."""
    for repetition in range(plan.repetitions):
        for work in results.works:
            for name in results.contenders:
                if CONTENDERS[name].does(work):
                    yield repetition, (work,), name


def do(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one work, once, in a process of its own; what makes the file is another one."""
    (work,) = works
    folder = Path(tempfile.mkdtemp(prefix="checkers-", dir=plan.home))
    python = environments.python(CONTENDERS[name].environment)
    words = [work, str(COUNTS[work]), str(folder / "history.jsonl")]
    settings = {"HOME": plan.home, "TMPDIR": plan.home}

    def run(who: str) -> dict[str, Any]:
        with Child([python, "-m", "benchmarks.checker_driver", who, *words], settings, plan.home) as child:
            return child.read(PATIENCE)

    try:
        if work == "file":
            run("make")
        return run(name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


GROUP = Group(
    name="checkers",
    contenders=CONTENDERS,
    works=tuple(COUNTS),
    tables=TABLES,
    references=(),
    note="Each work is one history that is right, judged once per repetition; one that is wrong takes about as long by "
    "zones, and by the search until its bounds at most.",
    bars=BARS,
    steps=steps,
    do=do,
)
