"""A node whose disk is full is not ready, says why in one line, and is ready again when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Nodes, until

from laila.node.room import lacking


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system is mounted by root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True, timeout=10)
    yield place
    subprocess.run(["umount", "-l", place], check=True, timeout=10)


def fill(place: Path) -> Path:
    file = place / "fill"
    with pytest.raises(OSError, match="No space left"), file.open("wb", buffering=0) as sink:
        while True:
            sink.write(b"x" * 65536)
    return file


def test_room_and_no_room(small: Path, tmp_path: Path) -> None:
    (small / "state").mkdir()
    both = (small / "state", small)
    assert lacking(both) == []
    file = fill(small)
    (found,) = lacking(both)
    assert found.startswith(f"No space left on the disk of {small}/state: 0 KiB of 4 MiB are free")
    file.unlink()
    assert lacking(both) == []
    subprocess.run(["mount", "-o", "remount,ro", small], check=True, timeout=10)
    assert lacking(both) == [f"{small}/state is mounted read-only: nothing can be stored there"]
    assert lacking([tmp_path / "not there"]) == []


def test_a_node_without_room_is_not_ready_and_says_so_once(nodes: Nodes, small: Path) -> None:
    node = nodes.node("n1", "--replicas", f"store={small}/replica").start().ready()
    file = fill(small)
    answer = until(lambda: not node.is_ready() and node.get("/readyz"), "n1 not to be ready")
    (reason,) = answer.json()["reasons"]
    assert answer.status == 503
    assert reason.startswith(f"No space left on the disk of {small}/replica: 0 KiB of 4 MiB")
    assert not node.is_ready()
    assert node.status()["reasons"] == [reason]
    assert node.get("/healthz").status == 200
    file.unlink()
    node.ready()
    said = [event for event in node.events() if event["event"] in ("not ready", "ready again")]
    assert [event["event"] for event in said] == ["not ready", "ready again"]
    assert said[0]["reasons"] == [reason]
