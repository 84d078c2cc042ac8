"""One node's replica is damaged beneath it: nobody is served damaged bytes, and it is found and made good again.

A bit is flipped, a file is cut short, one is removed, and an older version is put back, each under a name of its own.
At once every node loads every name. Then the node's replica must become what it was, by itself or, if need be, by one
explicit scrub and repair; what was damaged must lie in quarantine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from laila.errors import LabError
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.registers import FACT
from laila.lab.checks.replica_holdings import Holdings, eye, look, place, settle
from laila.lab.checks.replica_load import LOAD, SAVE, hand, new_value
from laila.lab.crew import Worker

ASIDE = "lab-check-aside"
"""Where older versions are kept meanwhile, beside the replica."""
READER = 1
ROUNDS = 2
"""How often every node loads every name after the damage."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that happens to a file. `kept`: its damaged bytes must be found in quarantine."""

    name: str
    what: str
    do: Callable[[Stage, Worker, str], Any]
    kept: bool = True


@dataclass(frozen=True, slots=True)
class _Good:
    value: str
    digest: str


def is_found_and_repaired(stage: Stage) -> str:
    if FACT not in stage.facts:
        raise LabError("no worker has the replicated store open")
    victim = stage.random.choice(stage.names)
    surgeon = eye(stage, victim)
    good = _save_everywhere(stage, surgeon)
    for case in CASES:
        file = f"{place(stage, victim)}/{case.name}.maif"
        stage.tell(f"{victim}: {case.what}")
        case.do(stage, surgeon, file)
        if ask(stage, surgeon, "look", path=file)["digest"] == good[case.name].digest:
            raise LabError(f"{case.what}, but {victim} still has the good bytes: the damage did not bite")
        stage.history.event("damage", f"{victim}: {case.name}: {case.what}", node=victim)
    loads, served = _load_everywhere(stage, good)
    stage.facts["replica_damage"] = {
        "victim": victim,
        "cases": len(CASES),
        "loads": loads,
        "served": len(served),
    }
    if served:
        stage.history.event("bad", served[0], node=victim)
        stage.fail(
            f"{len(served)} of {loads} loads did not give the newest version after one replica was damaged",
            served[:8],
        )
    seconds, by = settle(
        stage,
        lambda found: _not_good(good, found),
        f"the damaged files of {victim} are made good",
        stage.effort.repair_within,
    )
    lost = _not_in_quarantine(stage, victim)
    if lost:
        stage.fail(
            f"{len(lost)} damaged files of {victim} were thrown away instead of put into quarantine", lost
        )
    stage.facts["replica_damage"] |= {"seconds": seconds, "by": by}
    return (
        f"{len(CASES)} files of {victim} damaged ({', '.join(case.what for case in CASES)}): {loads} loads through "
        f"{len(stage.names)} nodes all gave the newest version, the files were good again after {seconds:.1f} s, {by}, "
        f"and what was damaged lies in quarantine"
    )


def _save_everywhere(stage: Stage, surgeon: Worker) -> dict[str, _Good]:
    """Two versions of each name, the first one kept aside on the node that is to be damaged."""
    values = {}
    for turn in ("older", "newer"):
        for case in CASES:
            values[case.name] = new_value(stage.random, f"{case.name}-{turn}")
            ask(stage, surgeon, SAVE, name=case.name, value=values[case.name])
        settle(stage, lambda found: _without(values, found), f"the {turn} versions are on all nodes")
        if turn == "older":
            for case in CASES:
                file = f"{place(stage, surgeon.node)}/{case.name}.maif"
                ask(stage, surgeon, "copy", path=file, to=f"{ASIDE}/{case.name}")
    mine = next(one for one in look(stage) if one.node == surgeon.node)
    return {name: _Good(value, mine.live[name][0]) for name, value in values.items()}


def _without(values: dict[str, str], found: list[Holdings]) -> list[str]:
    return [
        f"{one.node} has no newest {name}"
        for one in found
        for name, value in values.items()
        if one.live.get(name, ("", 0, None))[2] != value
    ]


def _not_good(good: dict[str, _Good], found: list[Holdings]) -> list[str]:
    return [
        f"{one.node} has {one.live[name][2] if name in one.live else 'nothing'} as {name}"
        for one in found
        for name, was in good.items()
        if one.live.get(name, ("", 0, None))[0] != was.digest
    ]


def _load_everywhere(stage: Stage, good: dict[str, _Good]) -> tuple[int, list[str]]:
    """Every name through every node, a few times; how many loads, and what was not the newest version."""

    def work(node: str) -> list[str]:
        wrong = []
        for _ in range(ROUNDS):
            for name, was in good.items():
                outcome = stage.crew.op(
                    hand(stage, node, READER),
                    LOAD,
                    timeout=stage.effort.op_timeout,
                    phase=stage.step,
                    name=name,
                )
                got = outcome.result.get("value") if outcome.ok else str(outcome)
                if got != was.value:
                    wrong.append(f"a load of {name} through {node} gave {got} instead of {was.value}")
        return wrong

    found = stage.each(work, stage.names)
    return ROUNDS * len(good) * len(stage.names), [line for lines in found for line in lines]


def _not_in_quarantine(stage: Stage, victim: str) -> list[str]:
    kept = next(one for one in look(stage) if one.node == victim).quarantine
    return [
        f"{case.name}: {case.what}"
        for case in CASES
        if case.kept and not any(file.startswith(f"{case.name}.") for file in kept)
    ]


def _flip(stage: Stage, surgeon: Worker, file: str) -> None:
    sections = {
        name: (begin, end) for name, begin, end in ask(stage, surgeon, "sections", path=file)["sections"]
    }
    at = stage.random.randrange(*sections["the content"])
    ask(stage, surgeon, "flip", path=file, at=at, bit=stage.random.randrange(8))


def _cut(stage: Stage, surgeon: Worker, file: str) -> None:
    size = ask(stage, surgeon, "look", path=file)["size"]
    ask(stage, surgeon, "cut", path=file, size=stage.random.randrange(1, size))


def _remove(stage: Stage, surgeon: Worker, file: str) -> None:
    ask(stage, surgeon, "remove", path=file)


def _put_back(stage: Stage, surgeon: Worker, file: str) -> None:
    name = file.rpartition("/")[2].removesuffix(".maif")
    ask(stage, surgeon, "copy", path=f"{ASIDE}/{name}", to=file)


CASES = (
    Case("hurt-flipped", "a bit of the content flipped", _flip),
    Case("hurt-cut", "the end cut off", _cut),
    Case("hurt-removed", "the file removed", _remove, kept=False),
    Case("hurt-old", "an older version put back", _put_back, kept=False),
)
