"""Nodes that survived an error which they did not expect are told on by their own logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laila.errors import LabError
from laila.lab.checks import CheckFailed, Stage
from laila.lab.checks.logs import no_node_crashed_inside
from laila.lab.history import History
from laila.lab.progress import Quiet
from laila.lab.topology import replicated

CALM = json.dumps({"level": "info", "event": "ready", "note": 'a value with "crashed" in it'})
CRASHED = json.dumps(
    {"level": "error", "event": "crashed", "error": "Traceback …\n  File …\nNameError: no such name"}
)
BARE = "Traceback (most recent call last):"


class Said:
    """A driver as far as its logs go."""

    def __init__(self, **logs: str) -> None:
        self.topology = replicated()
        self._logs = logs

    def logs(self, name: str) -> bytes:
        return self._logs.get(name, "").encode()


def look(tmp_path: Path, **logs: str) -> str:
    with History(tmp_path / "history.jsonl") as history:
        return no_node_crashed_inside(Stage(Said(**logs), history, Quiet(), seed=1))  # type: ignore[arg-type]  # see Said


def test_calm_logs_pass(tmp_path: Path) -> None:
    assert look(tmp_path, node1=f"{CALM}\n{CALM}\n", node2=CALM) == "3 lines of their logs, no crash"


@pytest.mark.parametrize(("line", "brief"), [(CRASHED, "NameError: no such name"), (BARE, BARE)])
def test_a_crash_is_named_with_its_node_and_reason(tmp_path: Path, line: str, brief: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        look(tmp_path, node1=CALM, node3=f"{CALM}\n{line}\n{line}\n")
    assert caught.value.evidence == (f"node3, 2 times; the first: {brief}",)


def test_no_logs_at_all_show_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no node has written a line"):
        look(tmp_path)
