"""No reader is served an older version: not by file times, slow clocks, renames, or a cache that two stores share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laila.errors import RolledBack
from laila.maif import create_maif
from laila.shared import SharedArtifactStore
from tests.shared.child import Child
from tests.shared.seed import naive_store

Open = Callable[..., SharedArtifactStore]
HOUR = 3600.0


def text(artifact: Any) -> str:
    found = artifact.get_content_list()[0]["text"]
    assert isinstance(found, str)
    return found


def naive_pair(shared: Path, tmp_path: Path) -> tuple[Any, Any]:
    """A writing and a reading node with the seed's store."""
    return tuple(naive_store()(str(shared), str(tmp_path / node)) for node in ("writer", "reader"))  # type: ignore[return-value]


def test_the_newest_is_served_by_every_way_of_loading(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    for number in range(20):
        store.create("doc", str(number))
        assert text(another.load_cached("doc")) == str(number)
        assert text(another.load("doc")) == str(number)
        assert text(store.load_cached("doc")) == str(number)


# -- a newer file with older times ---------------------------------------------------------------------


def test_a_newer_file_with_an_older_mtime(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    """As it comes from a node whose clock is slow, or from a copy that keeps times."""
    store.create("doc", "old")
    assert text(another.load_cached("doc")) == "old"
    store.create("doc", "new")
    os.utime(shared / "doc.maif", (time.time() - HOUR, time.time() - HOUR))
    assert text(another.load_cached("doc")) == "new"


def test_the_seeds_cache_serves_stale_bytes_for_it(shared: Path, tmp_path: Path) -> None:
    """The hole: `mtime` of the cache against `mtime` of the file."""
    writer, reader = naive_pair(shared, tmp_path)
    writer.create("doc", "old")
    assert text(reader.load_cached("doc")) == "old"
    writer.create("doc", "new")
    os.utime(shared / "doc.maif", (time.time() - HOUR, time.time() - HOUR))
    assert text(reader.load_cached("doc")) == "old"


def renamed_in(shared: Path, whole: bytes) -> None:
    """A file that was made an hour ago gets the artifact's name now."""
    staged = shared / "staged"
    staged.write_bytes(whole)
    os.utime(staged, (time.time() - HOUR, time.time() - HOUR))
    staged.replace(shared / "doc.maif")


def test_a_newer_file_renamed_into_place(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "old")
    old = (shared / "doc.maif").read_bytes()
    store.create("doc", "new")
    new = (shared / "doc.maif").read_bytes()
    (shared / "doc.maif").write_bytes(old)
    assert text(another.load_cached("doc")) == "old"
    renamed_in(shared, new)
    assert text(another.load_cached("doc")) == "new"


def test_the_seeds_cache_serves_stale_bytes_after_a_rename(shared: Path, tmp_path: Path) -> None:
    writer, reader = naive_pair(shared, tmp_path)
    writer.create("doc", "old")
    old = (shared / "doc.maif").read_bytes()
    writer.create("doc", "new")
    new = (shared / "doc.maif").read_bytes()
    (shared / "doc.maif").write_bytes(old)
    assert text(reader.load_cached("doc")) == "old"
    renamed_in(shared, new)
    assert text(reader.load_cached("doc")) == "old"


def test_a_newer_file_of_the_same_size_and_times(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "old")
    assert text(another.load_cached("doc")) == "old"
    before = (shared / "doc.maif").stat()
    store.create("doc", "new")
    os.utime(shared / "doc.maif", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert text(another.load_cached("doc")) == "new"


def test_the_clock_of_the_cache_does_not_matter(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    """A reader whose clock is an hour ahead has copies from the future."""
    store.create("doc", "old")
    assert text(another.load_cached("doc")) == "old"
    for path in Path(another.local_cache).rglob("*"):
        os.utime(path, (time.time() + HOUR, time.time() + HOUR))
    store.create("doc", "new")
    assert text(another.load_cached("doc")) == "new"


# -- two stores, one cache -----------------------------------------------------------------------------


@pytest.mark.parametrize("explicit", [False, True], ids=["default cache", "the same local_cache"])
def test_two_stores_never_serve_each_others_artifacts(
    open_store: Open, tmp_path: Path, explicit: bool
) -> None:
    cache = [tmp_path / "cache"] if explicit else []
    first, second = (open_store(tmp_path / name / "maif", *cache) for name in ("one", "two"))
    first.create("doc", "first")
    second.create("doc", "second")
    for _ in range(2):
        assert text(first.load_cached("doc")) == "first"
        assert text(second.load_cached("doc")) == "second"
    assert first.local_cache != second.local_cache
    assert Path(first.local_cache).parent == Path(second.local_cache).parent


def test_the_seeds_stores_serve_each_others_artifacts(tmp_path: Path) -> None:
    """The hole: both use one cache by default, and name its files by the artifact alone."""
    first, second = (naive_store()(str(tmp_path / name), str(tmp_path / "cache")) for name in ("one", "two"))
    second.create("doc", "second")
    first.create("doc", "first")
    assert text(first.load_cached("doc")) == "first"
    assert text(second.load_cached("doc")) == "first"


def test_one_store_by_two_paths_shares_its_cache_by_the_real_one(
    open_store: Open, shared: Path, tmp_path: Path
) -> None:
    by_path = open_store()
    (tmp_path / "link").symlink_to(shared)
    by_link = open_store(tmp_path / "link")
    assert by_path.local_cache.rpartition("-")[2] == by_link.local_cache.rpartition("-")[2]


# -- while others write --------------------------------------------------------------------------------

WRITING = """
import sys
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1], sys.argv[2]) as store:
    for number in range(1, int(sys.argv[3]) + 1):
        store.create("doc", str(number))
        print(number, flush=True)
"""


def test_what_was_acknowledged_is_seen_by_the_next_reader(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    """A writer in another process; two readers, which load in turns as fast as they can."""
    store.create("doc", "0")
    acknowledged, total = [0], 200
    problems: list[str] = []

    def read(load: Callable[[str], Any]) -> None:
        while acknowledged[0] < total and not problems:
            known = acknowledged[0]
            try:
                number = int(text(load("doc")))
            except Exception as error:  # judged by the test's own thread
                problems.append(repr(error))
            else:
                if number < known:
                    problems.append(f"{number} was read after {known} was acknowledged")

    with Child(WRITING, shared, tmp_path / "writer", total) as child:
        readers = [threading.Thread(target=read, args=(load,)) for load in (store.load, store.load_cached)]
        for reader in readers:
            reader.start()
        try:
            while acknowledged[0] < total:
                acknowledged[0] = int(child.hear())
        finally:
            acknowledged[0] = total
            for reader in readers:
                reader.join(60)
    assert problems == []


# -- rollback ------------------------------------------------------------------------------------------


def test_an_older_version_put_back_is_refused(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "six")
    older = (shared / "doc.maif").read_bytes()
    store.create("doc", "seven")
    assert text(another.load_cached("doc")) == "seven"
    (shared / "doc.maif").write_bytes(older)
    for load in (another.load, another.load_cached, another.history, another.version, store.load):
        with pytest.raises(RolledBack, match="version 1 of 'doc', but version 2"):
            load("doc")
    with pytest.raises(RolledBack):
        another.create("doc", "eight")
    with pytest.raises(RolledBack), another.edit("doc"):
        pass


def test_a_new_process_remembers_what_was_seen(open_store: Open, shared: Path) -> None:
    with open_store() as store:
        store.create("doc", "six")
        older = (shared / "doc.maif").read_bytes()
        store.create("doc", "seven")
    (shared / "doc.maif").write_bytes(older)
    with pytest.raises(RolledBack):
        open_store().load("doc")


def test_who_never_saw_the_newer_one_cannot_know(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "six")
    older = (shared / "doc.maif").read_bytes()
    store.create("doc", "seven")
    (shared / "doc.maif").write_bytes(older)
    assert text(another.load("doc")) == "six"


def test_another_history_under_the_same_number_is_refused(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    """As an overtaken holder would write it where nothing stops it: signed by a trusted key, and yet not the same."""
    store.create("doc", "mine")
    assert text(another.load("doc")) == "mine"
    forged = create_maif("doc")
    forged.add_text("theirs")
    forged.name_as("doc", sequence=1, parent="", fence=1)
    forged.save(shared / "doc.maif")
    for load in (another.load, another.load_cached):
        with pytest.raises(RolledBack, match="two versions 1"):
            load("doc")
    with pytest.raises(RolledBack, match="two versions 1"):
        another.create("doc", "on top of it")


def test_a_plain_file_where_versions_were_seen_is_refused(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "mine")
    assert text(another.load("doc")) == "mine"
    plain = create_maif("doc")
    plain.add_text("plain")
    plain.save(shared / "doc.maif")
    for load in (another.load, another.load_cached):
        with pytest.raises(RolledBack, match="without a version"):
            load("doc")


def test_a_plain_file_of_somebody_trusted_is_read_and_continued(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    """What the seed's own programs wrote."""
    naive_store()(str(shared), str(tmp_path / "naive")).create("doc", "plain")
    assert text(store.load("doc")) == "plain"
    assert text(store.load_cached("doc")) == "plain"
    store.add("doc", "more")
    found = store.load("doc")
    assert ([item["text"] for item in found.get_content_list()], found.sequence) == (["plain", "more"], 1)


def test_forgetting_lets_an_older_version_in(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "six")
    older = (shared / "doc.maif").read_bytes()
    store.create("doc", "seven")
    (shared / "doc.maif").write_bytes(older)
    with pytest.raises(RolledBack, match="forget_seen"):
        store.load("doc")
    store.forget_seen("doc")
    assert text(store.load("doc")) == "six"
    store.create("doc", "seven again")
    assert store.load("doc").sequence == 2


def test_a_store_made_anew_at_the_same_path_goes_on_for_its_maker(open_store: Open, shared: Path) -> None:
    """Whoever empties the directory and starts again is not told that his own new artifacts are old."""
    with open_store() as store:
        for number in range(3):
            store.create("doc", str(number))
    for path in shared.iterdir():
        path.unlink()
    with open_store() as store:
        store.create("doc", "anew")
        assert (text(store.load_cached("doc")), store.load("doc").sequence) == ("anew", 4)
