"""Private copies: served fast while nobody touched them, noticed when somebody did, bounded, and nobody else's."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laila.artifacts import Artifact, TrustSet, default_identity
from laila.errors import ArtifactCorrupt, BadConfig, StorageError, UntrustedSigner
from laila.maif import create_maif, load_maif
from laila.shared import SharedArtifactStore, reading
from laila.shared.cache import Cache
from laila.shared.fingerprint import SETTLED, SETTLED_COARSE, Fingerprint
from laila.shared.private import cache_home, private_directory
from laila.transport.identity import Identity
from tests.shared.child import Child, run

Open = Callable[..., SharedArtifactStore]
MIB = 1 << 20


def blob(seed: int, size: int = MIB) -> Artifact:
    artifact = create_maif("blob")
    artifact.add_binary(bytes([seed]) * size)
    return artifact


def first(artifact: Artifact) -> int:
    """What a blob was made of; all of it is looked at."""
    data = bytes(artifact.get_content_list()[0]["content"])
    assert len(set(data)) == 1
    return data[0]


def copies(store: SharedArtifactStore) -> list[Path]:
    return sorted(Path(store.local_cache, "artifacts").iterdir())


def settle(store: SharedArtifactStore, name: str) -> None:
    """Load until the copy is served by its fingerprint."""
    hits = store._cache.counts.hits
    deadline = time.monotonic() + 60
    while store._cache.counts.hits == hits:
        assert time.monotonic() < deadline
        store.load_cached(name)


def change(path: Path, at: int = -600) -> None:
    """Another byte, the same size and times."""
    before = path.stat()
    path.chmod(0o600)
    whole = bytearray(path.read_bytes())
    whole[at] ^= 1
    path.write_bytes(whole)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- serving -------------------------------------------------------------------------------------------


def test_an_unchanged_copy_is_served_without_hashing_it(store: SharedArtifactStore) -> None:
    store.put("blob", blob(1, 5 * MIB))
    settle(store, "blob")
    counts = store._cache.counts
    checks, hits = counts.checks, counts.hits
    for _ in range(5):
        assert first(store.load_cached("blob")) == 1
    assert (counts.checks, counts.hits - hits, counts.fills) == (checks, 5, 1)


def test_a_large_copy_is_served_so_from_the_second_time_on(store: SharedArtifactStore) -> None:
    store.put("blob", blob(1, 5 * MIB))
    store.load_cached("blob")
    store.load_cached("blob")
    assert (store._cache.counts.hits, store._cache.counts.checks) == (1, 0)


def test_a_new_process_verifies_the_copy_once(open_store: Open) -> None:
    with open_store() as store:
        store.put("blob", blob(1, 5 * MIB))
        settle(store, "blob")
    with open_store() as store:
        assert first(store.load_cached("blob")) == 1
        assert (store._cache.counts.fills, store._cache.counts.checks, store._cache.counts.hits) == (0, 1, 0)


@pytest.mark.parametrize("size", [100, 5 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("settled", [False, True], ids=["soon", "later"])
def test_a_changed_copy_is_noticed_and_fetched_again(
    store: SharedArtifactStore, caplog: pytest.LogCaptureFixture, size: int, settled: bool
) -> None:
    store.put("blob", blob(1, size))
    store.load_cached("blob")
    if settled:
        settle(store, "blob")
    (copy,) = copies(store)
    change(copy, at=500)
    with caplog.at_level(logging.WARNING, "laila.shared"):
        assert first(store.load_cached("blob")) == 1
    assert store._cache.counts.damaged == 1
    assert "fetched again" in caplog.text
    assert first(load_maif(copies(store)[0])) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda copy: copy.write_bytes(b""),
        lambda copy: os.truncate(copy, 700),
        lambda copy: copy.write_bytes(b"rubbish" * 1000),
        lambda copy: copy.unlink(),
        lambda copy: change(copy, 50),
        lambda copy: change(copy, -1),
    ],
    ids=["emptied", "cut off", "rubbish", "gone", "header", "last byte"],
)
def test_a_spoiled_copy_is_fetched_again(store: SharedArtifactStore, spoil: Callable[[Path], object]) -> None:
    store.put("blob", blob(1))
    settle(store, "blob")
    (copy,) = copies(store)
    copy.chmod(0o600)
    spoil(copy)
    assert first(store.load_cached("blob")) == 1
    assert store._cache.counts.fills == 2


def test_a_copy_that_was_exchanged_for_another_good_artifact(store: SharedArtifactStore) -> None:
    store.put("one", blob(1))
    store.load_cached("one")
    (one,) = copies(store)
    store.put("two", blob(2))
    store.load_cached("two")
    (two,) = set(copies(store)) - {one}
    two.replace(one)
    assert first(store.load_cached("one")) == 1
    assert first(store.load_cached("two")) == 2
    assert (store._cache.counts.damaged, store._cache.counts.fills) == (1, 4)


def test_a_copy_changed_while_an_artifact_of_it_is_in_use_never_gives_other_bytes(
    store: SharedArtifactStore,
) -> None:
    store.put("blob", blob(1, 5 * MIB))
    settle(store, "blob")
    artifact = store.load_cached("blob")  # its content has not been looked at
    change(copies(store)[0], at=3 * MIB)
    with pytest.raises(ArtifactCorrupt):
        first(artifact)
    assert first(store.load_cached("blob")) == 1


def test_a_signer_who_is_trusted_no_longer_is_not_served_from_a_copy(open_store: Open) -> None:
    peers: set[str] = {default_identity().node_id}
    reader = open_store(identity=Identity.ephemeral(), trust=TrustSet(node_ids=lambda: peers))
    open_store().put("blob", blob(1))
    settle(reader, "blob")
    peers.clear()
    with pytest.raises(UntrustedSigner):
        reader.load_cached("blob")


# -- fingerprints --------------------------------------------------------------------------------------


def test_a_fingerprint_taken_soon_after_a_change_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    changed = path.stat().st_ctime
    soon, later = (Fingerprint.of(path, now=changed + after) for after in (SETTLED * 0.9, SETTLED * 1.1))
    assert soon == later
    assert not soon.proves(soon)
    assert later.proves(soon)


def test_coarse_times_take_longer_to_settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    real = Path.lstat

    def whole_seconds(self: Path) -> os.stat_result:
        found = list(real(self))
        return os.stat_result(
            found, {"st_ctime": float(found[9]), "st_ctime_ns": found[9] * 10**9, "st_mtime_ns": 0}
        )

    monkeypatch.setattr(Path, "lstat", whole_seconds)
    changed = path.lstat().st_ctime
    assert Fingerprint.of(path, now=changed + SETTLED_COARSE * 0.9).unsettled
    assert not Fingerprint.of(path, now=changed + SETTLED_COARSE * 1.1).unsettled


@pytest.mark.parametrize(
    "touch", [Path.touch, lambda path: path.chmod(0o600), lambda path: path.write_text("x")]
)
def test_whatever_is_done_to_a_file_shows(tmp_path: Path, touch: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    deadline = time.monotonic() + 60
    while (before := Fingerprint.of(path)).unsettled:
        assert time.monotonic() < deadline
        time.sleep(before.unsettled)
    assert before.proves(Fingerprint.of(path))
    touch(path)
    os.utime(path, ns=(before.modified_ns, before.modified_ns))
    assert not before.proves(Fingerprint.of(path))


def test_a_clock_that_went_back_only_costs_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    assert 0 < Fingerprint.of(path, now=path.stat().st_ctime - 10_000).unsettled <= SETTLED_COARSE


# -- room ----------------------------------------------------------------------------------------------


def test_the_least_recently_used_copies_go(open_store: Open) -> None:
    store = open_store(cache_bytes=3 * MIB + MIB // 2)
    for number in range(3):
        store.put(f"blob{number}", blob(number))
        store.load_cached(f"blob{number}")
    used = Path(store.local_cache, "used")
    for age, copy in enumerate(sorted(used.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(copy, (1000 + age, 1000 + age))
    store._cache._touched.clear()
    store.load_cached("blob0")  # used again
    store.put("blob3", blob(3))
    store.load_cached("blob3")
    assert store._cache.counts.evicted == 1
    fills = store._cache.counts.fills
    assert [first(store.load_cached(name)) for name in ("blob0", "blob2", "blob3")] == [0, 2, 3]
    assert store._cache.counts.fills == fills
    assert first(store.load_cached("blob1")) == 1
    assert store._cache.counts.fills == fills + 1


def test_copies_that_are_in_use_stay(open_store: Open) -> None:
    store = open_store(cache_bytes=MIB + MIB // 2)
    held = []
    for number in range(3):
        store.put(f"blob{number}", blob(number))
        held.append(store.load_cached(f"blob{number}"))
    assert len(copies(store)) == 3
    held.clear()
    store.put("blob3", blob(3))
    assert first(store.load_cached("blob3")) == 3
    assert len(copies(store)) == 1


def test_without_room_for_anything_artifacts_are_served_all_the_same(open_store: Open) -> None:
    store = open_store(cache_bytes=0)
    for number in range(3):
        store.put("blob", blob(number))
        assert first(store.load_cached("blob")) == number
    assert len(copies(store)) <= 1


def test_what_killed_fillers_left_is_removed(store: SharedArtifactStore) -> None:
    new = Path(store.local_cache, "new")
    dead, alive, fresh = (new / name for name in ("dead", "alive", "fresh"))
    for path in (dead, alive, fresh):
        path.write_bytes(b"x")
    for path in (dead, alive):
        os.utime(path, (1000, 1000))
    with alive.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store._cache.clear()
        assert sorted(path.name for path in new.iterdir()) == ["alive", "fresh"]


def test_filling_at_once_from_several_processes(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    store.put("blob", blob(7, 3 * MIB))
    code = """
import sys
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1], sys.argv[2]) as store:
    print("ready", flush=True)
    input()
    for _ in range(5):
        assert set(bytes(store.load_cached("blob").get_content_list()[0]["content"])) == {7}
    print("done", flush=True)
"""
    children = [Child(code, shared, tmp_path / "cache") for _ in range(4)]
    try:
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.say()
        for child in children:
            assert child.hear() == "done"
    finally:
        for child in children:
            child.__exit__(None, None, None)
    (directory,) = (tmp_path / "cache").iterdir()
    assert len(list((directory / "artifacts").iterdir())) == 1
    assert list((directory / "new").iterdir()) == []


# -- large artifacts -----------------------------------------------------------------------------------


def test_a_large_artifact_is_never_mapped_from_the_volume(
    store: SharedArtifactStore, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shortens the file there would kill a reader that has mapped it."""
    monkeypatch.setattr(reading, "READ_UP_TO", MIB)
    store.put("blob", blob(1, 5 * MIB))
    artifact = store.load("blob")
    os.truncate(shared / "blob.maif", 1000)
    assert first(artifact) == 1
    assert str(artifact.path).startswith(store.local_cache)


def test_shortening_a_file_on_the_volume_kills_nobody(store: SharedArtifactStore, shared: Path) -> None:
    store.put("blob", blob(1, 8 * MIB))
    code = """
import os, sys
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1]) as store:
    for load in (store.load, store.load_cached):
        artifact = load("blob")
        whole = open(sys.argv[1] + "/blob.maif", "rb").read()
        os.truncate(sys.argv[1] + "/blob.maif", 1000)
        assert set(bytes(artifact.get_content_list()[0]["content"])) == {1}
        open(sys.argv[1] + "/blob.maif", "wb").write(whole)
"""
    run(code, shared)


# -- whose it is ---------------------------------------------------------------------------------------


def test_the_default_cache_is_private(store: SharedArtifactStore, state: Path) -> None:
    store.put("blob", blob(1))
    store.load_cached("blob")
    directory = Path(store.local_cache)
    assert directory.parent == state / "cache"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [copy.stat().st_mode & 0o777 for copy in copies(store)] == [0o400]


def test_where_caches_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_home() == tmp_path / "state" / "cache"
    monkeypatch.delenv("LAILA_STATE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "laila"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home" / ".cache" / "laila"


def test_a_cache_that_others_may_write_is_refused(open_store: Open, shared: Path, tmp_path: Path) -> None:
    store = open_store(None, tmp_path / "cache")
    directory = Path(store.local_cache)
    directory.chmod(0o770)
    with pytest.raises(BadConfig, match="may be written by others"):
        SharedArtifactStore(shared, tmp_path / "cache")
    directory.chmod(0o700)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(BadConfig, match="may be written by others"):
        SharedArtifactStore(shared, tmp_path / "cache")
    (tmp_path / "cache").chmod(0o1777)  # as /tmp is: nobody can take another's directory away there
    open_store(None, tmp_path / "cache")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_cache_of_somebody_else_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    os.chown(tmp_path / "cache", 65534, 65534)
    with pytest.raises(BadConfig, match="belongs to user 65534"):
        SharedArtifactStore(shared, tmp_path / "cache")


def test_a_link_in_the_place_of_a_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base").mkdir(mode=0o700)
    (tmp_path / "base" / "name").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="not a directory"):
        private_directory(tmp_path / "base", "name")


def test_settling_takes_longer_than_the_clocks_step() -> None:
    """Of the clock that the kernel takes file times from."""
    assert time.clock_getres(5) < SETTLED / 2  # CLOCK_REALTIME_COARSE


def test_copies_that_others_throw_away_are_no_missing_artifacts(open_store: Open) -> None:
    """Another process makes room in the same cache, over and over: what is on the volume is there all the same."""
    store = open_store()
    store.create("there", "text")
    other = Cache(Path(store.local_cache), 1)
    over = threading.Event()

    def clear() -> None:
        while not over.wait(0.0005):
            other.clear()

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        for _ in range(300):
            assert store.load_cached("there").get_content_list()[0]["text"] == "text"
    finally:
        over.set()
        clearing.join()
