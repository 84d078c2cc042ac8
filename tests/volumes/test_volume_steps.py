"""The steps of one node: what they do, what they refuse, and that nothing leads out of the check's directory."""

from __future__ import annotations

import fcntl
import io
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.errors import BadValue, Denied, StorageError
from laila.volumes import agent
from laila.volumes.races import version_bytes, version_of
from laila.volumes.steps import STEPS, Hands

PROBE = "0123456789abcdef"


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    """A node with a check that has begun in a directory of the test."""
    found = Hands()
    found.carry_out({"do": "begin", "path": str(tmp_path), "probe": PROBE})
    yield found
    found.close()


def held(path: Path, how: str = "flock") -> bool:
    """Whether somebody else holds the file's lock."""
    with path.open("r+b") as file:
        try:
            (fcntl.flock if how == "flock" else fcntl.lockf)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def place(tmp_path: Path) -> Path:
    return tmp_path / ".laila" / f"probe-{PROBE}"


def test_a_check_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """Made by the first node, found by the others, usable for all users, removed by anybody."""
    first, second = Hands(), Hands()
    step = {"do": "begin", "path": str(tmp_path), "probe": PROBE}
    assert first.carry_out(step)["mount"] == second.carry_out(step)["mount"]
    assert stat.S_IMODE(place(tmp_path).stat().st_mode) == 0o777
    first.carry_out({"do": "write", "file": "x", "text": "hello"})
    assert stat.S_IMODE((place(tmp_path) / "x").stat().st_mode) == 0o666
    assert second.carry_out({"do": "await_text", "file": "x", "text": "hello", "wait": 0})["same"] is True
    first.carry_out({"do": "remove"})
    second.carry_out({"do": "remove"})
    assert list((tmp_path / ".laila").iterdir()) == []


def test_who_it_is(hands: Hands) -> None:
    found = hands.carry_out({"do": "hello"})
    assert found["pid"] == os.getpid()
    assert found["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("how", ["flock", "fcntl"])
def test_a_lock_is_kept_until_it_is_let_go(how: str, hands: Hands, tmp_path: Path) -> None:
    """Another process holds it, in flock terms; within one process fcntl locks do not exclude."""
    answer = hands.carry_out({"do": "hold", "file": "x", "how": how})
    assert answer["held"] is True
    assert held(place(tmp_path) / "x", how)
    refused = hands.carry_out({"do": "lock", "file": "x", "how": how, "mode": "exclusive", "wait": 0.05})
    assert (refused["held"], refused["error"]) == (False, None)
    assert refused["seconds"] >= 0.05
    assert hands.carry_out({"do": "kill", "file": "x"})["code"] == -9
    assert hands.carry_out({"do": "lock", "file": "x", "how": how, "mode": "exclusive"})["held"] is True
    with pytest.raises(BadValue, match="locked here already"):
        hands.carry_out({"do": "hold", "file": "x", "how": how})
    assert hands.carry_out({"do": "unlock", "file": "x"}) == {"had": True}
    assert hands.carry_out({"do": "unlock", "file": "x"}) == {"had": False}


def test_the_end_lets_go_of_everything(hands: Hands, tmp_path: Path) -> None:
    hands.carry_out({"do": "lock", "file": "x", "how": "flock", "mode": "exclusive"})
    pid = hands.carry_out({"do": "hold", "file": "y", "how": "flock"})["pid"]
    assert held(place(tmp_path) / "x")
    hands.carry_out({"do": "end"})
    assert not held(place(tmp_path) / "x")
    assert not held(place(tmp_path) / "y")
    assert not Path("/proc", str(pid)).exists()


def test_what_was_stored_is_recalled(hands: Hands) -> None:
    """In place and whole, also when it was longer before."""
    words = {"how": "flock", "lock": "lock", "file": "x"}
    assert hands.carry_out({"do": "recall", **words}) == {"text": None}
    for text in ("a long text", "short"):
        hands.carry_out({"do": "store", "text": text, **words})
        assert hands.carry_out({"do": "recall", **words}) == {"text": text}


def test_versions_are_whole_or_no_versions() -> None:
    for version in (0, 1, 7, 123456):
        data = version_bytes(version)
        assert version_of(data) == version
        for torn in (
            data[:-1],
            data + b"x",
            data[: len(data) // 2] + version_bytes(8)[len(data) // 2 :],
            b"",
            b"x",
        ):
            assert version_of(torn) is None


def test_looking_says_what_was_seen_first(hands: Hands) -> None:
    assert hands.carry_out({"do": "publish", "file": "v", "version": 3})["last"] == 3
    seen = hands.carry_out({"do": "look", "file": "v", "version": 4, "wait": 0.02})
    assert (seen["first"], seen["seen"], seen["torn"], seen["gone"]) == (3, 3, 0, 0)
    gone = hands.carry_out({"do": "look", "file": "w", "version": 1, "wait": 0.02})
    assert (gone["first"], gone["seen"]) == (None, None)
    assert gone["gone"] == gone["looks"] > 1
    assert gone["longest_gone"] > 0


def test_a_hammer_counts_alone_too(hands: Hands) -> None:
    """Each hold writes one more, and lies within the others' gaps."""
    found = hands.carry_out({"do": "hammer", "how": "flock", "lock": "l", "file": "c", "seconds": 0.1})
    assert [number for _, _, number in found["holds"]] == list(range(1, len(found["holds"]) + 1))
    assert (found["refused"], found["rubbish"]) == (0, 1), "there was no counter at first"
    assert all(entered < left for entered, left, _ in found["holds"])


@pytest.mark.parametrize("kind", ["create", "link"])
def test_a_race_against_oneself_is_won(kind: str, hands: Hands) -> None:
    words = {"do": "race", "kind": kind, "file": "r", "gap": 0.001, "seconds": 0.05}
    first, second = hands.carry_out(words), hands.carry_out(words)
    assert first["won"] == list(range(first["tried"]))
    assert first["tried"] > 20
    assert not [number for number in second["won"] if number < first["tried"]]
    assert first["errors"] == second["errors"] == {}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "`do` is one of hello, time, begin"),
    ({"do": "close"}, "`do` is one of"),
    ({"do": "begin", "path": "/tmp", "probe": PROBE}, "under way here"),  # noqa: S108  nothing is written
    ({"do": "write", "file": "x"}, "needs `text`, a text"),
    ({"do": "write", "file": "x", "text": "x" * 70_000}, "needs `text`, a text"),
    ({"do": "lock", "file": "x", "how": "hope", "mode": "shared"}, "needs `how`, one of flock, fcntl"),
    (
        {"do": "lock", "file": "x", "how": "flock", "mode": "shared", "wait": 6},
        "needs `wait`, a number from 0 to 5",
    ),
    ({"do": "lock", "file": "x", "how": "flock", "mode": "shared", "wait": float("nan")}, "`wait`, a number"),
    ({"do": "hammer", "how": "flock", "lock": "l", "file": "f", "seconds": 3600}, "a number from 0 to 5"),
    ({"do": "hammer", "how": "flock", "lock": "l", "file": "f", "seconds": True}, "a number from 0 to 5"),
    ({"do": "watch", "file": "f", "seconds": 1, "start": 1e12}, "`start` is a time"),
    ({"do": "watch", "file": "f", "seconds": 1, "start": float("nan")}, "`start` is a time"),
    ({"do": "kill", "file": "x"}, "no holder of that file"),
    ({"do": "keep", "path": "/nowhere", "verdict": {}}, "no verdict"),
    *(
        ({"do": "write", "file": name, "text": ""}, "is no name for a file")
        for name in ("../x", "/etc/x", "a/b", "..", ".", "", ".hidden", "a\0b", "x" * 65, "é")
    ),
]


@pytest.mark.parametrize(("step", "words"), WRONG, ids=[str(step)[:60] for step, _ in WRONG])
def test_what_is_no_step_is_refused(step: dict[str, Any], words: str, hands: Hands) -> None:
    with pytest.raises(BadValue, match=words.replace("(", r"\(")):
        hands.carry_out(step)


@pytest.mark.parametrize("probe", ["", "../../etc", PROBE.upper(), PROBE + "0", "/etc"])
def test_a_check_is_named_by_digits(probe: str, tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="16 hexadecimal digits"):
        Hands().carry_out({"do": "begin", "path": str(tmp_path), "probe": probe})


def test_a_step_before_the_beginning_is_refused() -> None:
    for name in set(STEPS) - {"hello", "time", "begin", "end", "unlock", "remove", "keep"}:
        step = {
            "do": name,
            "file": "x",
            "how": "flock",
            "mode": "shared",
            "kind": "link",
            "lock": "l",
            "text": "",
        }
        with pytest.raises(BadValue, match=r"`begin`|no holder"):
            Hands().carry_out({**step, "seconds": 0, "wait": 0, "gap": 0, "version": 0})


def test_a_path_is_absolute_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="no absolute path"):
        Hands().carry_out({"do": "begin", "path": "here", "probe": PROBE})
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        Hands().carry_out({"do": "begin", "path": str(tmp_path / "file"), "probe": PROBE})


def test_links_in_the_way_are_not_followed(hands: Hands, tmp_path: Path) -> None:
    """Whoever may write on the volume cannot lead a check elsewhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (place(tmp_path) / "x").symlink_to(outside / "file")
    with pytest.raises(StorageError, match="ELOOP"):
        hands.carry_out({"do": "write", "file": "x", "text": "yours"})
    assert (outside / "file").read_text() == "mine"
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / ".laila").symlink_to(outside)
    with pytest.raises(StorageError, match="cannot write in"):
        Hands().carry_out({"do": "begin", "path": str(volume), "probe": PROBE})
    hands.close()
    assert (outside / "file").read_text() == "mine"


def test_a_place_outside_the_roots_is_denied(tmp_path: Path) -> None:
    """After all symbolic links; the roots themselves may be links."""
    root, outside = tmp_path / "root", tmp_path / "rootless"
    (root / "below").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "link-to-root").symlink_to(root)
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    for path in (
        outside,
        tmp_path,
        root / "out",
        root / "up",
        root / "..",
        Path("/"),
        root / "below" / ".." / "..",
    ):
        with pytest.raises(Denied, match="not below a volume that this node offers"):
            Hands(roots=(root,)).carry_out({"do": "begin", "path": str(path), "probe": PROBE})
    assert not list(outside.iterdir())
    for path in (root, root / "below", tmp_path / "link-to-root" / "below"):
        for roots in ((root,), (tmp_path / "link-to-root",)):
            inside = Hands(roots=roots)
            inside.carry_out({"do": "begin", "path": str(path), "probe": PROBE})
            inside.close()


def test_every_line_gets_an_answer() -> None:
    """Also what is no step; only after a line beyond all bounds it stops, for where the next begins is unknown."""
    lines = [
        b'{"id": 1, "step": {"do": "time"}}',
        b"{",
        b"[]",
        b'{"id": 2, "step": 3}',
        b'{"id": 3, "step": {}}',
        b"\xff",
    ]
    out = io.BytesIO()
    hands = Hands()
    started = time.monotonic()
    agent.serve(hands, io.BytesIO(b"\n".join([*lines, b"x" * (agent.MAX_LINE + 10), b"{}"]) + b"\n"), out)
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [answer["ok"] for answer in answers] == [True] + [False] * 6
    assert [answer["id"] for answer in answers[:5]] == [1, None, None, None, 3]
    assert answers[0]["answer"]["monotonic"] >= started
    assert {answer["error"]["kind"] for answer in answers[1:]} == {"BadValue"}
    assert "over 1048576 bytes" in answers[6]["error"]["message"]
