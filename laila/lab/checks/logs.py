"""What the nodes themselves say in their logs: an error that a node survived without expecting it is a defect too."""

from __future__ import annotations

import json
import re

from laila.errors import LabError
from laila.lab.checks.base import Stage

CRASH = re.compile(r'"event": ?"crashed"|^Traceback \(most recent call last\)|^Fatal Python error')
"""Lines of a node's log that no run may have."""


def no_node_crashed_inside(stage: Stage) -> str:
    """Reads every line of every node."""
    found, lines = [], 0
    for name in (*stage.names, stage.topology.stranger.name):
        said = stage.driver.logs(name).decode("utf-8", "replace").splitlines()
        lines += len(said)
        crashes = [line for line in said if CRASH.search(line)]
        if crashes:
            found.append(f"{name}, {len(crashes)} times; the first: {_brief(crashes[0])}")
            stage.history.event("bad", f"{name} logged a crash", node=name)
    if found:
        stage.fail("a node met errors that it did not expect", found)
    if not lines:
        raise LabError("no node has written a line, so its log cannot be judged")
    return f"{lines} lines of their logs, no crash"


def complaint(stage: Stage, node: str, peer: str) -> str:
    """What the node said last of why it cannot link with the peer, as the end of a sentence; empty when nothing."""
    door = stage.driver.door(peer, seen_from=node)
    for line in reversed(stage.driver.logs(node).decode("utf-8", "replace").splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("address") == door and said.get("error"):
            return f"; its log says: {said['error']}"
    return ""


def _brief(line: str) -> str:
    """The last line of a traceback that is logged as JSON, else the line."""
    try:
        return str(json.loads(line)["error"]).strip().splitlines()[-1]
    except (ValueError, KeyError, TypeError, IndexError):
        return line[:300]
