"""What volumes do to a store: read-only, full, unmounted, forbidden."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from laila.errors import StorageError
from laila.maif import create_maif
from laila.shared import SharedArtifactStore
from tests.shared.child import run
from tests.shared.mounts import mounted

READ_ONLY = """
import os, subprocess, sys
from pathlib import Path
from laila.errors import LailaError
from laila.shared import SharedArtifactStore
shared = Path(sys.argv[1])
with SharedArtifactStore(shared) as store:
    store.create("doc", "text")
    store.create("other", "text")
    Path(shared, "other.lock").unlink()
subprocess.run(["mount", "-o", "remount,ro", shared], check=True)
before = sorted(os.listdir(shared))
with SharedArtifactStore(shared) as store:
    for name in ("doc", "other"):
        for load in (store.load, store.load_cached, store.load_cached):
            assert load(name).get_content_list()[0]["text"] == "text"
        with store.locked_artifact(name, "r") as path:
            assert Path(path).exists()
        assert store.history(name)[-1].sequence == 1
        assert store.holder(name) is None
    assert store.names() == ["doc", "other"]
    assert store.exists("doc") and not store.exists("none")
    for write in (lambda: store.create("doc", "x"), lambda: store.create("new", "x"), lambda: store.remove("doc")):
        try:
            write()
        except LailaError as error:
            print(type(error).__name__, error)
        else:
            raise AssertionError("written to a read-only volume")
assert sorted(os.listdir(shared)) == before
"""


def test_readers_on_a_read_only_mount(shared: Path) -> None:
    said = run(READ_ONLY, shared, before=mounted(shared)).splitlines()
    assert len(said) == 3
    assert all("read-only" in line.lower() for line in said), said


NAIVE_READ_ONLY = """
import subprocess, sys
from tests.shared.seed import naive_store
store = naive_store()(sys.argv[1], sys.argv[2])
store.create("doc", "text")
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    store.load("doc")
except OSError as error:
    print(error.strerror)
"""


def test_the_seeds_readers_fail_there(shared: Path, tmp_path: Path) -> None:
    """The hole: a reader opens its lock file for writing."""
    assert (
        run(NAIVE_READ_ONLY, shared, tmp_path / "naive", before=mounted(shared)) == "Read-only file system\n"
    )


FULL = """
import os, sys
from laila.errors import StorageError
from laila.maif import create_maif
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1]) as store:
    store.create("doc", "old")
    big = create_maif("big")
    big.add_binary(os.urandom(8 << 20))
    for write in (lambda: store.put("doc", big), lambda: store.put("new", big)):
        try:
            write()
        except StorageError as error:
            print(error.reason, error)
    assert store.load("doc").get_content_list()[0]["text"] == "old"
    assert store.load("doc").sequence == 1
    assert store.names() == ["doc"]
    assert not [name for name in os.listdir(sys.argv[1]) if name.endswith(".tmp")]
    store.create("doc", "there is room for this")
"""


def test_a_full_volume_keeps_the_old_version(shared: Path) -> None:
    said = run(FULL, shared, before=mounted(shared, "size=4m")).splitlines()
    assert [line.split()[0] for line in said] == ["ENOSPC", "ENOSPC"]
    assert all("free space" in line for line in said), said


NAIVE_FULL = """
import sys
from laila.errors import ArtifactError
from laila.maif import load_maif
from tests.shared.seed import naive_store
store = naive_store(in_place=True)(sys.argv[1], sys.argv[1] + "/cache")
store.create("doc", "old")
try:
    store.create("doc", "x" * (8 << 20))
except OSError as error:
    print(error.strerror)
try:
    load_maif(sys.argv[1] + "/doc.maif")
except ArtifactError as error:
    print("lost")
"""


def test_the_seeds_writer_loses_the_old_version_there(shared: Path) -> None:
    assert run(NAIVE_FULL, shared, before=mounted(shared, "size=4m")) == "No space left on device\nlost\n"


FULL_CACHE = """
import os, sys
from laila.errors import StorageError
from laila.maif import create_maif
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1], sys.argv[2]) as store:
    big = create_maif("big")
    big.add_binary(os.urandom(3 << 20))
    store.put("one", big)
    other = create_maif("other")
    other.add_binary(os.urandom(3 << 20))
    store.put("two", other)
    store.load_cached("one")
    store.load_cached("two")  # makes room for itself
    huge = create_maif("huge")
    huge.add_binary(os.urandom(8 << 20))
    store.put("huge", huge)
    try:
        store.load_cached("huge")
    except StorageError as error:
        print(error.reason, error)
    assert store.load("huge").verify()
    assert store.load_cached("two").verify()
"""


def test_a_full_cache_makes_room_or_says_so(shared: Path, tmp_path: Path) -> None:
    said = run(FULL_CACHE, shared, tmp_path / "cache", before=mounted(tmp_path / "cache", "size=5m"))
    assert said.startswith("ENOSPC cannot copy into the cache")
    assert "local_cache" in said


GONE = """
import os, subprocess, sys
from laila.errors import ArtifactNotFound, StorageError
from laila.shared import SharedArtifactStore
shared, real = sys.argv[1:]
for directory in (real, shared):
    os.mkdir(directory)
mount = lambda: subprocess.run(["mount", "--bind", real, shared], check=True)
mount()
with SharedArtifactStore(shared) as store:
    store.create("doc", "text")
    store.load_cached("doc")
    subprocess.run(["umount", "-l", shared], check=True)
    for use in (store.load, store.load_cached, store.exists, lambda n: store.create(n, "x"), store.remove,
                lambda n: store.names()):
        try:
            print("answered", use("doc"))
        except StorageError as error:
            print(error.reason, error)
    assert os.listdir(shared) == [], "something was written where the volume had been mounted"
    mount()
    store.add("doc", "more")
    assert store.load("doc").sequence == 2
"""


def test_a_volume_that_is_unmounted_in_the_middle(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    said = run(GONE, ours / "shared", ours / "real", before=mounted(ours)).splitlines()
    assert len(said) == 6
    assert all(line.startswith("ESTALE") and "mount it" in line for line in said), said


FORBIDDEN = """
import os, sys
from pathlib import Path
from laila.errors import LailaError
from laila.shared import SharedArtifactStore
shared, cache = sys.argv[1:]
with SharedArtifactStore(shared) as store:  # as root; what is imported where it is used is imported now
    for name in ("doc", "secret"):
        store.create(name, "text")
        store.load_cached(name)
    store.remove("secret")
    store.create("secret", "text")
os.chmod(Path(shared, "secret.maif"), 0o600)
os.mkdir(cache)
os.chown(cache, 65534, 65534)
from laila.artifacts import TrustSet, default_identity
me = default_identity()
os.setegid(65534)
os.seteuid(65534)
with SharedArtifactStore(shared, cache, identity=me, timeout=1) as store:
    assert store.load("doc").get_content_list()[0]["text"] == "text"
    assert store.load_cached("doc").get_content_list()[0]["text"] == "text"
    with store.locked_artifact("doc") as path:
        assert Path(path).exists()
    for use in (lambda: store.create("doc", "x"), lambda: store.create("new", "x"), lambda: store.remove("doc"),
                lambda: store.load("secret"), lambda: store.load_cached("secret")):
        try:
            print("answered", use())
        except LailaError as error:
            print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_who_may_only_read() -> None:
    with tempfile.TemporaryDirectory() as ground:  # pytest's own directories are closed to others
        Path(ground).chmod(0o755)
        said = run(FORBIDDEN, f"{ground}/shared", f"{ground}/cache").splitlines()
    assert len(said) == 5
    assert all("EACCES" in line for line in said), said


def test_a_place_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="ENOTDIR"):
        SharedArtifactStore(tmp_path / "file")
    with pytest.raises(StorageError, match="ENOTDIR"):
        SharedArtifactStore(tmp_path / "file" / "below")


def test_an_artifact_that_is_a_directory(store: SharedArtifactStore, shared: Path) -> None:
    (shared / "doc.maif").mkdir()
    (shared / "doc.maif" / "x").mkdir()
    for use in (store.load, store.load_cached):
        with pytest.raises(Exception, match=r"doc\.maif") as caught:
            use("doc")
        assert type(caught.value).__module__ == "laila.errors"


def test_housekeeping_is_not_written_through_a_link(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (shared / ".laila").symlink_to(tmp_path / "elsewhere")
    store.create("doc", "one")
    with pytest.raises(StorageError, match=r"\.laila is no directory"):
        store.remove("doc")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert store.load("doc").verify()


def test_an_artifact_of_much_memory_is_put_and_read(store: SharedArtifactStore) -> None:
    data = os.urandom(5 << 20)
    artifact = create_maif("big")
    artifact.add_binary(data)
    store.put("big", artifact)
    for load in (store.load, store.load_cached, store.load_cached):
        assert bytes(load("big").get_content_list()[0]["content"]) == data
