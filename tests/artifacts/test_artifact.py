"""What people do with artifacts: add, save, load, verify, trust; and what never happens to them meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from laila.artifacts import Signer, TrustSet, Version, create_maif, default_identity, load_maif, read_head
from laila.artifacts.artifact import Artifact
from laila.errors import ArtifactCorrupt, BadName, BadValue, StorageError, UnsupportedType
from laila.ids import node_id
from laila.secret import new_secret
from laila.transport.identity import Identity


def test_items_have_the_keys_of_the_seed(me: Identity) -> None:
    artifact = create_maif("agent")
    ids = [
        artifact.add_text("hello", title="Greeting", metadata={"lang": "en"}),
        artifact.add_json({"a": [1, None]}, title="Data"),
        artifact.add_binary(b"\0\xff"),
        artifact.add_image(b"\x89PNG"),
        artifact.add_embeddings([[1, 2], [3, 4]]),
    ]
    fresh = artifact.get_content_list()
    loaded = Artifact.from_bytes(artifact.to_bytes(key=me)).get_content_list()
    for items in (fresh, loaded):
        assert [item["id"] for item in items] == ids
        assert [item["index"] for item in items] == [0, 1, 2, 3, 4]
        assert [item["type"] for item in items] == ["text", "json", "binary", "image", "embeddings"]
        assert [item["title"] for item in items] == ["Greeting", "Data", "", "", ""]
        assert items[0]["text"] == items[0]["content"] == "hello"
        assert items[0]["metadata"] == {"lang": "en", "title": "Greeting"}
        assert items[1]["content"] == {"a": [1, None]}
        assert items[1]["text"] == '{"a": [1, null]}'
        assert (items[2]["content"], items[3]["content"]) == (b"\0\xff", b"\x89PNG")
        assert items[4]["content"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_embeddings_come_from_arrays_too(me: Identity) -> None:
    import numpy as np

    given = np.arange(6, dtype=np.float64).reshape(2, 3)
    artifact = create_maif("agent")
    artifact.add_embeddings(given)
    artifact.add_embeddings(given.astype(np.float32))
    for item in Artifact.from_bytes(artifact.to_bytes(key=me)).get_content_list():
        assert np.array_equal(np.asarray(item["content"]), given.astype(np.float32))
        assert (item["metadata"]["dimensions"], item["metadata"]["count"]) == (3, 2)


def test_load_add_save_keeps_what_was_there(tmp_path: Path, me: Identity) -> None:
    path = tmp_path / "a.maif"
    first = create_maif("agent")
    first.add_text("one")
    first.save(path, key=me)
    before = path.read_bytes()
    again = load_maif(path)
    again.add_text("two")
    again.save(path, key=me)
    after = path.read_bytes()
    block = before[444 : int.from_bytes(before[128:136], "big")]
    assert after[444 : 444 + len(block)] == block, "the same key signs no block twice"
    assert [item["text"] for item in load_maif(path).get_content_list()] == ["one", "two"]
    assert [entry["action"] for entry in load_maif(path).provenance] == [
        "genesis",
        "add_text_block",
        "finalize",
        "add_text_block",
        "finalize",
    ]
    assert load_maif(path).file_id == first.file_id


def test_saving_what_did_not_change_writes_the_same_bytes(tmp_path: Path, me: Identity) -> None:
    artifact = create_maif("agent")
    artifact.add_text("one")
    saved = artifact.save(tmp_path / "a.maif", key=me)
    copied = load_maif(tmp_path / "a.maif").save(tmp_path / "b.maif", key=me)
    assert (tmp_path / "a.maif").read_bytes() == (tmp_path / "b.maif").read_bytes()
    assert (copied.root, copied.digest, copied.size) == (saved.root, saved.digest, saved.size)


def test_another_key_signs_everything_and_the_lineage_goes_on(
    tmp_path: Path, me: Identity, stranger: Identity
) -> None:
    path = tmp_path / "a.maif"
    artifact = create_maif("agent")
    artifact.add_text("one")
    artifact.name_as("doc", sequence=1, fence=5)
    root = artifact.save(path, key=me).root
    other = load_maif(path, trust=TrustSet([me]))
    other.add_text("two")
    other.save(path, key=stranger)
    loaded = load_maif(path, trust=TrustSet([stranger]))
    assert not loaded.verify(TrustSet([me]))
    assert [(v.sequence, v.parent, v.fence) for v in loaded.history] == [(1, "", 5), (2, root, 5)]
    assert (loaded.name, loaded.sequence, loaded.fence) == ("doc", 2, 5)


def test_a_file_that_was_signed_again_has_a_head(tmp_path: Path, me: Identity, stranger: Identity) -> None:
    path = tmp_path / "a.maif"
    artifact = create_maif("agent")
    artifact.add_text("one")
    artifact.name_as("doc", sequence=1)
    artifact.save(path, key=me)
    for _ in range(20):
        for key in (stranger, me):
            load_maif(path).save(path, key=key)
            read_head(path).require(TrustSet([key]))
            assert load_maif(path).verify(TrustSet([key]))


def test_the_head_agrees_with_the_whole(tmp_path: Path, me: Identity, stranger: Identity) -> None:
    path = tmp_path / "a.maif"
    artifact = create_maif("agent")
    artifact.add_binary(bytes(2 << 20))
    artifact.name_as("doc", sequence=3, parent="12" * 32, fence=8)
    artifact.save(path, key=me)
    head = read_head(path)
    loaded = load_maif(path)
    assert (head.root, head.digest, head.signer) == (loaded.root, loaded.digest, loaded.signer)
    assert (head.name, head.sequence, head.fence) == ("doc", 3, 8)
    assert head == read_head(path)
    head.require(TrustSet([me]))
    with pytest.raises(Exception, match="does not trust"):
        head.require(TrustSet([stranger]))
    loaded.add_text("more")
    loaded.save(path, key=me)
    assert head != read_head(path)
    assert read_head(path).sequence == 4


def test_only_a_version_that_follows_is_written(me: Identity) -> None:
    for name, sequence, parent, fence in (
        ("a", 3, None, 2),
        ("b", 2, None, 2),
        ("a", 2, "cd" * 32, 2),
        ("a", 2, None, 1),
    ):
        artifact = create_maif("agent")
        artifact.name_as("a", sequence=1, fence=2)
        artifact.to_bytes(key=me)
        artifact.name_as(
            name, sequence=sequence, parent=artifact.root if parent is None else parent, fence=fence
        )
        with pytest.raises(BadValue, match="does not follow"):
            artifact.to_bytes(key=me)


def test_the_lineage_must_follow(me: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Artifact, "_version", lambda artifact, signer: artifact._next)

    def history(*versions: tuple[str, int, str | None]) -> list[str]:
        artifact = create_maif("agent")
        for name, sequence, parent in versions:
            artifact.add_text("x")
            artifact.name_as(name, sequence=sequence, parent=artifact.root if parent is None else parent)
            artifact.to_bytes(key=me)
        return [finding.kind for finding in artifact.check()]

    assert history(("a", 3, "ab" * 32), ("a", 4, None)) == []
    assert history(("a", 1, None), ("a", 3, None)) == ["lineage"]
    assert history(("a", 2, None), ("a", 2, None)) == ["lineage"]
    assert history(("a", 1, None), ("b", 2, None)) == ["lineage"]
    assert history(("a", 1, None), ("a", 2, "cd" * 32)) == ["lineage"]


def test_the_trust_set(me: Identity, stranger: Identity) -> None:
    key = Signer(me).public_key
    secret = new_secret()
    voucher = Signer.of(me, secret).voucher
    for trust, why in (
        (TrustSet([me]), "pinned"),
        (TrustSet([key]), "pinned"),
        (TrustSet([key.hex()]), "pinned"),
        (TrustSet([me.key.public_key()]), "pinned"),
        (TrustSet(node_ids=[me.node_id]), "peer"),
        (TrustSet(node_ids=lambda: {node_id(key): object()}), "peer"),
        (TrustSet(secret=secret), "authority"),
    ):
        assert why in (trust.trusts(key, voucher) or "")
        assert trust.trusts(Signer(stranger).public_key, voucher) is None
    assert TrustSet(secret=secret).trusts(key) is None
    assert TrustSet(secret=new_secret()).trusts(key, voucher) is None
    assert secret not in repr(TrustSet([me], secret=secret))
    for wrong in ("zz", b"short", "ab" * 31, 3):
        with pytest.raises(BadValue):
            TrustSet([wrong])  # type: ignore[list-item]  # on purpose
    with pytest.raises(BadValue, match="brackets"):
        TrustSet("ab" * 32)


def test_known_peers_are_trusted_while_they_are_known(me: Identity) -> None:
    peers: dict[str, object] = {}
    trust = TrustSet(node_ids=peers)
    artifact = create_maif("agent")
    artifact.add_text("x")
    artifact.to_bytes(key=me)
    assert not artifact.verify(trust)
    peers[me.node_id] = object()
    assert artifact.verify(trust)


def test_the_default_key_is_kept_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = create_maif("agent")
    artifact.add_text("x")
    artifact.save(tmp_path / "a.maif")
    assert load_maif(tmp_path / "a.maif").verify(TrustSet.default())
    first = default_identity().node_id
    program = "from laila.artifacts import default_identity; print(default_identity().node_id)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first
    monkeypatch.setenv("LAILA_STATE_DIR", str(tmp_path / "node"))
    assert default_identity().node_id != first
    assert default_identity().node_id == Identity.load_or_create(tmp_path / "node").node_id


@pytest.mark.parametrize("agent", ["", "x" * 56, "ünï", "a\nb", 7, None])
def test_an_agent_id_must_fit_the_file(agent: object) -> None:
    with pytest.raises(BadName):
        create_maif(agent)  # type: ignore[arg-type]  # on purpose
    create_maif("x" * 55)


def test_what_cannot_be_stored_is_refused_at_once(tmp_path: Path, me: Identity) -> None:
    artifact = create_maif("agent")
    for call in (
        lambda: artifact.add_text(b"bytes"),  # type: ignore[arg-type]
        lambda: artifact.add_binary(3),
        lambda: artifact.add_text("x", metadata=[1]),  # type: ignore[arg-type]
        lambda: artifact.add_text("x", metadata={1: 2}),  # type: ignore[dict-item]
        lambda: artifact.add_text("x", metadata={"a": {1, 2}}),
        lambda: artifact.add_text("x", title=3),  # type: ignore[arg-type]
        lambda: artifact.add_json({"a": object()}),
    ):
        with pytest.raises(UnsupportedType):
            call()
    for bad in (
        lambda: artifact.add_text("\ud800"),
        lambda: artifact.add_text("x", metadata={"a": float("nan")}),
        lambda: artifact.add_json(float("inf")),
        lambda: artifact.add_embeddings([[1], [1, 2]]),
        lambda: artifact.add_embeddings(["x"]),
        lambda: artifact.name_as("a", sequence=0),
        lambda: artifact.save(tmp_path / "a", sign=False, key=me),
    ):
        with pytest.raises(BadValue):
            bad()
    with pytest.raises(FileNotFoundError):
        artifact.add_binary(tmp_path / "absent")
    assert artifact.get_content_list() == []


def test_what_the_caller_changes_later_is_not_what_was_added(me: Identity) -> None:
    data = bytearray(b"before")
    artifact = create_maif("agent")
    artifact.add_binary(data)
    data[:] = b"after!"
    assert Artifact.from_bytes(artifact.to_bytes(key=me)).get_content_list()[0]["content"] == b"before"


def test_a_copy_begins_anew(tmp_path: Path, me: Identity) -> None:
    artifact = create_maif("agent")
    artifact.add_text("one", title="T")
    artifact.add_binary(bytes(2 << 20))
    artifact.name_as("doc", sequence=4)
    artifact.save(tmp_path / "a.maif", key=me)
    artifact = Artifact.load(tmp_path / "a.maif", read_up_to=0)
    artifact.add_text("not saved yet")
    other = artifact.copy("another")
    other.save(tmp_path / "b.maif", key=me)
    loaded = load_maif(tmp_path / "b.maif")
    assert loaded.verify()
    assert (loaded.agent_id, loaded.name, loaded.history) == ("another", None, ())
    assert [item["type"] for item in loaded.get_content_list()] == ["text", "binary", "text"]
    assert loaded.get_content_list()[0]["title"] == "T"
    assert loaded.file_id != artifact.file_id
    ids = {item["id"] for item in artifact.get_content_list()}
    assert ids.isdisjoint(item["id"] for item in loaded.get_content_list())


def test_never_saved_is_not_verified() -> None:
    artifact = create_maif("agent")
    artifact.add_text("x")
    assert not artifact.verify()
    assert "never saved" in str(artifact.check()[0])


def test_added_content_is_not_verified_before_it_is_saved(me: Identity) -> None:
    artifact = create_maif("agent")
    artifact.add_text("x")
    artifact.to_bytes(key=me)
    assert artifact.verify()
    artifact.add_text("y")
    assert not artifact.verify()


def test_saving_into_nowhere_says_so(tmp_path: Path, me: Identity) -> None:
    artifact = create_maif("agent")
    with pytest.raises(StorageError, match="ENOENT"):
        artifact.save(tmp_path / "absent" / "a.maif", key=me)
    (tmp_path / "a.maif").mkdir()
    with pytest.raises(StorageError):
        artifact.save(tmp_path / "a.maif", key=me)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.maif"]


def test_readers_see_old_or_new_while_a_writer_saves(tmp_path: Path, me: Identity) -> None:
    path, stop, seen = tmp_path / "a.maif", threading.Event(), set()

    def write(number: int) -> None:
        artifact = create_maif("agent")
        artifact.add_text(str(number) * 50_000)
        artifact.save(path, key=me, durable=False)

    write(0)

    def read() -> None:
        while not stop.is_set():
            (item,) = load_maif(path, trust=TrustSet([me])).get_content_list()
            seen.add(item["text"][0])
            assert item["text"] == item["text"][0] * 50_000

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(1, 60):
            write(number % 10)
    finally:
        stop.set()
        thread.join()
    assert len(seen) > 1


def test_a_file_that_shrinks_under_the_reader_is_an_error_not_a_crash(tmp_path: Path, me: Identity) -> None:
    """Whoever writes in place (`open(path, "wb")`) would kill a reader that maps the file."""
    path = tmp_path / "a.maif"
    artifact = create_maif("agent")
    artifact.add_binary(bytes(4 << 20))
    artifact.save(path, key=me)
    loaded = load_maif(path)
    os.truncate(path, 1000)
    assert loaded.verify()
    with pytest.raises(ArtifactCorrupt):
        load_maif(path)


def test_versions_say_when(me: Identity) -> None:
    artifact = create_maif("agent")
    artifact.name_as("doc", sequence=1)
    artifact.to_bytes(key=me)
    (version,) = artifact.history
    assert isinstance(version, Version)
    assert abs(version.at - artifact.modified) < 5
    assert version.root == artifact.root


def test_a_gibibyte_is_written_and_verified_in_little_memory(tmp_path: Path) -> None:
    """One block of a GiB, from a file, signed where it lies, loaded by mapping: never over 256 MiB resident."""
    with (tmp_path / "data").open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * (16 << 20))
    program = r"""
import re, sys
from pathlib import Path
from laila.maif import create_maif, load_maif
data, target = Path(sys.argv[1]), sys.argv[2]
artifact = create_maif("large")
artifact.add_binary(data)
artifact.save(target)
del artifact
loaded = load_maif(target)
assert loaded.verify(), loaded.check()
content = loaded.get_content_list()[0]["content"]
assert len(content) == 1 << 30 and content[-1] == 63 and content[0] == 0
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""
    argv = [sys.executable, "-c", program, str(tmp_path / "data"), str(tmp_path / "large.maif")]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 256 << 10
    finally:
        for name in ("data", "large.maif"):
            (tmp_path / name).unlink(missing_ok=True)
