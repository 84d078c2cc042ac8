"""A holder that was stopped, and overtaken meanwhile, cannot publish; what its successor published stays."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laila.artifacts import Artifact
from laila.errors import LockError, LockLost, LockTimeout, NotAnArtifact
from laila.maif import create_maif, load_maif
from laila.shared import SharedArtifactStore
from laila.shared.locking import Locking
from tests.locks.servers import RedisServer, running
from tests.shared.child import Child
from tests.shared.seed import naive_store

Open = Callable[..., SharedArtifactStore]
PATIENCE = 60.0

EDITING = """
import sys
from laila.errors import LailaError
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1], sys.argv[2], locks=sys.argv[3] or None) as store:
    try:
        with store.edit("doc") as artifact:
            artifact.add_text("by the one who was stopped")
            print("holding", flush=True)
            input()
    except LailaError as error:
        print(type(error).__name__, error, flush=True)
    else:
        print("published", flush=True)
"""

STOPPED_AT_THE_RENAME = """
import os, pathlib, signal, sys
rename = pathlib.Path.replace
def stop_before(self, target):
    if self.name.endswith(".tmp") and self.name.startswith(".doc"):
        print("about to rename", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return rename(self, target)
"""
ARMED = "pathlib.Path.replace = stop_before\n"
WITHOUT_GATE = """
import contextlib
from laila.shared.locking import Locking
Locking.gate = lambda self, name: contextlib.nullcontext()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    yield from running(RedisServer)


@pytest.fixture
def redis(server: RedisServer, request: pytest.FixtureRequest) -> str:
    """Leases of one second."""
    return f"{server.url}?ttl=1&prefix={abs(hash(request.node.nodeid))}/"


@contextlib.contextmanager
def stopped(child: Child) -> Iterator[None]:
    child.process.send_signal(signal.SIGSTOP)
    try:
        wait_until_stopped(child)
        yield
    finally:
        child.process.send_signal(signal.SIGCONT)


def wait_until_stopped(child: Child) -> None:
    status = Path(f"/proc/{child.process.pid}/stat")
    deadline = time.monotonic() + PATIENCE
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def texts(store: SharedArtifactStore) -> list[str]:
    return [item["text"] for item in store.load("doc").get_content_list()]


# -- flock ---------------------------------------------------------------------------------------------


def test_a_stopped_holder_of_flock_keeps_its_lock(
    store: SharedArtifactStore, open_store: Open, tmp_path: Path
) -> None:
    store.create("doc", "first")
    quick = open_store(timeout=0.2)
    with Child(EDITING, store.shared_path, tmp_path / "cache", "") as child:
        assert child.hear() == "holding"
        with stopped(child):
            with pytest.raises(LockTimeout, match=str(child.process.pid)):
                quick.add("doc", "by another")
            assert texts(quick) == ["first"], "readers wait for nobody"
        child.say()
        assert child.hear() == "published"
    store.add("doc", "by another")
    assert texts(store) == ["first", "by the one who was stopped", "by another"]


def test_a_holder_whose_lock_file_was_replaced_cannot_publish(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    store.create("doc", "first")
    with Child(EDITING, shared, tmp_path / "cache", "") as child:
        assert child.hear() == "holding"
        (shared / "doc.lock").unlink()
        store.add("doc", "by the successor")
        child.say()
        assert child.hear().startswith("LockLost")
    assert texts(store) == ["first", "by the successor"]


def test_it_cannot_before_its_successor_has_published_either(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    store.create("doc", "first")
    with Child(EDITING, shared, tmp_path / "cache", "") as child:
        assert child.hear() == "holding"
        (shared / "doc.lock").unlink()
        with store.edit("doc") as artifact:
            child.say()
            assert child.hear().startswith("LockLost")
            artifact.add_text("by the successor")
    assert texts(store) == ["first", "by the successor"]


def test_the_last_look_is_after_everything_was_written(
    store: SharedArtifactStore, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Overtaken while the new version is on its way to the disk, by one that has not published yet."""
    store.create("doc", "first")
    real = os.fsync

    def overtaken(descriptor: int) -> None:
        real(descriptor)
        (shared / "doc.lock").unlink(missing_ok=True)

    monkeypatch.setattr(os, "fsync", overtaken)
    with pytest.raises(LockLost):
        store.add("doc", "mine")
    monkeypatch.undo()
    assert texts(store) == ["first"]
    assert not [path for path in shared.iterdir() if path.name.endswith(".tmp")]


def test_the_seeds_holder_overwrites_its_successor(shared: Path, tmp_path: Path) -> None:
    """The hole: nothing looks at the lock again after it was taken."""
    first, second = (naive_store()(str(shared), str(tmp_path / "naive")) for _ in range(2))
    first.create("doc", "first")
    with first.locked_artifact("doc", "w") as path:
        mine = load_maif(path)
        mine.add_text("by the one who was stopped")
        (shared / "doc.lock").unlink()
        second.create("doc", "by the successor")
        mine.save(path)
    assert "by the successor" not in [item["text"] for item in load_maif(path).get_content_list()]


def test_a_locked_block_says_that_it_was_overtaken(store: SharedArtifactStore, shared: Path) -> None:
    """It has the path itself, so nothing can keep it from writing there; but it is told."""
    store.create("doc", "first")
    with pytest.raises(LockLost), store.locked_artifact("doc", "w") as path:
        (shared / "doc.lock").unlink()
        artifact = create_maif("doc")
        artifact.add_text("mine")
        artifact.save(path)


def test_a_version_that_somebody_writes_without_the_lock_is_not_overwritten(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "first")
    with pytest.raises(LockLost, match="without the lock"), store.edit("doc") as artifact:
        artifact.add_text("mine")
        other = load_maif(shared / "doc.maif")
        other.add_text("by somebody")
        other.save(shared / "doc.maif")
    assert texts(another) == ["first", "by somebody"]


def test_a_version_that_comes_in_while_an_edit_begins_is_not_mixed_up(
    store: SharedArtifactStore, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the head and the loading, by somebody without the lock."""
    store.create("doc", "first")
    load = store._reading.load_once

    def late(name: str) -> Artifact:
        other = load_maif(shared / "doc.maif")
        other.add_text("by somebody")
        other.save(shared / "doc.maif")
        return load(name)

    monkeypatch.setattr(store._reading, "load_once", late)
    with pytest.raises(LockLost, match="without the lock"), store.edit("doc"):
        pass


# -- leases --------------------------------------------------------------------------------------------


def test_a_stopped_holder_of_a_lease_is_overtaken_and_cannot_publish(
    open_store: Open, redis: str, tmp_path: Path
) -> None:
    store = open_store(locks=redis, timeout=PATIENCE)
    store.create("doc", "first")
    with Child(EDITING, store.shared_path, tmp_path / "cache", redis) as child:
        assert child.hear() == "holding"
        with stopped(child):
            store.add("doc", "by the successor")
        child.say()
        assert child.hear().startswith("LockLost")
    assert texts(store) == ["first", "by the successor"]


def test_one_stopped_between_its_last_look_and_the_rename_is_not_overtaken(
    open_store: Open, redis: str, tmp_path: Path
) -> None:
    """The gate: its lease ends, but until it goes on nobody else publishes, and it does no harm."""
    store = open_store(locks=redis, timeout=4.0)
    store.create("doc", "first")
    code = STOPPED_AT_THE_RENAME + EDITING.replace(
        "            input()\n", f"            input()\n            {ARMED}"
    )
    with Child(code, store.shared_path, tmp_path / "cache", redis) as child:
        assert child.hear() == "holding"
        child.say()
        assert child.hear() == "about to rename"
        wait_until_stopped(child)
        with pytest.raises(LockTimeout, match="publishing"):
            store.add("doc", "by another")
        assert texts(store) == ["first"]
        child.process.send_signal(signal.SIGCONT)
        assert child.hear() == "published"
    store.add("doc", "by another")
    assert texts(store) == ["first", "by the one who was stopped", "by another"]


def test_without_the_gate_it_would_overwrite_its_successor(
    open_store: Open, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left where the volume has no locks of its own: it is lost, but not silently."""
    monkeypatch.setattr(Locking, "gate", lambda self, name: contextlib.nullcontext())
    store = open_store(locks=redis, timeout=PATIENCE)
    store.create("doc", "first")
    code = WITHOUT_GATE + STOPPED_AT_THE_RENAME + EDITING.replace(
        "            input()\n", f"            input()\n            {ARMED}"
    )  # fmt: skip
    with Child(code, store.shared_path, tmp_path / "cache", redis) as child:
        assert child.hear() == "holding"
        child.say()
        assert child.hear() == "about to rename"
        wait_until_stopped(child)
        store.add("doc", "by the successor")
        assert texts(store) == ["first", "by the successor"]
        child.process.send_signal(signal.SIGCONT)
        assert child.hear() == "published"
    with pytest.raises(Exception, match="two versions 2"):
        store.load("doc")


def test_a_lock_service_that_is_away(
    open_store: Open, server: RedisServer, redis: str, tmp_path: Path
) -> None:
    store = open_store(locks=redis, timeout=PATIENCE)
    store.create("doc", "first")
    server.signal(signal.SIGSTOP)
    try:
        impatient = open_store(locks=f"{redis}&timeout=1", timeout=1.0)
        with pytest.raises(LockError):
            impatient.create("doc", "second")
        assert texts(impatient) == ["first"], "reading needs no lock service"
        (tmp_path / "shared" / "bad.maif").write_bytes(b"rubbish")
        with pytest.raises(NotAnArtifact):
            impatient.load("bad")
    finally:
        server.signal(signal.SIGCONT)
    store.create("doc", "second")
    assert texts(store) == ["second"]


def test_a_lock_service_that_was_given_stays_open(open_store: Open, redis: str) -> None:
    from laila.locks import connect

    with connect(redis) as service:
        first = open_store(locks=service)
        first.create("doc", "first")
        with SharedArtifactStore(first.shared_path, locks=service) as store:
            store.create("doc", "second")
        assert not service.closed
        with service.lock("doc"):
            assert texts(first) == ["second"]
