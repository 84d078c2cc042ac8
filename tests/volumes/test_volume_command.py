"""`laila volume`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from laila.mounts import mount_of
from laila.volumes.verdict import Verdict, stored


def laila(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laila.cli.main", "volume", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_check_says_safe_and_show_remembers(tmp_path: Path) -> None:
    """Exit 0, the evidence for people, the same for machines, progress beside it."""
    checked = laila("check", str(tmp_path), "--with", "local", "--time", "1")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("SAFE: 2 processes excluded each other on ")
    assert "ok      flock hammer" in checked.stdout
    assert "all nodes lock, count and unlock" in checked.stderr
    shown = laila("show", str(tmp_path / "store"), "--json")
    assert shown.returncode == 0
    assert Verdict.from_dict(json.loads(shown.stdout)) == stored(tmp_path)
    assert laila("show", str(tmp_path)).stdout == checked.stdout


def test_check_says_unsafe(tmp_path: Path) -> None:
    """Exit 1: the other node has another directory at its path."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    done = laila("check", str(tmp_path / "one"), "--with", f"local={tmp_path}/other", "--time", "1", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["answer"] == "UNSAFE"
    assert found["nodes"] == ["here", "local"]
    assert laila("show", str(tmp_path / "one")).returncode == 1
    assert laila("show", str(tmp_path / "other")).returncode == 1


def test_check_says_unknown(tmp_path: Path) -> None:
    """Exit 2: one node alone; nodes that are none; and what kind of file system it is does not tell."""
    assert laila("check", str(tmp_path)).returncode == 2
    done = laila(
        "check", str(tmp_path), "--not-here", "--with", "exec:false", "--with", "local", "--time", "1"
    )
    assert done.returncode == 2
    assert done.stdout.startswith("UNKNOWN: the check was not finished: the program of exec:false has ended")
    assert laila("show", "/proc").returncode == 2


def test_nodes_elsewhere_only(tmp_path: Path) -> None:
    """With --not-here the path need not exist here, only where the nodes are."""
    command = f"exec:{sys.executable} -m laila.cli.main volume probe ={tmp_path}"
    done = laila(
        "check", "/not/here", "--not-here", "--with", command, "--with", f"local={tmp_path}", "--time", "1"
    )
    assert done.returncode == 0, done.stdout
    kept = stored(tmp_path)
    assert kept is not None
    assert kept.mount == mount_of(tmp_path)


WRONG = [
    (
        ("check", "/not/here"),
        "/not/here is no directory here; with --not-here only the nodes of --with take part",
    ),
    (("check", "rel", "--not-here"), "rel is no absolute path"),
    (("check", "/", "--with", "node2"), "--with 'node2' is no node; write docker:CONTAINER"),
    (
        ("check", "/", "--with", "127.0.0.1:1", "--secret-file", "/none"),
        "secret_file (--secret-file): /none cannot be",
    ),
    (("check", "/dev/shm", "--time", "0"), "out of range"),  # noqa: S108  nothing is written
    (("frobnicate",), "invalid choice"),
    ((), "required: ACTION"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_cannot_be_done_is_one_sentence(words: tuple[str, ...], sentence: str) -> None:
    done = laila(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_errors_are_json_when_asked() -> None:
    done = laila("check", "/not/here", "--json")
    assert json.loads(done.stderr)["error"]["kind"] == "BadConfig"


@pytest.mark.parametrize("action", ["", "check", "show", "probe"])
def test_help_has_examples(action: str) -> None:
    done = laila(*action.split(), "--help")
    assert done.returncode == 0
    assert "example" in done.stdout


def test_the_agent_speaks_when_spoken_to() -> None:
    command = [sys.executable, "-m", "laila.cli.main", "volume", "probe"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    step = b'{"id": "a", "step": {"do": "hello"}}\n'
    done = subprocess.run(command, input=step, capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["id"] == "a"
