"""A directory as a replica."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import TrustSet
from laila.codec import Buffer
from laila.errors import ArtifactError, MembershipStale, StorageError, UnsafeVolume, UntrustedSigner
from laila.locks import connect
from laila.maif import load_maif
from laila.mounts import mount_of
from laila.replication import stripes
from laila.replication.copies import CHUNK, Copy
from laila.replication.directory import DirectoryReplica
from laila.replication.incoming import Incoming
from laila.replication.index import File, unchanged
from laila.replication.replica import Replica, Stamp
from laila.replication.tags import Unsure
from laila.shared.fingerprint import Fingerprint
from laila.volumes.verdict import UNSAFE, Verdict, keep
from tests.replication.replica_conformance import ReplicaConformance, found, held
from tests.replication.versions import ANOTHER, ME, STAMP, STRANGER, Author, bytes_of, put, settle, trust_of
from tests.shared.child import run
from tests.shared.mounts import mounted

ROOT = Path(__file__).parents[2]


def opened(place: str, trust: TrustSet) -> Replica:
    return DirectoryReplica(place, trust)


class TestDirectory(ReplicaConformance):
    """The suite for all replicas."""

    opener = "tests.replication.test_directory_replica:opened"

    def opened(self, place: str, trust: TrustSet) -> Replica:
        return opened(place, trust)

    def _file(self, place: str, name: str) -> Path:
        live, gone = Path(place) / f"{name}.maif", Path(place) / ".laila" / "gone" / f"{name}.maif"
        return live if live.exists() else gone

    def stored(self, place: str, name: str) -> bytes:
        return self._file(place, name).read_bytes()

    def overwrite(self, place: str, name: str, data: bytes | None) -> None:
        if data is None:
            self._file(place, name).unlink()
        else:
            self._file(place, name).write_bytes(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica"


@pytest.fixture
def replica(path: Path, trust: TrustSet) -> Iterator[DirectoryReplica]:
    with contextlib.closing(DirectoryReplica(path, trust)) as replica:
        replica.mark(STAMP)
        yield replica


@pytest.fixture
def again(path: Path, trust: TrustSet) -> Iterator[Callable[..., DirectoryReplica]]:
    """Opens it as another program would."""
    with contextlib.ExitStack() as stack:

        def open_one(by: TrustSet = trust) -> DirectoryReplica:
            return stack.enter_context(contextlib.closing(DirectoryReplica(path, by)))

        yield open_one


def files(path: Path) -> list[str]:
    return sorted(
        str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and "locks" not in str(file)
    )


# --- killed


def kills(what: str, path: Path, count: int) -> list[dict[str, Any]]:
    """What each kill left."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.replication.killing", what, str(path), str(count)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    assert sum(one["killed"] for one in found) > count * 0.9
    assert not all(one["killed"] for one in found), "some came to the end: all lines had their turn"
    assert all(one["witness"] == one["newcomer"] for one in found), (
        "who saw everything is as sure as who comes new"
    )
    return found


def test_killed_at_every_line_of_a_put(path: Path) -> None:
    """The old version or the new one is there, whole, live or tombstone; what was acknowledged is there."""
    outcomes = kills("put", path, 220)
    before, taken = 2, 0
    for one in outcomes:
        sequence, gone, valid, named = one["witness"]
        assert sequence in ((one["number"],) if one["done"] else (before, one["number"])), one
        assert gone == (sequence % 3 == 0), one
        assert valid, one
        assert named, one
        taken += one["killed"] and sequence == one["number"]
        before = sequence
    assert taken > 10, "some kills came after it took its place"
    assert sum(one["swept"] for one in outcomes) > 20, "some left what was on its way"


def test_killed_at_every_line_of_care(path: Path) -> None:
    """From the mark on it is unsure, until the newest is settled; never does it say that it had nothing."""
    outcomes = kills("care", path, 100)
    before = 1002
    for one in outcomes:
        newest = 1000 + one["number"]
        if isinstance(one["witness"], str):
            assert one["witness"].startswith("Unsure("), one
            assert not one["done"], one
            before = None
        else:
            sequence, gone, valid, named = one["witness"]
            assert (gone, valid, named) == (False, True, True), one
            assert sequence in (before, newest), one
            before = sequence
    unsure = sum(isinstance(one["witness"], str) for one in outcomes)
    assert 20 < unsure < 95


def test_killed_at_every_line_of_a_ballot(path: Path) -> None:
    """The old one or the new one, never a part; what was acknowledged is there."""
    before = 2
    for one in kills("ballot", path, 60):
        number, whole = one["witness"]
        assert whole, one
        assert number in ((one["number"],) if one["done"] else (before, one["number"])), one
        before = number


def test_what_killed_writers_left_is_swept(replica, path, again, author) -> None:
    """When it is old and its writer is dead; not while a writer has it."""
    put(replica, author.version("doc", 1))
    incoming = path / ".laila" / "incoming"
    leftover, recent = incoming / "00ff.tmp", incoming / "11ff.tmp"
    for file in (leftover, recent):
        file.write_bytes(b"half a version")
    with Incoming(incoming) as alive:
        alive.write(b"half a version, for hours now")
        (living,) = set(incoming.iterdir()) - {leftover, recent}
        for file in (leftover, living):
            os.utime(file, (1, 1))
        again().stamp()
        assert sorted(incoming.iterdir()) == sorted([recent, living])


# --- two files of one name


def test_of_two_files_the_greater_tag_counts(replica, path, again, author) -> None:
    """As a kill leaves them; the lesser one goes when somebody writes, or scrubs."""
    live, gone = path / "doc.maif", path / ".laila" / "gone" / "doc.maif"
    for sequence in (1, 2):
        put(replica, author.version("doc", sequence, gone=sequence == 2))
    tombstone = gone.read_bytes()
    with author.version("doc", 1) as older, author.version("doc", 3) as newer:
        live.write_bytes(bytes_of(older))
        assert found(replica) == found(again()) == found(replica)
        assert found(replica).gone
        assert replica.names(0).live == again().names(0).live == []
        assert dict(replica.scrub())["doc"].valid
        assert files(path) == [".laila/gone/doc.maif", ".laila/replica.json"]

        replica.put(newer, 0)
        gone.write_bytes(tombstone)
        assert found(replica) == found(again()) == newer.stand
        assert replica.names(0).live == again().names(0).live == ["doc"]
        put(again(), author.version("doc", 4))
        assert not gone.exists()


# --- other people's files


def test_the_seeds_files_are_adopted(path, author, again) -> None:
    """A directory that the seed's program filled becomes a replica; its files are version 0 of their names."""
    path.mkdir()
    data = author.unnamed()
    (path / "doc.maif").write_bytes(data)
    (path / "notes.txt").write_text("no version of anything")
    (path / ".hidden.maif").write_bytes(data)
    replica = again()
    assert replica.stamp() == Stamp()
    replica.mark(STAMP)
    stand = found(replica)
    assert (stand.sequence, stand.gone, stand.size) == (0, False, len(data))
    assert held(replica) == data
    assert replica.names(0).live == ["doc"]
    assert put(replica, author.version("doc", 1)).sequence == 1
    artifact = load_maif(path / "doc.maif")
    assert artifact.verify()
    assert artifact.get_content_list()[0]["text"] == "version 1 of doc"


def test_a_version_that_was_copied_here_by_hand_counts(replica, path, author) -> None:
    with author.version("doc", 7) as copy:
        put(replica, author.version("doc", 3))
        (path / "doc.maif").write_bytes(bytes_of(copy))
        assert found(replica) == copy.stand
        assert held(replica) == bytes_of(copy)


def test_a_file_under_another_name_does_not_count(replica, path, again, author) -> None:
    put(replica, author.version("doc", 1))
    (path / "doc.maif").rename(path / "other.maif")
    for one in (replica, again()):
        assert isinstance(found(one, "other"), Unsure)
        assert isinstance(found(one), Unsure)
        with pytest.raises(ArtifactError):
            one.fetch("other", 0)
    assert replica.quarantined() == ["other"]


def test_who_does_not_trust_the_writer_harms_nothing(replica, again, stranger, author) -> None:
    """A program that lacks a key says Unsure for itself: it marks nothing and sets nothing aside."""
    stand = put(replica, author.version("doc", 1))
    blind = again(stranger.trust)
    for _ in range(2):
        assert isinstance(found(blind), Unsure)
        with pytest.raises(ArtifactError):
            blind.fetch("doc", 0)
        assert not blind.check("doc", 0).valid
        assert not dict(blind.scrub())["doc"].valid
        settle(blind, None)
        assert blind.names(0).live == []
    assert found(replica) == found(again()) == stand
    assert replica.quarantined() == []


def test_links_that_somebody_put_there_are_not_followed(tmp_path, path, again, author) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path.mkdir()
    (path / ".laila").symlink_to(elsewhere)
    with author.version("doc", 1) as copy:
        for call in (lambda: again().mark(STAMP), lambda: again().put(copy, 0), lambda: again().names(0)):
            with pytest.raises(StorageError, match="no directory"):
                call()
        assert list(elsewhere.iterdir()) == []
        (path / ".laila").unlink()
        replica = again()
        replica.mark(STAMP)
        (elsewhere / "doc.maif").write_bytes(bytes_of(copy))
        (path / "doc.maif").symlink_to(elsewhere / "doc.maif")
        assert isinstance(found(replica), Unsure)
        with pytest.raises(ArtifactError):
            replica.fetch("doc", 0)
        assert replica.put(copy, 0) == copy.stand
        assert not (path / "doc.maif").is_symlink()
        assert (elsewhere / "doc.maif").read_bytes() == bytes_of(copy)


# --- the place


def test_a_directory_that_is_not_there_is_made_or_missed(tmp_path, trust, author) -> None:
    missing = tmp_path / "a" / "b"
    with contextlib.closing(DirectoryReplica(missing, trust, create=False)) as replica:
        with pytest.raises(StorageError) as caught:
            found(replica)
        assert caught.value.reason == "ENOENT"
        assert not missing.exists()
        missing.mkdir(parents=True)
        assert replica.stamp() == Stamp(), "it is used as soon as it is there"
    with contextlib.closing(DirectoryReplica(tmp_path / "c" / "d", trust)) as replica:
        put(replica, author.version("doc", 1))
    (tmp_path / "file").touch()
    with contextlib.closing(DirectoryReplica(tmp_path / "file", trust)) as replica:
        with pytest.raises(StorageError):
            found(replica)


def test_an_exchanged_disk_is_out_of_reach_and_not_empty(replica, path, again, author) -> None:
    """Whether an empty directory is there or another replica; the same one is taken again, also when it was moved."""
    with author.version("doc", 1) as copy, author.version("doc", 2) as next:
        replica.put(copy, 0)
        away = path.with_name("away")
        path.rename(away)

        def refused() -> None:
            for call in (
                lambda: found(replica),
                lambda: replica.fetch("doc", 0),
                lambda: replica.put(next, 0),
                lambda: replica.cast(None, b"x"),
                lambda: replica.names(0),
                replica.stamp,
                lambda: replica.branches([""]),
                lambda: list(replica.scrub()),
            ):
                with pytest.raises(StorageError) as caught:
                    call()
                assert caught.value.reason == "ESTALE"

        refused()
        path.mkdir()
        refused()
        assert list(path.iterdir()) == []
        another = again()
        another.mark(Stamp(STAMP.store, "another-replica"))
        refused()
        shutil.rmtree(path)
        shutil.copytree(away, path)
        assert found(replica) == copy.stand
        shutil.rmtree(path)
        away.rename(path)
        assert found(replica) == copy.stand
        assert replica.put(next, 0) == next.stand


def test_a_replica_without_its_stamp_counts_for_nothing(replica, path, author) -> None:
    """Its records are gone, and tombstones may have been among them."""
    stand = put(replica, author.version("doc", 1))
    shutil.rmtree(path / ".laila")
    assert replica.stamp() == Stamp()
    assert isinstance(found(replica), Unsure)
    replica.mark(Stamp(STAMP.store, STAMP.replica, rebuilding=True))
    replica.mark(STAMP)
    assert found(replica) == stand


def test_damaged_records_are_told(replica, path, author, again) -> None:
    replica.learn(author.membership(2))
    assert replica.cast(None, b"promise")
    records = path / ".laila"
    for file, calls in {
        "ballot": (replica.ballot, again().ballot),
        "membership.maif": (lambda: found(replica, number=9), lambda: found(again(), number=9)),
        "replica.json": (replica.stamp, again().stamp, lambda: found(replica, number=9)),
    }.items():
        before = (records / file).read_bytes()
        (records / file).write_bytes(before[: len(before) // 2])
        for call in calls:
            with pytest.raises(StorageError) as caught:
                call()
            assert caught.value.reason == "EBADMSG"
        if file == "membership.maif":
            assert replica.membership() is None
            replica.learn(before)
        else:
            (records / file).write_bytes(before)
    assert found(replica, number=2) is None
    assert replica.ballot() == b"promise"


def test_an_unsafe_volume_is_refused(path, again) -> None:
    path.mkdir()
    keep(path, Verdict(UNSAFE, "both nodes held the lock at once", (), mount_of(path), ("a", "b")))
    with pytest.raises(UnsafeVolume, match="both nodes held the lock at once"):
        again().stamp()


def test_a_lock_that_is_held_for_too_long_is_told(replica, path, author, monkeypatch) -> None:
    """With who holds it; looking and reading go on meanwhile."""
    stand = put(replica, author.version("doc", 1))
    monkeypatch.setattr(stripes, "PATIENCE", 0.2)
    (lock,) = {file.name for file in (path / ".laila" / "locks").glob("[0-9]*.lock")}
    with connect(str(path / ".laila" / "locks"), node="the-holder") as locks:
        with locks.lock(lock.removesuffix(".lock")).acquire(5), author.version("doc", 2) as copy:
            with pytest.raises(StorageError, match="the-holder") as caught:
                replica.put(copy, 0)
            assert caught.value.reason == "EBUSY"
            assert found(replica) == stand
            replica.fetch("doc", 0).close()
    assert put(replica, author.version("doc", 2)).sequence == 2


def test_a_copy_that_changes_while_it_is_read_is_refused(replica, tmp_path, trust, author) -> None:
    """A large one that another directory handed out lies in a file there, which somebody may write to."""
    with contextlib.closing(DirectoryReplica(tmp_path / "other", trust)) as other:
        other.mark(Stamp(STAMP.store, "another-replica"))
        put(other, author.version("doc", 1, size=6 << 20))
        with other.fetch("doc", 0) as copy:
            with (tmp_path / "other" / "doc.maif").open("r+b") as file:
                file.seek(3 << 20)
                file.write(b"naive")
            with pytest.raises(ArtifactError, match="changed"):
                replica.put(copy, 0)
    assert found(replica) is None


def test_a_file_that_changed_just_now_is_read_again(tmp_path) -> None:
    """File times come in steps: what a file was within the step of its last change proves nothing."""
    file = tmp_path / "file"
    file.touch()
    status = file.lstat()
    for age, same in ((0.001, False), (60.0, True)):
        known = File(Fingerprint.of_status(status, now=status.st_ctime + age), Unsure("whatever it was"))
        assert unchanged(known, status) is same
    assert unchanged(None, None)
    assert not unchanged(None, status)
    assert not unchanged(known, None)


def test_a_membership_that_comes_during_a_put_refuses_it(replica, author) -> None:
    """What was stored stays, but nobody may count it as stored under the old membership."""
    document = author.membership(5)

    class Slow(Copy):
        def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, Buffer]]:
            yield from super().chunks(size)
            replica.learn(document)

    with author.version("doc", 1) as copy:
        slow = Slow("doc", copy.stand, bytes_of(copy))
        with pytest.raises(MembershipStale) as caught:
            replica.put(slow, 4)
        assert caught.value.number == 5
        assert found(replica, number=5) == copy.stand


def test_names_may_come_and_go_during_a_scrub(replica, path, author) -> None:
    for name in "abcdef":
        put(replica, author.version(name, 1))
    seen = {}
    for name, health in replica.scrub():
        seen[name] = health.valid
        if name == "a":
            put(replica, author.version("b", 2, gone=True))
            put(replica, author.version("c", 2))
            put(replica, author.version("z", 1))
            replica.distrust("d", "just now")
    assert {name: valid for name, valid in seen.items() if name != "z"} == {
        "a": True, "b": True, "c": True, "d": False, "e": True, "f": True,
    }  # fmt: skip


def test_nothing_is_left_open(replica, path, author) -> None:
    """Copies of files, large and small, are closed with the copy, and everything else with the replica."""
    put(replica, author.version("small", 1))
    put(replica, author.version("large", 1, size=6 << 20))

    def opened() -> list[str]:
        links = []
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            with contextlib.suppress(FileNotFoundError):  # the one of this listing
                links.append(str(descriptor.readlink()))
        return [link for link in links if link.startswith(str(path))]

    before = len(opened())
    for _ in range(5):
        for name in ("small", "large"):
            replica.fetch(name, 0).close()
            with pytest.raises(StorageError):
                replica.put(tampered_after(author.version(name, 2)), 0)
        list(replica.scrub())
    assert len(opened()) == before
    replica.close()
    assert opened() == []


def tampered_after(copy: Copy) -> Copy:
    """A copy whose disk fails in the middle."""

    class Failing(Copy):
        def chunks(self, size: int = CHUNK) -> Iterator[tuple[int, Buffer]]:
            yield 0, self.read(0, 100)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with copy:
        return Failing(copy.name, copy.stand, bytes_of(copy))


# --- disks that are full, read-only, or gone: programs in a mount namespace of their own

PROGRAM = """
import sys, os, subprocess
from pathlib import Path
from laila.errors import ArtifactError, StorageError
from laila.replication.directory import DirectoryReplica
from laila.replication.tags import Stand, Unsure
from tests.replication.versions import *
trust = trust_of(ME, ANOTHER)
author = Author(ME, trust)
path = Path(sys.argv[1])
replica = DirectoryReplica(path / "replica", trust)
replica.mark(STAMP)
def found(name="doc", replica=replica):
    return replica.look([name], 0)[0]
def reason(call):
    try:
        call()
    except StorageError as error:
        return f"{error.reason} {error}"
    raise AssertionError("it did not fail")
"""

FULL = """
stand = put(replica, author.version("doc", 1))
large = author.version("doc", 2, size=40 << 20)
said = reason(lambda: replica.put(large, 0))
assert said.startswith("ENOSPC") and "free space" in said, said
assert found() == stand and replica.check("doc", 0).valid
assert list((path / "replica/.laila/incoming").iterdir()) == []
filler = path / "filler"
with filler.open("wb") as file:
    try:
        while True:
            file.write(bytes(1 << 16)); file.flush()
    except OSError:
        pass
assert reason(lambda: put(replica, author.version("doc", 3))).startswith("ENOSPC")
assert reason(lambda: replica.cast(None, b"x" * 9000)).startswith("ENOSPC")
assert found() == stand and replica.names(0).live == ["doc"] and replica.ballot() is None
data = bytearray((path / "replica/doc.maif").read_bytes()); data[700] ^= 1
with open(path / "replica/doc.maif", "r+b") as file:
    file.write(data)
try:
    replica.fetch("doc", 0)
    raise SystemExit("damaged bytes were handed out")
except ArtifactError:
    pass
assert isinstance(found(), Unsure)
filler.unlink()
assert put(replica, author.version("doc", 3)).sequence == 3
assert put(replica, author.version("new", 1)).sequence == 1
print("fine")
"""

READ_ONLY = """
stand = put(replica, author.version("doc", 1))
put(replica, author.version("bad", 1))
data = bytearray((path / "replica/bad.maif").read_bytes()); data[700] ^= 1
replica.close()
(path / "replica/bad.maif").write_bytes(data)
subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
replica = DirectoryReplica(path / "replica", trust)
assert replica.stamp() == STAMP and replica.membership() is None and replica.ballot() is None
assert found(replica=replica) == stand and replica.names(0).live == ["bad", "doc"]
assert bytes_of(replica.fetch("doc", 0)) == (path / "replica/doc.maif").read_bytes()
assert replica.branches([""])[0].count == 2
for call in (lambda: put(replica, author.version("doc", 2)), lambda: put(replica, author.version("new", 1)),
             lambda: replica.cast(None, b"x"), lambda: replica.learn(author.membership(1)),
             lambda: replica.distrust("doc", "as a test"), lambda: replica.mark(STAMP)):
    said = reason(call)
    assert said.startswith("EROFS") and "read-only" in said, said
assert found(replica=replica) == stand
try:
    replica.fetch("bad", 0)
    raise SystemExit("damaged bytes were handed out")
except ArtifactError:
    pass
assert isinstance(found("bad", replica), Unsure)
assert {name: health.valid for name, health in replica.scrub()} == {"bad": False, "doc": True}
print("fine")
"""

UNMOUNTED = """
disk, place = path / "disk", path / "mounted"
disk.mkdir(), place.mkdir()
mount = lambda: subprocess.run(["mount", "--bind", str(disk), str(place)], check=True)
mount()
replica = DirectoryReplica(place, trust)
replica.mark(STAMP)
stand = put(replica, author.version("doc", 1))
assert found("doc", replica) == stand
subprocess.run(["umount", "--lazy", str(place)], check=True)
for call in (lambda: found("doc", replica), lambda: replica.names(0), lambda: put(replica, author.version("doc", 2)),
             lambda: replica.fetch("doc", 0), lambda: replica.distrust("doc", "x"), replica.stamp):
    assert reason(call).startswith("ESTALE")
assert list(place.iterdir()) == []
mount()
assert found("doc", replica) == stand
assert put(replica, author.version("doc", 2)).sequence == 2
print("fine")
"""


@pytest.mark.parametrize("program", [FULL, READ_ONLY, UNMOUNTED], ids=["full", "read-only", "unmounted"])
def test_a_disk_that_fails_is_told_and_loses_nothing(program: str, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    assert run(PROGRAM + program, mount, before=mounted(mount, "size=24m")) == "fine\n"


# --- power cuts


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[str]:
    """What is synced, renamed and removed below the replica, in order."""
    done: list[str] = []
    sync, rename, unlink = os.fsync, os.rename, os.unlink

    def short(place: object) -> str:
        word = str(place).removeprefix(str(path)) or "/"
        return "/.laila/incoming/…" if word.startswith("/.laila/incoming/") else word

    def synced(descriptor: int) -> None:
        done.append(f"sync {short(Path(f'/proc/self/fd/{descriptor}').readlink())}")
        sync(descriptor)

    def renamed(source: object, target: object, **options: Any) -> None:
        done.append(f"rename {short(source)} {short(target)}")
        rename(source, target, **options)

    def removed(place: object, **options: Any) -> None:
        done.append(f"remove {short(place)}")
        unlink(place, **options)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "unlink", removed)
    return done


def test_what_is_acknowledged_is_on_disk(replica, author, steps) -> None:
    """The bytes before they take their place, their place before the answer; what they replace goes last."""
    put(replica, author.version("doc", 1))
    steps.clear()
    live, gone = "/doc.maif", "/.laila/gone/doc.maif"
    placed = ["sync /.laila/incoming/…", "rename /.laila/incoming/… {0}", "sync {1}"]
    put(replica, author.version("doc", 2))
    assert [step for step in steps if gone not in step] == [step.format(live, "/") for step in placed]
    steps.clear()
    put(replica, author.version("doc", 3, gone=True))
    assert steps == [*(step.format(gone, "/.laila/gone") for step in placed), f"remove {live}"]
    steps.clear()
    put(replica, author.version("doc", 4))
    assert steps == [*(step.format(live, "/") for step in placed), f"remove {gone}"]
    steps.clear()
    replica.cast(None, b"promise")
    assert steps == [step.format("/.laila/ballot", "/.laila") for step in placed]
    steps.clear()
    replica.distrust("doc", "as a test")
    assert steps[:2] == ["sync /.laila/suspect/doc", "sync /.laila/suspect"]
    assert steps[2].startswith("rename /doc.maif /.laila/quarantine/doc.")


def test_what_is_told_of_others_is_on_disk(replica, again, author, steps) -> None:
    """Another program may have put it there just now, and been killed before it synced."""
    other = again()
    for sequence, gone, place in ((1, False, "/"), (2, True, "/.laila/gone"), (3, False, "/")):
        stand = put(other, author.version("doc", sequence, gone=gone))
        steps.clear()
        assert found(replica) == stand
        assert steps == [f"sync {place}"]
        assert found(replica) == stand
        assert steps == [f"sync {place}"]
    put(other, author.version("other", 1))
    steps.clear()
    assert replica.branches([""])[0].count == 2
    assert steps == ["sync /"]


# ---- what is bad for one program alone ----


def test_what_only_this_program_does_not_believe_is_not_touched(
    replica, path, trust, author, stranger
) -> None:
    """Somebody else acknowledged it. Neither put, nor settling, nor distrust, nor a scrub moves the file."""
    with contextlib.closing(DirectoryReplica(path, trust_of(ME, ANOTHER, STRANGER))) as other:
        theirs = Author(STRANGER, trust_of(ME, ANOTHER, STRANGER))
        for gone in (False, True):
            stand = put(other, theirs.version("doc", 2 + gone, gone=gone))
            assert isinstance(found(replica), Unsure)
            with author.version("doc", 1) as copy:
                for call in (
                    lambda copy=copy: replica.put(copy, 0),
                    lambda: replica.distrust("doc", "a test"),
                ):
                    with pytest.raises(UntrustedSigner):
                        call()
            settle(replica, None)
            list(replica.scrub())
            with pytest.raises(ArtifactError):
                replica.fetch("doc", 0)
            assert replica.quarantined() == []
            assert found(other) == stand
        other.distrust("doc", "somebody said so")
        stand = put(other, theirs.version("doc", 4))
        with pytest.raises(UntrustedSigner):
            settle(replica, None)
        assert replica.quarantined() == ["doc"]
        settle(other, stand.tag)
        assert found(other) == stand


def test_a_version_that_replaces_a_tombstone_during_a_look_is_seen(
    replica, path, again, author, monkeypatch
) -> None:
    """The look reads one file, then the other: what moved in between must not be "never"."""
    put(replica, author.version("doc", 1, gone=True))
    tombstone = str(path / ".laila" / "gone" / "doc.maif")
    lstat, looks = os.lstat, []
    writer = threading.Lock()

    def late(file, **options):
        if str(file) == tombstone and writer.acquire(blocking=False):  # never released: once
            looks.append(put(replica, author.version("doc", 2)))
        return lstat(file, **options)

    fresh = again()
    fresh.stamp()
    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", late)
        seen = found(fresh)
    assert looks
    assert seen == looks[0]


def test_a_version_that_vanishes_while_it_is_suspect_has_a_new_mark(replica, path, author) -> None:
    """What was acknowledged meanwhile is lost, whoever settles the first loss."""
    replica.distrust("doc", "the first loss")
    first = found(replica).mark
    put(replica, author.version("doc", 2))
    (path / "doc.maif").unlink()
    with author.version("doc", 1) as old:
        replica.put(old, 0)
        replica.settle("doc", old.stand.tag, first)
    assert isinstance(found(replica), Unsure)
    assert found(replica).mark != first
