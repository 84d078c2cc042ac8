"""Members of a store on real directories: several programs at once, and programs killed with SIGKILL half-way."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laila.errors import LailaError, MembershipBusy, MixedReplicas
from laila.maif import create_maif
from laila.replication.opening import MembershipDiffers
from laila.replication.store import ReplicatedStore

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
SEED = 20


class Changer:
    """tests.replication.changing in a process of its own; it begins when `go` is called."""

    def __init__(self, *words: str) -> None:
        argv = [sys.executable, "-W", "error", "-m", "tests.replication.changing", *words]
        self._process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.line() == ["told", "ready"]

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def line(self) -> list[Any]:
        """The next one; empty at the end."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        return json.loads(text) if text.endswith("\n") else []

    def end(self) -> list[Any]:
        """The last line."""
        last: list[Any] = []
        while found := self.line():
            last = found
        return last

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        with self._process:
            self._process.kill()


@contextmanager
def changers(*words: list[str]) -> Iterator[list[Changer]]:
    """All ready before one begins."""
    made: list[Changer] = []
    try:
        for one in words:
            made.append(Changer(*one))
        yield made
    finally:
        for changer in made:
            changer.close()


def places(root: Path, count: int) -> list[str]:
    return [str(root / f"replica{number}") for number in range(count)]


def open_store(wheres: list[str]) -> ReplicatedStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MembershipDiffers)
        return ReplicatedStore(wheres, background=False, timeout=PATIENCE)


def test_processes_that_make_one_store_at_once_make_one(tmp_path: Path) -> None:
    wheres = places(tmp_path, 3)
    with changers(*[["open", ",".join(wheres)]] * 5) as programs:
        for program in programs:
            program.go()
        ends = [program.end() for program in programs]
    assert [end[0] for end in ends] == ["done"] * 5, ends
    assert len({end[1] for end in ends}) == 1, ends
    stamps = [json.loads(Path(where, ".laila", "replica.json").read_text()) for where in wheres]
    assert {stamp["store"] for stamp in stamps} == {ends[0][1]}
    assert [stamp["rebuilding"] for stamp in stamps] == [False] * 3


def test_two_processes_that_change_at_once(tmp_path: Path) -> None:
    """One is done, the other is told what came first, or comes after it and is done as well; the members are all that
    they said."""
    wheres = places(tmp_path, 3)
    with open_store(wheres) as store:
        for round in range(2):
            new = [str(tmp_path / f"new{round}{letter}") for letter in "ab"]
            before = {member.where for member in store.view.members}
            with changers(*[["add", ",".join(wheres), where] for where in new]) as programs:
                for program in programs:
                    program.go()
                ends = [program.end() for program in programs]
            added = {where for where, end in zip(new, ends, strict=True) if end[0] == "done"}
            assert added, ends
            for end in ends:
                if end[0] == "failed":
                    assert end[1] == "MembershipBusy", end
                    assert f"add {next(iter(added))}" in end[2], end
            store.resume_change()
            assert {member.where for member in store.view.members} == before | added


class Traffic:
    """Writers and a reader of the names of one store, who note what was acknowledged."""

    def __init__(self, wheres: list[str]) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.acknowledged: dict[str, int] = {}
        self.saves = self.loads = 0
        self.wrong: list[str] = []
        self._stores = [open_store(wheres) for _ in range(3)]
        works = zip((self._write, self._write, self._read), self._stores, strict=True)
        self._threads = [threading.Thread(target=self._guarded, args=one) for one in works]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for store in self._stores:
            store.close()

    def _guarded(self, work: Any, store: ReplicatedStore) -> None:
        try:
            work(store)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _write(self, store: ReplicatedStore) -> None:
        chance = random.Random(threading.get_ident())  # noqa: S311  # names, no secrets
        while not self._stop.is_set():
            name = f"doc{chance.randrange(6)}"
            artifact = create_maif("writer")
            artifact.add_text(f"{name} at {time.monotonic()}")
            sequence = store.save(name, artifact).sequence
            with self._lock:
                self.saves += 1
                self.acknowledged[name] = max(sequence, self.acknowledged.get(name, 0))

    def _read(self, store: ReplicatedStore) -> None:
        while not self._stop.is_set():
            with self._lock:
                expected = dict(self.acknowledged)
            for name, sequence in expected.items():
                found = store.load(name).sequence
                self.loads += 1
                if found < sequence:
                    self.wrong.append(f"{name}: version {found} was read after {sequence} was acknowledged")


def test_killed_changers_lose_nothing(tmp_path: Path) -> None:
    """kill -9 at random instants of changes, each resumed by somebody else, while others write and read all the time:
    no call fails, no read is older than what was acknowledged, all members end up the same."""
    chance = random.Random(SEED)  # noqa: S311  # moments, no secrets
    wheres = places(tmp_path, 80)
    fresh = iter(wheres[3:])
    with open_store(wheres[:3]) as store, Traffic(wheres[:3]) as traffic:
        artifact = create_maif("writer")
        artifact.add_text("kept")
        store.save("kept", artifact)  # and not read meanwhile: only catching up brings it to other members
        present = wheres[:3]
        rounds = killed = resumed = 0
        while rounds < 8 or (rounds < 60 and not (killed and resumed and present[0] not in wheres[:3])):
            rounds += 1
            present = sorted((member.where for member in store.view.members), key=wheres.index)
            listed, oldest = ",".join(present), present[0]
            new = next(fresh)
            choices = [["remove", listed, oldest]] if len(present) > 2 else []
            if len(present) < 5:
                choices += [["replace", listed, oldest, new], ["add", listed, new]]
            words = chance.choice(choices)
            with changers(words) as (changer,):
                changer.go()
                for _ in range(chance.randrange(3, 11)):
                    line = changer.line()
                    assert line[:1] != ["failed"], line
                time.sleep(chance.random() * 0.02)
                changer.kill()
                end = changer.end()
                assert end[:1] != ["failed"], end
                killed += end[:1] != ["done"]
            before = store.view.number
            # One of those listed was removed when the change was done.
            with contextlib.suppress(MixedReplicas), open_store(present) as other:
                resumed += bool(other.view.next)
                other.resume_change()
            store.resume_change()
            assert store.view.next == ()
            assert store.view.number in (before, before + 2), words
        assert not traffic.wrong
    assert not traffic.wrong
    assert traffic.saves > 20
    assert traffic.loads > 20
    assert killed
    assert resumed
    assert not {member.where for member in store.view.members} & set(wheres[:3])
    with open_store([member.where for member in store.view.members]) as last:
        assert last.load("kept").sequence == 1
        assert last.repair().ok
        for name, sequence in traffic.acknowledged.items():
            assert last.load(name).sequence >= sequence
            told = last.verify_replicas(name)
            assert all(one["valid"] and one["lag"] == 0 for one in told.values()), told
            assert len({one["digest"] for one in told.values()}) == 1


def test_a_change_in_this_program_while_another_is_killed_says_who(tmp_path: Path) -> None:
    """What was left joint is named, and goes on."""
    wheres = places(tmp_path, 3)
    with open_store(wheres) as store:
        while not store.view.next:
            with changers(["add", ",".join(wheres), str(tmp_path / "new")]) as (changer,):
                changer.go()
                while (line := changer.line()) and not str(line[1]).startswith("bringing"):
                    pass
                changer.kill()
            if line[:1] != ["told"]:
                pytest.fail(f"it was not killed in time: {line}")
            artifact = create_maif("writer")
            artifact.add_text("under the joint membership")
            store.save("doc", artifact)
        with pytest.raises(MembershipBusy, match="add .*new.*resume"):
            store.remove_replica(wheres[0])
        view = store.resume_change()
        assert [member.where for member in view.members] == [*wheres, str(tmp_path / "new")]


def test_a_store_goes_on_under_other_members(tmp_path: Path) -> None:
    """All three directories are exchanged one after the other, while an older program has them open; then the old ones
    are removed from the disk."""
    old, new = places(tmp_path, 3), places(tmp_path / "new", 3)
    with open_store(old) as store, open_store(old) as other:
        artifact = create_maif("writer")
        artifact.add_text("kept")
        store.save("doc", artifact)
        for gone, come in zip(old, new, strict=True):
            store.replace_replica(gone, come)
            assert other.load("doc").get_content_list()[0]["text"] == "kept"
        for gone in old:
            shutil.rmtree(gone)
        assert other.load("doc").get_content_list()[0]["text"] == "kept"
        assert other.view == store.view
        assert [member.where for member in other.view.members] == new


def test_one_process_that_asks_under_an_old_membership_is_refused_by_all(tmp_path: Path) -> None:
    """Its replicas were all removed, and are still there: it cannot read what they last had."""
    wheres = places(tmp_path, 4)
    with open_store(wheres[:1]) as store, open_store(wheres[:1]) as other:
        artifact = create_maif("writer")
        artifact.add_text("old")
        store.save("doc", artifact)
        store.replace_replica(wheres[0], wheres[1])
        newer = store.load("doc")
        newer.add_text("newer")
        store.save("doc", newer)
        assert len(other.load("doc").get_content_list()) == 2
        older = create_maif("writer")
        older.add_text("x")
        assert other.save("doc", older).sequence == 3


def test_unreachable_members_are_named(tmp_path: Path) -> None:
    wheres = places(tmp_path, 3)
    with open_store(wheres) as store:
        for where in wheres[:2]:
            shutil.rmtree(where)
        with pytest.raises(LailaError) as caught:
            store.add_replica(str(tmp_path / "new"))
        assert all(where in str(caught.value) for where in wheres[:2]), caught.value
