"""Signed artifacts: laila.artifacts beside the public MAIF and beside the work that the format cannot do without."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environments
from .artifact_contender import CONTENDERS
from .bars import Bar
from .group import Group, Plan, Step, Table
from .processes import Child
from .results import Results

PATIENCE = 600.0  # seconds for a work; 1,000 appends by the public MAIF need some 160
BULK = ("large", "pieces")


def _bulk(work: str, words: str) -> tuple[Table, ...]:
    speeds = ((f"{work}.save", "save MB/s", ",.0f"), (f"{work}.verify", "verify MB/s", ",.0f"))
    peaks = ((f"{work}.save.peak", "save", ".2f"), (f"{work}.verify.peak", "verify", ".2f"))
    return (
        Table(f"64 MiB in {words}, signed, without fsync", speeds),
        Table("its peak memory over idle, in 64 MiB (the caller's own is 1)", peaks, ratios=False),
    )


TABLES: dict[str, tuple[Table, ...]] = {
    "large": _bulk("large", "one block"),
    "pieces": _bulk("pieces", "16 blocks"),
    "small": (Table("1 KiB of text, signed, durable", (("small.ms", "ms", ".2f"),)),),
    "appends": (Table("1,000 times loaded, added to, saved durably", (("appends.seconds", "s", ".1f"),)),),
    "blocks": (
        Table(
            "1,000 blocks at once",
            (
                ("blocks.save", "saved/s", ",.0f"),
                ("blocks.verify", "verified/s", ",.0f"),
                ("blocks.both", "both/s", ",.0f"),
            ),
        ),
    ),
    "cached": (
        Table(
            "load_cached of unchanged 64 MiB, verified before", (("cached.ms", "ms", ".3f"),), ratios=False
        ),
    ),
}

# One block's passes can only follow each other. Those of many run side by side, but the public MAIF gains by them too,
# as its copies stay in the processor's cache.
BARS: tuple[Bar, ...] = (
    Bar("large.save", 2, "maif"),
    Bar("large.verify", 2.3, "maif"),
    Bar("pieces.save", 2, "maif", aim=True),
    Bar("pieces.verify", 2.3, "maif", aim=True),
    *(Bar(f"{work}.{name}.peak", 1.2, at_most=True) for work in BULK for name in ("save", "verify")),
    Bar("small.ms", 1.5, "bare", at_most=True),
    Bar("appends.seconds", 10, at_most=True),
    Bar("blocks.both", 1, "maif"),
    Bar("cached.ms", 1, at_most=True),
)


def steps(plan: Plan, results: Results) -> Iterator[Step]:
    """Interleaved: all contenders do a work before the next begins."""
    wanted = "maif" in results.contenders and any(map(CONTENDERS["maif"].does, results.works))
    if wanted and plan.maif is None:
        results.remarks.append("the public MAIF was left out: name a checkout of it with --maif PATH")
    for repetition in range(plan.repetitions):
        for work in results.works:
            for name in results.contenders:
                if CONTENDERS[name].does(work) and (name != "maif" or _with_maif(plan, work, repetition)):
                    yield repetition, (work,), name


def _with_maif(plan: Plan, work: str, repetition: int) -> bool:
    """Its appends are quadratic and no bar asks for them: done once, and not at all in a quick run."""
    return plan.maif is not None and (work != "appends" or (repetition == 0 and not plan.quick))


def do(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one work, once, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="artifacts-", dir=plan.home))
    python = environments.python(CONTENDERS[name].environment)
    settings = {"HOME": plan.home, "TMPDIR": plan.home, "BENCH_MAIF": str(plan.maif or "")}
    (work,) = works
    command = [python, "-m", "benchmarks.artifact_driver", name, work, str(plan.seconds), str(folder)]
    try:
        with Child(command, settings, plan.home) as driver:
            return driver.read(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


GROUP = Group(
    name="artifacts",
    contenders=CONTENDERS,
    works=("large", "pieces", "small", "appends", "blocks", "cached"),
    tables=TABLES,
    references=(("bare", "of bare"), ("maif", "of MAIF")),
    note="Ratios are medians of the ratio within each repetition; times are better when they are shorter.",
    bars=BARS,
    steps=steps,
    do=do,
)
