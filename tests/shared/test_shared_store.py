"""The store's interface: the seed's four, and what people ask for beside them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laila.errors import (
    AlreadyPublished,
    ArtifactNotFound,
    BadName,
    BadValue,
    Closed,
    LockReentered,
    LockTimeout,
)
from laila.maif import create_maif, load_maif
from laila.shared import SharedArtifactStore
from tests.shared.seed import PROGRAM, naive_store

Open = Callable[..., SharedArtifactStore]
ESCAPES = (
    "../escape",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    ".hidden",
    "-rf",
    "a\0b",
    "a\nb",
    "x" * 121,
    "a:b",
    "nul\\x",
)


def texts(store: SharedArtifactStore, name: str) -> list[str]:
    return [item["text"] for item in store.load(name).get_content_list()]


# -- the seed's interface ------------------------------------------------------------------------------


def test_the_seeds_program_runs_on_our_store(tmp_path: Path) -> None:
    """Only the class is imported instead of written out; the usage at its end is the seed's, with the path replaced."""
    usage = (
        PROGRAM.read_text(encoding="utf-8")
        .partition("# Usage")[2]
        .replace("/mnt/shared/maif", str(tmp_path / "s"))
    )
    code = f"from laila.shared import SharedArtifactStore\n{usage}\nprint(artifact.get_content_list()[0]['text'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "Content visible to all nodes\n"


def test_create_answers_the_path_of_a_signed_file_of_that_text(
    store: SharedArtifactStore, shared: Path
) -> None:
    path = store.create("shared-document", "Content visible to all nodes")
    assert path == f"{shared}/shared-document.maif"
    artifact = load_maif(path)
    assert artifact.verify()
    assert [item["text"] for item in artifact.get_content_list()] == ["Content visible to all nodes"]


def test_a_locked_path_is_the_seeds(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "one")
    with store.locked_artifact("doc", "r") as path:
        assert path == f"{shared}/doc.maif"
        assert load_maif(path).get_content_list()[0]["text"] == "one"
    assert (shared / "doc.lock").exists()


def test_reading_is_the_default_mode_and_others_are_refused(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.locked_artifact("doc") as path:
        assert store.holder("doc") is None
        assert load_maif(path).verify()
    with pytest.raises(BadValue, match="'r' or 'w'"), store.locked_artifact("doc", "rw"):
        pass


def test_the_seeds_locks_and_ours_exclude_each_other(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    naive = naive_store()(str(shared), str(tmp_path / "naive"))
    with SharedArtifactStore(shared, timeout=0) as quick:
        with naive.locked_artifact("doc", "w"), pytest.raises(LockTimeout), quick.locked_artifact("doc", "r"):
            pass
        with naive.locked_artifact("doc", "r"), quick.locked_artifact("doc", "r"):
            pass


# -- versions ------------------------------------------------------------------------------------------


def test_versions_follow_each_other_with_rising_tokens(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    first = store.load("doc")
    store.add("doc", "two", title="Second", metadata={"by": "me"})
    second = store.load("doc")
    store.create("doc", "three")
    third = store.load("doc")
    assert [a.sequence for a in (first, second, third)] == [1, 2, 3]
    assert (second.history[-1].parent, third.history[-1].parent) == (first.root, second.root)
    assert first.fence < second.fence < third.fence
    assert {a.name for a in (first, second, third)} == {"doc"}


def test_adding_keeps_the_history_and_creating_begins_a_new_content(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    block = store.add("doc", "two", title="Second", metadata={"by": "me"})
    assert texts(store, "doc") == ["one", "two"]
    item = store.load("doc").get_content_list()[1]
    assert (item["id"], item["title"], item["metadata"]["by"]) == (block, "Second", "me")
    assert [version.sequence for version in store.history("doc")] == [1, 2]
    store.create("doc", "three", title="Again")
    assert texts(store, "doc") == ["three"]
    assert [version.sequence for version in store.history("doc")] == [3]


def test_exclusive_creation_refuses_what_is_there(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    store.create("doc", "one", exclusive=True)
    with pytest.raises(AlreadyPublished, match="'doc' already"):
        another.create("doc", "two", exclusive=True)
    assert texts(store, "doc") == ["one"]


def test_one_of_many_exclusive_creations_wins(open_store: Open) -> None:
    stores = [open_store() for _ in range(8)]
    won: list[int] = []

    def attempt(number: int) -> None:
        try:
            stores[number].create("doc", str(number), exclusive=True)
        except AlreadyPublished:
            return
        won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [str(number) for number in won] == texts(stores[0], "doc")


def test_editing_publishes_at_the_end_and_nothing_when_it_raises(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.edit("doc") as artifact:
        artifact.add_text("two")
        assert texts(store, "doc") == ["one"], "published before the block ended"
    assert texts(store, "doc") == ["one", "two"]
    with pytest.raises(RuntimeError, match="mine"), store.edit("doc") as artifact:
        artifact.add_text("three")
        raise RuntimeError("mine")
    assert texts(store, "doc") == ["one", "two"]
    assert store.holder("doc") is None


def test_editing_without_adding_publishes_nothing(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.edit("doc"):
        pass
    assert store.load("doc").sequence == 1


def test_editing_what_is_not_there(store: SharedArtifactStore) -> None:
    with pytest.raises(ArtifactNotFound, match="create"), store.edit("doc"):
        pass
    with store.edit("doc", create=True) as artifact:
        artifact.add_text("one")
    assert texts(store, "doc") == ["one"]
    with store.edit("doc", create=True) as artifact:
        artifact.add_text("two")
    assert texts(store, "doc") == ["one", "two"]


def test_putting_an_artifact_that_was_loaded_before_somebody_else_published(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    store.create("doc", "one")
    mine = store.load("doc")
    another.add("doc", "two")
    mine.add_text("lost update")
    with pytest.raises(AlreadyPublished, match="version 1 .* version 2"):
        store.put("doc", mine)
    assert texts(store, "doc") == ["one", "two"]
    fresh = store.load("doc")
    fresh.add_text("three")
    store.put("doc", fresh)
    assert texts(store, "doc") == ["one", "two", "three"]
    assert [version.sequence for version in store.history("doc")] == [1, 2, 3]


def test_an_artifact_of_another_store_goes_on_in_this_one(
    store: SharedArtifactStore, open_store: Open, tmp_path: Path
) -> None:
    store.create("doc", "one")
    store.add("doc", "two")
    other = open_store(tmp_path / "other")
    other.put("doc", store.load("doc"))
    assert texts(other, "doc") == ["one", "two"]
    assert [version.sequence for version in other.history("doc")] == [1, 2, 3]


def test_an_artifact_that_was_removed_after_it_was_loaded_does_not_come_back(
    store: SharedArtifactStore,
) -> None:
    store.create("doc", "one")
    mine = store.load("doc")
    store.remove("doc")
    mine.add_text("two")
    with pytest.raises(AlreadyPublished):
        store.put("doc", mine)
    assert not store.exists("doc")


def test_putting_a_version_under_another_name_is_refused(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with pytest.raises(BadValue, match="version 1 of 'doc'"):
        store.put("copy", store.load("doc"))
    assert store.names() == ["doc"]


def test_putting_an_artifact_of_many_blocks(store: SharedArtifactStore) -> None:
    artifact = create_maif("somebody")
    artifact.add_binary(b"\0\1" * 1000, title="bytes")
    artifact.add_json({"a": [1, 2]})
    store.put("doc", artifact)
    found = store.load("doc")
    assert found.agent_id == "somebody"
    assert [item["content"] for item in found.get_content_list()] == [b"\0\1" * 1000, {"a": [1, 2]}]


# -- what a "w" block leaves ---------------------------------------------------------------------------


def test_a_plain_file_saved_in_a_locked_block_becomes_a_version(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    before = store.load("doc")
    with store.locked_artifact("doc", "w") as path:
        artifact = create_maif("worker")
        artifact.add_text("two")
        artifact.save(path, sign=True)
    found = store.load("doc")
    assert (found.name, found.sequence, found.history[-1].parent) == ("doc", 2, before.root)
    assert texts(store, "doc") == ["two"]


def test_a_version_continued_in_a_locked_block_stays_as_it_is(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.locked_artifact("doc", "w") as path:
        artifact = load_maif(path)
        artifact.add_text("two")
        artifact.save(path)
    assert [version.sequence for version in store.history("doc")] == [1, 2]
    assert texts(store, "doc") == ["one", "two"]


def test_a_locked_block_that_raises_keeps_what_it_saved(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with pytest.raises(RuntimeError, match="mine"), store.locked_artifact("doc", "w") as path:
        artifact = create_maif("worker")
        artifact.add_text("two")
        artifact.save(path)
        raise RuntimeError("mine")
    assert texts(store, "doc") == ["two"]
    assert store.load("doc").sequence == 2


def test_a_locked_block_that_changes_nothing_publishes_nothing(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.locked_artifact("doc", "w"):
        pass
    assert store.load("doc").sequence == 1
    with store.locked_artifact("new", "w"):
        pass
    assert store.names() == ["doc"]


def test_a_file_removed_in_a_locked_block_is_removed(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    store.create("doc", "one")
    with store.locked_artifact("doc", "w") as path:
        Path(path).unlink()
    assert not store.exists("doc")
    another.create("doc", "two")
    assert another.load("doc").sequence == 3


def test_readers_wait_for_a_program_that_writes_in_place(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    """What is there is torn while such a program is at it; a reader that found it so waits for the lock."""
    store.create("doc", "one")
    begun, go_on = threading.Event(), threading.Event()

    def write_in_place() -> None:
        with store.locked_artifact("doc", "w") as path:
            artifact = create_maif("worker")
            artifact.add_text("two")
            whole = artifact.to_bytes()
            with Path(path).open("wb") as file:
                file.write(whole[:700])
                file.flush()
                begun.set()
                go_on.wait(60)
                file.write(whole[700:])

    writer = threading.Thread(target=write_in_place)
    writer.start()
    assert begun.wait(60)
    timer = threading.Timer(0.2, go_on.set)
    timer.start()
    try:
        assert texts(another, "doc") == ["two"]
    finally:
        go_on.set()
        writer.join(60)
        timer.join(60)


# -- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_is_no_name_is_refused_everywhere(
    store: SharedArtifactStore, tmp_path: Path, name: str
) -> None:
    def locked(name: str) -> None:
        with store.locked_artifact(name, "w"):
            pass

    def edited(name: str) -> None:
        with store.edit(name, create=True):
            pass

    before = sorted(tmp_path.rglob("*"))
    for use in (
        lambda name: store.create(name, "x"),
        lambda name: store.put(name, create_maif("x")),
        lambda name: store.add(name, "x"),
        store.load,
        store.load_cached,
        store.exists,
        store.history,
        store.version,
        store.holder,
        store.remove,
        store.forget_seen,
        locked,
        edited,
    ):
        with pytest.raises(BadName):
            use(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_seeds_store_leaves_its_directory(shared: Path, tmp_path: Path) -> None:
    """The hole: a name with `..` in it reads and writes wherever it likes."""
    naive = naive_store()(str(shared), str(tmp_path / "naive"))
    naive.create("../escape", "out")
    assert (tmp_path / "escape.maif").exists()


@pytest.mark.parametrize(
    "name", ["a", "shared-document", "Ünïcode näme", "x" * 120, "a.b", "日本語", "a b", "x.maif"]
)
def test_good_names_come_back(store: SharedArtifactStore, name: str) -> None:
    store.create(name, name)
    assert texts(store, name) == [name]
    assert store.names() == [name]
    assert store.load(name).name == name


def test_names_lists_artifacts_only(store: SharedArtifactStore, shared: Path) -> None:
    assert store.names() == []
    for name in ("b", "a"):
        store.create(name, name)
    (shared / "notes.txt").write_text("x")
    (shared / ".b.maif.0123456789ab.tmp").write_text("x")
    store.remove("a")
    store.create("c", "c")
    assert store.names() == ["b", "c"]
    assert [store.exists(name) for name in ("a", "b", "c")] == [False, True, True]


def test_the_version_is_told_without_the_content(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    with pytest.raises(ArtifactNotFound):
        store.version("doc")
    store.create("doc", "one")
    store.add("doc", "two")
    found = another.version("doc")
    assert found == store.load("doc").version
    assert found is not None
    assert found.sequence == 2


# -- removing ------------------------------------------------------------------------------------------


def test_numbers_go_on_after_a_removal_on_every_node(
    store: SharedArtifactStore, another: SharedArtifactStore
) -> None:
    for text in ("one", "two", "three"):
        store.create("doc", text)
    assert another.load("doc").sequence == 3
    store.remove("doc")
    with pytest.raises(ArtifactNotFound, match="version 3 was seen"):
        another.load("doc")
    third = SharedArtifactStore(store.shared_path, Path(store.local_cache).parent / "third")
    with third:
        third.create("doc", "four")
        assert third.load("doc").sequence == 5
    assert another.load("doc").sequence == 5


def test_removing_what_is_not_there(store: SharedArtifactStore) -> None:
    with pytest.raises(ArtifactNotFound):
        store.remove("doc")


def test_a_damaged_artifact_can_be_removed_and_made_anew(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "one")
    (shared / "doc.maif").write_bytes(b"rubbish")
    store.remove("doc")
    store.create("doc", "two")
    assert texts(store, "doc") == ["two"]
    assert store.load("doc").sequence == 3


# -- locks ---------------------------------------------------------------------------------------------


def test_asking_again_in_an_editing_thread_is_an_error_not_a_deadlock(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    with store.edit("doc"):
        with pytest.raises(LockReentered):
            store.create("doc", "two")
        assert texts(store, "doc") == ["one"], "reading needs no lock"
    assert texts(store, "doc") == ["one"]


def test_who_holds_it_is_told(store: SharedArtifactStore, open_store: Open) -> None:
    quick = open_store(timeout=0.05, node="reader")
    with store.edit("doc", create=True):
        holder = quick.holder("doc")
        assert holder is not None
        assert "editing" in str(holder)
        with pytest.raises(LockTimeout, match="editing"):
            quick.create("doc", "two")
    end = time.monotonic() + 10
    while store.holder("doc") is not None and time.monotonic() < end:
        time.sleep(0.01)  # the waiter that gave up gets it for an instant, and lets go
    assert store.holder("doc") is None
    open_store(timeout=10, node="reader").create("doc", "two")


def test_a_closed_store_says_so(store: SharedArtifactStore) -> None:
    store.create("doc", "one")
    artifact = store.load_cached("doc")
    store.close()
    store.close()
    assert "closed" in repr(store)
    for use in (store.load, store.load_cached, store.remove, store.exists):
        with pytest.raises(Closed, match="open it again"):
            use("doc")
    with pytest.raises(Closed):
        store.names()
    assert artifact.get_content_list()[0]["text"] == "one"


def test_bad_options_are_refused(shared: Path) -> None:
    with pytest.raises(BadValue, match="cache_bytes"):
        SharedArtifactStore(shared, cache_bytes=-1)
    with pytest.raises(BadValue, match="timeout"):
        SharedArtifactStore(shared, timeout=-1)
