"""A cluster gets another secret: what was signed under the old one stays believed, and the old secret opens nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laila.artifacts import Artifact, Signer, TrustSet, create_maif
from laila.artifacts.vouchers import MOST, RECORD, Vouchers, digest, packed, unpacked
from laila.errors import UntrustedSigner
from laila.pools import SqlitePool
from laila.replication.copies import Copy
from laila.replication.directory import DirectoryReplica
from laila.replication.pool import PoolReplica
from laila.replication.renewal import renew
from laila.replication.replica import Replica, Stamp
from laila.replication.store import ReplicatedStore
from laila.secret import new_secret
from laila.transport.identity import Identity
from tests.replication.versions import NEW_SECRET as NEW
from tests.replication.versions import OLD_SECRET as OLD

Opener = Callable[[TrustSet], Replica]


@pytest.fixture(params=["directory", "pool"])
def open_replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    opened: list[Replica] = []
    pool = SqlitePool(tmp_path / "pool") if request.param == "pool" else None

    def open_one(trust: TrustSet) -> Replica:
        one: Replica
        if pool is None:
            one = DirectoryReplica(tmp_path / "replica", trust)
        else:
            one = PoolReplica(pool, trust, where="pool:kept")
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        one.close()
    if pool is not None:
        pool.close()


def version(name: str, signer: Signer, sequence: int = 1, *, gone: bool = False) -> Copy:
    artifact = Artifact.create("writer")
    if not gone:
        artifact.add_text(f"version {sequence} of {name}")
    artifact.name_as(name, sequence=sequence, gone=gone)
    return Copy.encode(name, artifact, signer, TrustSet([signer]))


def test_whoever_signed_what_is_here_is_vouched_for_under_every_secret(open_replica: Opener) -> None:
    writers = [Signer.of(Identity.ephemeral(), OLD) for _ in range(3)]
    old = open_replica(TrustSet(secret=OLD))
    old.mark(Stamp("5" * 32, "1" * 32))
    for number in range(120):  # more than one leaf of the digest tree
        with version(f"name{number}", writers[number % 2], gone=number % 7 == 0) as copy:
            old.put(copy, 0)
    with version("last", writers[2]) as copy:
        old.put(copy, 0)

    both = TrustSet(secret=NEW, also_accept=[OLD])
    changing = open_replica(both)
    assert renew(changing, both, (NEW, OLD), 0) == 3
    assert renew(changing, both, (NEW, OLD), 0) == 0, "they are vouched for already"

    after = open_replica(TrustSet(secret=NEW))
    after.stamp()
    after.vouchers()
    for name in ("name1", "name2", "last"):
        copy = after.fetch(name, 0) or pytest.fail("nothing came")
        with copy:
            assert copy.artifact().get_content_list()[0]["text"].endswith(name)


def test_a_signer_who_is_not_believed_is_not_vouched_for(open_replica: Opener) -> None:
    """Also when what lies there says so: whoever reaches a disk or a pool knows no secret by that."""
    stranger = Signer.of(Identity.ephemeral(), new_secret())
    theirs = open_replica(TrustSet([stranger]))
    theirs.mark(Stamp("5" * 32, "1" * 32))
    with version("report", stranger) as copy:
        theirs.put(copy, 0)
    both = TrustSet(secret=NEW, also_accept=[OLD])
    changing = open_replica(both)
    assert renew(changing, both, (NEW, OLD), 0) == 0
    assert changing.vouchers() == []


def test_a_store_is_read_and_written_under_the_new_secret_by_who_knows_only_that(tmp_path: Path) -> None:
    """Also a replica that missed the whole change, and one that is new afterwards."""
    places = [tmp_path / place for place in ("one", "two", "three")]
    with ReplicatedStore(places, identity=Identity.ephemeral(), secret=OLD, background=False) as store:
        for name in ("a", "b"):
            store.save(name, _text(f"first {name}"))
        store.forget("b")

    both = TrustSet(secret=NEW, also_accept=[OLD])
    for place in places[:2]:
        one = DirectoryReplica(place, both)
        assert renew(one, both, (NEW, OLD), 1) == 1
        one.close()

    new = Identity.ephemeral()
    with ReplicatedStore(places, identity=new, secret=NEW, background=False) as store:
        assert store.load("a").get_content_list()[0]["text"] == "first a"
        assert not any(row["error"] for row in store.verify_replicas("a").values())
        store.save("a", _text("second a"))
        store.save("b", _text("b again"))
        added = store.add_replica(tmp_path / "four")
        assert added
        store.repair()
        rows = store.verify_replicas("a")
        assert len(rows) == 4
        assert all(row["valid"] for row in rows.values()), rows

    with (
        pytest.raises(UntrustedSigner),
        ReplicatedStore(places, identity=Identity.ephemeral(), secret=OLD, background=False) as store,
    ):
        store.load("a")


def test_without_it_nothing_is_believed_under_another_secret(tmp_path: Path) -> None:
    places = [tmp_path / place for place in ("one", "two", "three")]
    with ReplicatedStore(places, identity=Identity.ephemeral(), secret=OLD, background=False) as store:
        store.save("a", _text("first"))
    with pytest.raises(UntrustedSigner):
        ReplicatedStore(places, identity=Identity.ephemeral(), secret=NEW, background=False)


def test_a_book_is_bounded_and_reads_back_what_is_whole() -> None:
    pairs = [(number.to_bytes(32, "big"), number.to_bytes(64, "big")) for number in range(3)]
    assert unpacked(packed(pairs)) == pairs
    assert unpacked(packed(pairs) + b"cut") == pairs
    assert len(packed(pairs)) == 3 * RECORD
    assert digest([]) == ""
    assert digest(pairs) == digest(reversed(pairs)) != digest(pairs[:2])
    book = Vouchers()
    book.add((number.to_bytes(32, "big"), b"v" * 64) for number in range(MOST + 5))
    assert len(book) == len(book.pairs()) == MOST
    assert book.pairs()[3] in book


def _text(text: str) -> Artifact:
    artifact = create_maif("writer")
    artifact.add_text(text)
    return artifact
