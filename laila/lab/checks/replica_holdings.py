"""What every node's replica holds, by its own files: looked at beside the nodes, without asking the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.replica_load import hand
from laila.lab.crew import Worker
from laila.lab.topology import STORE

LOOK = 0.2
"""Seconds between two looks: the precision of what is measured so."""
NOTED = 8
"""So many files that the nodes did not make equal by themselves are named in the history."""
BY_THEMSELVES = "by themselves"
EYE = 0
"""The worker that looks."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Of one node. `live` and `gone`: name to (SHA-256 of the file, number, value or what is wrong with it)."""

    node: str
    live: Mapping[str, tuple[str, int, str | None]]
    gone: Mapping[str, tuple[str, int, str | None]]
    quarantine: tuple[str, ...]
    suspect: tuple[str, ...]

    @property
    def digests(self) -> dict[str, str]:
        """What must be the same on all nodes."""
        live = {f"{name}": one[0] for name, one in self.live.items()}
        return live | {f"{name} (forgotten)": one[0] for name, one in self.gone.items()}


def look(stage: Stage) -> list[Holdings]:
    """At all nodes, side by side."""

    def work(node: str) -> Holdings:
        found = ask(stage, eye(stage, node), "replica_holdings", path=place(stage, node))
        live = {name: (one[0], one[1], one[2]) for name, one in found["live"].items()}
        gone = {name: (one[0], one[1], one[2]) for name, one in found["gone"].items()}
        return Holdings(node, live, gone, tuple(found["quarantine"]), tuple(found["suspect"]))

    return stage.each(work, stage.names)


def eye(stage: Stage, node: str) -> Worker:
    return hand(stage, node, EYE)


def place(stage: Stage, node: str) -> str:
    """The replica's directory, relative to the node's state directory."""
    spec = stage.topology.node(node).replica(STORE)
    return "" if spec is None else spec.path.removeprefix("{state}/")


def differences(found: list[Holdings]) -> list[str]:
    """Where the nodes' files differ, a line for each name."""
    lines = []
    for name in sorted({name for one in found for name in one.digests}):
        digests = {one.node: one.digests.get(name, "") for one in found}
        if len(set(digests.values())) > 1:
            said = ", ".join(f"{node} {digest[:8] or 'nothing'}" for node, digest in digests.items())
            lines.append(f"{name}: {said}")
    return lines


def wait_for(
    stage: Stage, missing: Callable[[list[Holdings]], list[Any]], within: float
) -> tuple[float, list[Any]]:
    """Look until nothing is missing; the seconds that it took, and what is still missing then."""
    began = time.monotonic()
    while True:
        left = missing(look(stage))
        seconds = time.monotonic() - began
        if not left or seconds > within:
            return seconds, left
        time.sleep(LOOK)


def settle(
    stage: Stage, missing: Callable[[list[Holdings]], list[str]], what: str, within: float = 0.0
) -> tuple[float, str]:
    """Wait until nothing is missing, by the nodes' own care; if need be after one explicit scrub and repair.

    The seconds that it took, and by whom it was done. Fails when neither was enough. `within`: what the nodes get.
    """
    within = within or stage.effort.converge_within
    seconds, left = wait_for(stage, missing, within)
    if not left:
        return seconds, BY_THEMSELVES
    stage.tell(f"{what}: {len(left)} lack after {within:g} s; asking for a scrub and a repair")
    for line in left[:NOTED]:
        stage.history.event("note", f"{what}: not within {within:g} s by themselves: {line}")
    worker, began = eye(stage, stage.names[0]), time.monotonic()
    ask(stage, worker, "replica_scrub", timeout=stage.effort.file_timeout)
    ask(stage, worker, "replica_repair", timeout=stage.effort.file_timeout)
    _, still = wait_for(stage, missing, stage.effort.converge_within)
    if still:
        stage.fail(
            f"{what}: not within {within:g} s, and not by an explicit scrub and repair either", still[:8]
        )
    seconds += time.monotonic() - began
    return (
        seconds,
        f"all but {len(left)} within {within:g} s {BY_THEMSELVES}, the rest by one explicit scrub and repair",
    )
