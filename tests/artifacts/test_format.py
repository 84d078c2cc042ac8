"""The bytes: the public samples verify, and what laila writes is what the format says, by a reader of its own."""

from __future__ import annotations

import hashlib
import itertools
import time
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.artifacts import Signer, create_maif, load_maif
from laila.artifacts.artifact import Artifact
from laila.artifacts.merkle import MerkleTree
from laila.artifacts.sheet import FileSheet
from laila.artifacts.source import Source
from laila.transport.identity import Identity
from tests.artifacts import independent

HERE = Path(__file__).parent
SAMPLES = sorted((HERE / "samples").glob("*.maif"))
GOLDEN = HERE / "golden.maif"


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_public_sample_verifies(path: Path) -> None:
    artifact = load_maif(path)
    assert artifact.check() == []
    assert artifact.verify()
    assert artifact.verify_integrity()
    assert artifact.agent_id == path.stem.replace("_", "-") + "-agent"
    independent.verify(path.read_bytes())


def test_there_are_six_samples() -> None:
    assert len(SAMPLES) == 6


def test_the_content_of_a_public_sample() -> None:
    items = load_maif(HERE / "samples" / "sample_multimodal.maif").get_content_list()
    assert [(item["index"], item["type"]) for item in items] == [
        (0, "text"),
        (1, "audio"),
        (2, "video"),
        (3, "image"),
        (4, "embeddings"),
    ]
    assert items[0]["text"].startswith("This is a multimodal MAIF file")
    assert items[0]["metadata"] == {"language": "en", "type": "description"}
    assert items[4]["content"].shape == (1, 768)
    assert items[3]["content"].startswith(b"\x89PNG")
    assert items[2]["id"] == "2ea04f3d08974613a9466e821c6af180"


def test_the_provenance_of_a_public_sample() -> None:
    entries = load_maif(HERE / "samples" / "sample_text.maif").provenance
    assert [entry["action"] for entry in entries] == ["genesis", "add_text_block", "finalize"]


def golden(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file whose every byte follows from what is written here."""
    ids = (uuid.UUID(int=number) for number in itertools.count(1))
    times = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    monkeypatch.setattr(uuid, "uuid4", lambda: next(ids))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    monkeypatch.setattr(time, "time", lambda: 1_700_000_001.5)
    artifact = create_maif("golden")
    artifact.add_text("Zażółć", title="Ünïcode", metadata={"b": [1, None], "a": True})
    artifact.add_binary(bytes(range(256)))
    artifact.add_embeddings([[1.0, -2.5], [0.0, 3.25]])
    artifact.add_json({"answer": 42})
    artifact.name_as("golden-name", sequence=7, parent="ab" * 32, fence=9)
    return artifact.to_bytes(
        key=Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))), voucher=bytes(64))
    )


def test_golden_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden(monkeypatch)
    assert data == GOLDEN.read_bytes()
    assert [kind for kind, _ in independent.verify(data)] == [b"TEXT", b"BINA", b"EMBD", b"TEXT", b"META"]


def test_every_version_of_a_file_obeys_the_format(tmp_path: Path, me: Identity, stranger: Identity) -> None:
    path = tmp_path / "a.maif"
    artifact = create_maif("agent")
    for number in range(5):
        artifact.add_text(f"text {number}")
        if number == 1:
            artifact.name_as("named", sequence=1)
        artifact.save(path, key=stranger if number == 3 else me)
        independent.verify(path.read_bytes())
        artifact = load_maif(path)
    assert [item["text"] for item in artifact.get_content_list()] == [f"text {number}" for number in range(5)]
    assert [version.sequence for version in artifact.history] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "size", [0, 1, (64 << 10) - 1, (64 << 10) + 1, (1 << 20) - 372, 1 << 20, (5 << 20) + 3]
)
def test_blocks_of_any_size_obey_the_format(tmp_path: Path, me: Identity, size: int) -> None:
    """The sizes lie on both sides of each way in which a block is signed and verified."""
    data = hashlib.shake_128(b"seed").digest(size)
    artifact = create_maif("agent")
    artifact.add_text("before")
    artifact.add_binary(data, title="large", metadata={"n": size})
    artifact.add_text("after")
    saved = artifact.save(tmp_path / "a.maif", key=me)
    raw = (tmp_path / "a.maif").read_bytes()
    assert (saved.size, saved.digest) == (len(raw), hashlib.sha256(raw[:-48]).hexdigest())
    assert independent.verify(raw)[1] == (b"BINA", data)
    loaded = load_maif(tmp_path / "a.maif")
    assert loaded.check() == []
    assert bytes(loaded.get_content_list()[1]["content"]) == data
    mapped = Artifact.load(tmp_path / "a.maif", read_up_to=0)
    assert mapped.check() == []
    assert mapped.check() == []
    loaded.add_text("added")
    loaded.save(tmp_path / "a.maif", key=me)
    assert len(independent.verify((tmp_path / "a.maif").read_bytes())) == 4


def test_a_large_file_is_the_same_by_every_way(tmp_path: Path, me: Identity) -> None:
    """In memory, through a file, and from a file that is mapped."""
    data = hashlib.shake_128(b"seed").digest(3 << 20)
    (tmp_path / "data").write_bytes(data)
    for form in (data, bytearray(data), memoryview(data), tmp_path / "data"):
        artifact = create_maif("agent")
        artifact.add_binary(form)
        assert independent.verify(artifact.to_bytes(key=me)) == [(b"BINA", data)]


@given(st.integers(0, 70))
@settings(deadline=None)
def test_the_growing_tree_has_the_root_of_the_whole(count: int) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(count)]
    tree = MerkleTree()
    for number, leaf in enumerate(leaves):
        assert tree.root == independent.merkle(leaves[:number])
        tree.add(leaf)
    assert tree.root == independent.merkle(leaves)


@given(
    st.lists(
        st.tuples(
            st.text(max_size=50),
            st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3),
        ),
        max_size=6,
    )
)
@settings(deadline=None, max_examples=60)
def test_what_goes_in_comes_out(texts: list[tuple[str, dict[str, object]]]) -> None:
    artifact = create_maif("agent")
    for text, metadata in texts:
        artifact.add_text(text, metadata=metadata)
    data = artifact.to_bytes(key=Identity.ephemeral())
    independent.verify(data)
    again = Artifact.from_bytes(data).get_content_list()
    assert [(item["text"], item["metadata"]) for item in again] == texts


def test_on_a_volume_that_is_not_mapped_the_bytes_are_the_same(
    tmp_path: Path, me: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network volume: large blocks are signed in memory, and the file is read back for whoever goes on with it."""
    monkeypatch.setattr(FileSheet, "may_map", lambda sheet: None)
    (tmp_path / "data").write_bytes(bytes(range(256)) * 8192)
    artifact = create_maif("agent")
    artifact.add_binary(tmp_path / "data")
    artifact.add_binary(b"x" * (1 << 20), metadata={"a": 1})
    artifact.save(tmp_path / "a.maif", key=me)
    independent.verify((tmp_path / "a.maif").read_bytes())
    assert artifact.check() == []
    artifact.add_binary(Source.open(tmp_path / "data", read_up_to=0).view(0, 2 << 20))
    artifact.save(tmp_path / "a.maif", key=me)
    assert len(independent.verify((tmp_path / "a.maif").read_bytes())) == 3
