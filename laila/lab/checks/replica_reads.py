"""What was read once stays: a read does not give what a later one may miss.

A writer dies when one replica alone has its version. Whoever reads that version must have put it back to a quorum
before giving it: the node with that replica is stopped right after, and every other node must give the same.
"""

from __future__ import annotations

import time

from laila.errors import LabError
from laila.lab.checks import revival
from laila.lab.checks.base import CannotHere, Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.replica_load import LOAD, SAVE, hand, new_value
from laila.lab.crew import Worker
from laila.lab.topology import STORE

SAVE_AND_DIE = "replica_save_and_die"
_NAME = "read-once"
_WRITER, _READER = 90, 91
"""Numbers of workers that no other step uses."""


def what_was_read_stays(stage: Stage) -> str:
    if not stage.driver.capabilities.pause:
        raise CannotHere(f"the {stage.driver.name} driver cannot stop a node")
    wrong: list[str] = []
    stage.each(lambda node: hand(stage, node, _READER), stage.names)
    for node in stage.names:
        stage.tell(f"a writer dies beside {node}; what is read of it stays read")
        wrong += _left_by_a_writer(stage, node)
    if wrong:
        stage.history.event("bad", wrong[0])
        stage.fail(f"{len(wrong)} reads gave something older than what had been read before", wrong)
    return (
        f"{len(stage.names)} versions that a dying writer left on one replica were read, and given by all others "
        "after that replica's node was stopped"
    )


def _left_by_a_writer(stage: Stage, node: str) -> list[str]:
    """Leave a version on this node alone, read it, stop the node, read through the others; what was wrong."""
    name = f"{_NAME}-{node}"
    old, new = (new_value(stage.random, f"{node}-{which}") for which in ("old", "new"))
    ask(stage, hand(stage, node, _READER), SAVE, timeout=_within(stage), name=name, value=old)
    writer = hand(stage, node, _WRITER)
    within = stage.effort.op_timeout
    end = stage.crew.op(
        writer,
        SAVE_AND_DIE,
        timeout=within,
        phase=stage.step,
        name=name,
        value=new,
        at=f"laila://{node}/{STORE}",
    )
    stage.crew.dismiss(writer)
    if end.ok or end.error != "ClientGone":
        raise LabError(f"the writer beside {node} was to die while it saved, and it said: {end}")
    _until_read(stage, hand(stage, node, _READER), name, new)
    stage.driver.pause(node)
    try:
        others = [other for other in stage.names if other != node]
        found = stage.each(lambda other: _load(stage, hand(stage, other, _READER), name), others)
    finally:
        stage.driver.resume(node)
        links = tuple(link for link in stage.topology.directed_links() if node in link)
        revival.all_up(stage, links, f"{node} goes on")
    return [
        f"{name} was {new} when it was read through {node}, and through {other} it was {value} afterwards"
        for other, value in zip(others, found, strict=True)
        if value != new
    ]


def _until_read(stage: Stage, reader: Worker, name: str, value: str) -> None:
    """Read until the new version is given. Raises LabError when it never is: then nothing was shown."""
    end = time.monotonic() + stage.effort.heal_within
    while _load(stage, reader, name) != value:
        if time.monotonic() > end:
            raise LabError(
                f"what the writer left of {name} was never read within {stage.effort.heal_within:g} s"
            )


def _load(stage: Stage, reader: Worker, name: str) -> str:
    return str(ask(stage, reader, LOAD, name=name, timeout=_within(stage))["value"])


def _within(stage: Stage) -> float:
    return stage.effort.replica_timeout + stage.effort.op_timeout
