"""Whatever somebody does to the files on the volume: readers get the right bytes or an error, never others."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import TrustSet, UnsignedWarning, default_identity
from laila.errors import ArtifactCorrupt, ArtifactError, LailaError, NotAnArtifact, Unsigned, UntrustedSigner
from laila.maif import create_maif
from laila.secret import new_secret
from laila.shared import SharedArtifactStore
from laila.transport.identity import Identity
from tests.shared.seed import naive_store

Open = Callable[..., SharedArtifactStore]


def text(artifact: Any) -> str:
    found = artifact.get_content_list()[0]["text"]
    assert isinstance(found, str)
    return found


def ways(store: SharedArtifactStore) -> tuple[Callable[[str], Any], ...]:
    return store.load, store.load_cached


@pytest.mark.parametrize("cached", [False, True], ids=["never read", "read before"])
def test_no_flipped_byte_is_served(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path, cached: bool
) -> None:
    store.create("doc", "the right text")
    if cached:
        assert text(another.load_cached("doc")) == "the right text"
    path = shared / "doc.maif"
    whole = path.read_bytes()
    served = 0
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(ArtifactError):
            another.load("doc")
        try:
            assert text(another.load_cached("doc")) == "the right text"
        except ArtifactError:
            continue
        served += 1
    assert (served > 0) == cached, "only from a copy that was verified before"
    path.write_bytes(whole)
    assert text(another.load("doc")) == "the right text"


def test_a_flip_that_no_signature_covers_is_noticed_with_a_verified_copy_at_hand(
    store: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "the right text")
    deadline = time.monotonic() + 60
    while not store._cache.counts.hits:
        assert time.monotonic() < deadline
        assert text(store.load_cached("doc")) == "the right text"
    whole = bytearray((shared / "doc.maif").read_bytes())
    whole[441] ^= 1  # reserved in the file header
    (shared / "doc.maif").write_bytes(whole)
    for load in ways(store):
        with pytest.raises(ArtifactCorrupt):
            load("doc")


def test_no_cut_off_file_is_served(
    store: SharedArtifactStore, another: SharedArtifactStore, shared: Path
) -> None:
    store.create("doc", "the right text")
    path = shared / "doc.maif"
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:size])
        for load in ways(another):
            with pytest.raises(ArtifactError) as caught:
                load("doc")
            assert isinstance(caught.value, ArtifactCorrupt | NotAnArtifact)
            assert "doc.maif" in str(caught.value)


def test_nothing_is_published_on_top_of_a_damaged_file(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "one")
    (shared / "doc.maif").write_bytes(b"rubbish")
    with pytest.raises(NotAnArtifact):
        store.create("doc", "two")
    assert (shared / "doc.maif").read_bytes() == b"rubbish"


def test_a_strangers_valid_signature_is_refused(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "mine")
    stranger = Identity.ephemeral()
    forged = create_maif("doc")
    forged.add_text("theirs")
    forged.name_as("doc", sequence=2, parent=store.load("doc").root, fence=2**60)
    forged.save(shared / "doc.maif", key=stranger)
    for load in ways(store):
        with pytest.raises(UntrustedSigner) as caught:
            load("doc")
        assert caught.value.signer == stranger.key.public_key().public_bytes_raw().hex()
    with pytest.raises(UntrustedSigner):
        store.create("doc", "on top of it")
    with pytest.raises(UntrustedSigner), store.edit("doc"):
        pass


def test_a_stranger_cannot_drive_the_numbers_up(store: SharedArtifactStore, shared: Path) -> None:
    """Who removes a stranger's file goes on from what was believed, not from what the file says."""
    store.create("doc", "mine")
    forged = create_maif("doc")
    forged.add_text("theirs")
    forged.name_as("doc", sequence=10**15, parent="", fence=2**62)
    forged.save(shared / "doc.maif", key=Identity.ephemeral())
    store.remove("doc")
    store.create("doc", "mine again")
    assert store.load("doc").sequence == 3


def test_nor_by_a_forged_record_of_a_removal(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "mine")
    store.remove("doc")
    forged = create_maif("doc")
    forged.add_text("theirs")
    forged.name_as("doc", sequence=10**15, parent="", fence=2**62)
    forged.save(shared / ".laila" / "removed" / "doc.maif", key=Identity.ephemeral())
    store.create("doc", "mine again")
    assert store.load("doc").sequence == 3


def test_the_seeds_store_serves_a_strangers_file(shared: Path, tmp_path: Path) -> None:
    """The hole: nobody asks who signed."""
    naive = naive_store()(str(shared), str(tmp_path / "naive"))
    naive.create("doc", "mine")
    forged = create_maif("doc")
    forged.add_text("theirs")
    forged.save(shared / "doc.maif", key=Identity.ephemeral())
    assert text(naive.load("doc")) == "theirs"


def test_an_unsigned_file_is_refused(store: SharedArtifactStore, shared: Path) -> None:
    unsigned = create_maif("doc")
    unsigned.add_text("anybody's")
    shared.mkdir(exist_ok=True)
    with pytest.warns(UnsignedWarning):
        unsigned.save(shared / "doc.maif", sign=False)
    for load in ways(store):
        with pytest.raises(Unsigned):
            load("doc")


def test_a_file_renamed_over_another_is_refused(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "mine")
    store.create("other", "also mine")
    shutil.copy2(shared / "other.maif", shared / "doc.maif")
    for load in ways(store):
        with pytest.raises(ArtifactCorrupt, match="holds 'other'"):
            load("doc")
    with pytest.raises(ArtifactCorrupt):
        store.create("doc", "two")


def test_a_link_in_the_place_of_an_artifact_is_replaced_not_followed(
    store: SharedArtifactStore, shared: Path, tmp_path: Path
) -> None:
    outside = create_maif("outside")
    outside.add_text("outside")
    outside.save(tmp_path / "outside.maif")
    before = (tmp_path / "outside.maif").read_bytes()
    (shared / "doc.maif").symlink_to(tmp_path / "outside.maif")
    store.create("doc", "mine")
    assert not (shared / "doc.maif").is_symlink()
    assert (tmp_path / "outside.maif").read_bytes() == before
    assert text(store.load("doc")) == "mine"


def test_a_pipe_in_the_place_of_an_artifact_blocks_nobody(store: SharedArtifactStore, shared: Path) -> None:
    os.mkfifo(shared / "doc.maif")
    for use in (*ways(store), lambda name: store.create(name, "x")):
        with pytest.raises(LailaError, match=r"doc\.maif"):
            use("doc")


def test_a_locked_block_that_leaves_an_unsigned_file_says_so(store: SharedArtifactStore) -> None:
    store.create("doc", "mine")
    with pytest.raises(Unsigned), store.locked_artifact("doc", "w") as path:
        unsigned = create_maif("doc")
        unsigned.add_text("anybody's")
        with pytest.warns(UnsignedWarning):
            unsigned.save(path, sign=False)
    with pytest.raises(ArtifactError):
        store.load("doc")


def test_an_error_of_the_block_itself_comes_first(store: SharedArtifactStore) -> None:
    with pytest.raises(KeyError) as caught, store.locked_artifact("doc", "w") as path:
        Path(path).write_bytes(b"rubbish")
        raise KeyError("mine")
    assert "doc.maif" in caught.value.__notes__[0]


def test_a_locked_block_may_replace_a_damaged_file(store: SharedArtifactStore, shared: Path) -> None:
    store.create("doc", "mine")
    (shared / "doc.maif").write_bytes(b"rubbish")
    with store.locked_artifact("doc", "w") as path:
        fresh = create_maif("doc")
        fresh.add_text("new")
        fresh.save(path)
    assert (text(store.load("doc")), store.load("doc").sequence) == ("new", 2)


# -- who trusts whom -----------------------------------------------------------------------------------


def test_nodes_with_one_secret_trust_each_other(open_store: Open, tmp_path: Path) -> None:
    secret = new_secret()
    nodes = [
        open_store(None, tmp_path / f"cache{number}", identity=Identity.ephemeral(), secret=secret)
        for number in range(3)
    ]
    nodes[0].create("doc", "one")
    nodes[1].add("doc", "two")
    nodes[2].add("doc", "three")
    for node in nodes:
        for load in ways(node):
            assert [item["text"] for item in load("doc").get_content_list()] == ["one", "two", "three"]
    assert len({version.fence for version in nodes[0].history("doc")}) == 3


def test_nodes_without_a_common_secret_do_not(open_store: Open, tmp_path: Path) -> None:
    mine, theirs = (
        open_store(None, tmp_path / f"cache{number}", identity=Identity.ephemeral(), secret=new_secret())
        for number in range(2)
    )
    mine.create("doc", "one")
    for use in (*ways(theirs), theirs.history, lambda name: theirs.create(name, "two")):
        with pytest.raises(UntrustedSigner):
            use("doc")


def test_pinned_keys_are_trusted(open_store: Open, tmp_path: Path) -> None:
    mine = Identity.ephemeral()
    open_store(None, tmp_path / "mine", identity=mine).create("doc", "one")
    believes = TrustSet([mine.key.public_key(), default_identity()])
    assert text(open_store(None, tmp_path / "theirs", trust=believes).load("doc")) == "one"


def test_the_secret_of_the_node_is_taken_from_its_file(
    open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(new_secret())
    monkeypatch.setenv("LAILA_SECRET_FILE", str(tmp_path / "secret"))
    open_store(None, tmp_path / "mine", identity=Identity.ephemeral()).create("doc", "one")
    assert (
        text(open_store(None, tmp_path / "theirs", identity=Identity.ephemeral()).load_cached("doc")) == "one"
    )
