"""The service of a replica: what it believes of a peer, and what a peer can leave behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laila.errors import (
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    Busy,
    Closed,
    LailaError,
    LimitExceeded,
    MembershipStale,
    StorageError,
    UntrustedSigner,
)
from laila.replication import service as service_module
from laila.replication.copies import CHUNK
from laila.replication.directory import DirectoryReplica
from laila.replication.replica import Health, Stamp
from laila.replication.service import ReplicaService
from laila.replication.transfer import BYTES, FOR_EACH, UnderWay
from laila.serving import Asker
from laila.transport.identity import Identity
from laila.wire.messages import Answer
from tests.peering.support import until
from tests.replication.served_replica import STORE, TRUST, bytes_of, membership, version

PEER = Asker("11111111-1111-5111-8111-111111111111", "one")
OTHER = Asker("22222222-2222-5222-8222-222222222222", "two")
HASH = "a" * 64
STAND = [1, HASH, HASH, HASH, False, 5 * CHUNK, 0.0]


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[DirectoryReplica]:
    found = DirectoryReplica(tmp_path / "replica", TRUST)
    found.mark(Stamp(STORE, "one"))
    yield found
    found.close()


@pytest.fixture
def service(replica: DirectoryReplica) -> Iterator[ReplicaService]:
    found = ReplicaService(replica, TRUST)
    yield found
    found.close()


def ask(
    service: ReplicaService, do: Any, *buffers: bytes, asker: Asker = PEER, **words: Any
) -> dict[str, Any]:
    answer = service(asker, {"do": do, **words}, buffers)
    return dict(answer.words if isinstance(answer, Answer) else answer)


def put(service: ReplicaService, copy: Any, data: bytes | None = None, name: str = "") -> dict[str, Any]:
    """In one question; perhaps with other bytes, or under another name."""
    words = {"name": name or copy.name, "number": 0, "stand": copy.stand.words()}
    return ask(service, "put", bytes_of(copy) if data is None else data, **words)


def begun(service: ReplicaService, copy: Any, asker: Asker = PEER) -> str:
    answer = ask(service, "begin", asker=asker, name=copy.name, number=0, stand=copy.stand.words())
    token: str = answer["upload"]
    return token


def sent(service: ReplicaService, copy: Any, asker: Asker = PEER) -> str:
    """An upload with all of its pieces."""
    token = begun(service, copy, asker)
    for at, piece in copy.chunks(CHUNK):
        ask(service, "piece", bytes(piece), asker=asker, upload=token, at=at)
    return token


SENSELESS: list[dict[str, Any]] = [
    {},
    {"do": None},
    {"do": 7},
    {"do": "format the disk"},
    {"do": "x" * 100_000},
    {"do": "look"},
    {"do": "look", "names": "a", "number": 0},
    {"do": "look", "names": ["a"], "number": -1},
    {"do": "look", "names": ["a"], "number": True},
    {"do": "look", "names": ["a"], "number": 1 << 63},
    {"do": "look", "names": ["a"], "number": 0.5},
    {"do": "look", "names": ["../../etc/passwd"], "number": 0},
    {"do": "look", "names": [".laila"], "number": 0},
    {"do": "look", "names": [7], "number": 0},
    {"do": "look", "names": ["a"] * 5000, "number": 0},
    {"do": "fetch", "name": "../a", "number": 0},
    {"do": "fetch", "name": b"a", "number": 0},
    {"do": "fetch", "name": "a" * 121, "number": 0},
    {"do": "check", "name": "", "number": 0},
    {"do": "check", "name": "a"},
    {"do": "distrust", "name": "a", "reason": "r" * 1001},
    {"do": "distrust", "name": "a/b", "reason": ""},
    {"do": "settle", "name": "a", "tag": [1, HASH]},
    {"do": "settle", "name": "a", "tag": [-1, HASH, HASH]},
    {"do": "settle", "name": "a", "tag": [1, "A" * 64, HASH]},
    {"do": "settle", "name": "a", "tag": "1"},
    {"do": "mark", "stamp": ["store", "one", False]},
    {"do": "mark", "stamp": ["store", 1, False, ""]},
    {"do": "mark", "stamp": ["s" * 2000, "one", False, ""]},
    {"do": "mark", "stamp": [STORE, "one", False, ""], "before": [STORE, "one"]},
    {"do": "settle", "name": "a", "tag": None},
    {"do": "settle", "name": "a", "tag": None, "mark": "m" * 101},
    {"do": "learn", "document": "text"},
    {"do": "learn", "document": b"x" * (2 << 20)},
    {"do": "cast", "before": None, "after": None},
    {"do": "cast", "before": 1, "after": b""},
    {"do": "branches", "prefixes": ["zz"]},
    {"do": "branches", "prefixes": ["a" * 65]},
    {"do": "branches", "prefixes": [""] * 1000},
    {"do": "names"},
    {"do": "names", "after": 1, "number": 0},
    {"do": "names", "after": ""},
    {"do": "begin", "name": "a", "number": 0},
    {"do": "begin", "name": "a", "number": 0, "stand": [1, 2, 3]},
    {"do": "begin", "name": "a", "number": 0, "stand": [*STAND[:6], float("nan")]},
    {"do": "begin", "name": "a", "number": 0, "stand": [*STAND[:5], -1, 0.0]},
    {"do": "read", "loan": "x", "at": 0, "count": 0},
    {"do": "read", "loan": "x", "at": -1, "count": 1},
    {"do": "read", "loan": "x", "at": 0, "count": CHUNK + 1},
    {"do": "put", "name": "a", "number": 0},
    {"do": "piece", "upload": "x", "at": 0},
    {"do": "end", "upload": None, "number": 0},
    {"do": "drop"},
    {"do": "scrub", "run": 7},
]  # fmt: skip


@pytest.mark.parametrize("words", SENSELESS, ids=lambda words: str(words)[:60])
def test_a_question_that_makes_no_sense_is_refused_in_words(
    service: ReplicaService, replica: DirectoryReplica, words: dict[str, Any]
) -> None:
    """And nothing happens."""
    with pytest.raises(BadValue) as caught:
        service(PEER, words, ())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert replica.names(0).live == []
    assert replica.ballot() is None
    assert service.under_way == 0
    assert service.counts.refusals == 1
    assert service.counts.last_error.startswith("BadValue")


WORDS = [
    "stamp",
    "mark",
    "membership",
    "learn",
    "ballot",
    "look",
    "fetch",
    "read",
    "return",
    "put",
    "begin",
    "piece",
    "end",
    "drop",
    "branches",
    "names",
    "quarantined",
    "check",
    "scrub",
    "distrust",
    "settle",
]
KEYS = [
    "name",
    "names",
    "number",
    "stand",
    "tag",
    "stamp",
    "before",
    "after",
    "document",
    "prefixes",
    "reason",
    "mark",
    "upload",
    "loan",
    "run",
    "token",
    "at",
    "count",
]
SCALARS = st.none() | st.booleans() | st.integers(-2, 1 << 64) | st.floats()
PLAIN = st.recursive(
    SCALARS | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    do=st.sampled_from(WORDS),
    words=st.dictionaries(st.sampled_from(KEYS), PLAIN),
    buffers=st.lists(st.binary(max_size=9), max_size=2),
)
def test_whatever_a_peer_says_ends_in_an_answer_or_in_one_of_our_errors(
    service: ReplicaService, do: str, words: dict[str, Any], buffers: list[bytes]
) -> None:
    with contextlib.suppress(LailaError):
        service(PEER, {**words, "do": do}, buffers)


def test_buffers_belong_to_put_and_piece_alone(service: ReplicaService) -> None:
    for do, buffers in (("stamp", (b"x",)), ("put", ()), ("put", (b"x", b"y")), ("piece", ())):
        with pytest.raises(BadValue, match="buffers"):
            ask(service, do, *buffers, name="a", number=0)


def test_what_is_too_large_is_refused_before_it_comes(service: ReplicaService) -> None:
    with pytest.raises(LimitExceeded):
        ask(service, "put", b"x" * (CHUNK + 1), name="a", number=0, stand=STAND)
    with pytest.raises(LimitExceeded):
        ask(service, "begin", name="a", number=0, stand=[*STAND[:5], BYTES + 1, 0.0])
    with version("a", size=3 * CHUNK) as copy:
        token = begun(service, copy)
        with pytest.raises(BadValue, match="piece has from 1 to"):
            ask(service, "piece", b"x" * (CHUNK + 1), upload=token, at=0)
        with pytest.raises(ArtifactCorrupt, match="outside"):
            ask(service, "piece", b"x", upload=token, at=copy.size)


def test_bytes_are_verified_before_the_replica_is_given_them(
    service: ReplicaService, replica: DirectoryReplica
) -> None:
    with version("a") as good, version("a", key=Identity.ephemeral()) as strange:
        data = bytes_of(good)
        with pytest.raises(UntrustedSigner):
            put(service, strange)
        with pytest.raises(ArtifactError):
            put(service, good, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        with pytest.raises(ArtifactError):
            put(service, good, data[:-1])
        with pytest.raises(ArtifactError, match="moved"):
            put(service, good, name="b")
        with version("a", 9) as other, pytest.raises(ArtifactCorrupt, match="announced"):
            put(service, other, data)
        assert replica.look(["a", "b"], 0) == [None, None]
        assert put(service, good) == {"stand": good.stand.words()}


def test_pieces_may_come_in_any_order(service: ReplicaService, replica: DirectoryReplica) -> None:
    with version("a", size=3 * CHUNK + 17) as copy:
        token = begun(service, copy)
        for at, piece in reversed(list(copy.chunks(CHUNK))):
            ask(service, "piece", bytes(piece), upload=token, at=at)
        assert ask(service, "end", upload=token, number=0) == {"stand": copy.stand.words()}
        assert service.under_way == 0
        with pytest.raises(Closed):
            ask(service, "end", upload=token, number=0)
        with replica.fetch("a", 0) or pytest.fail("nothing is there") as found:
            assert bytes_of(found) == bytes_of(copy)


def test_an_upload_with_a_hole_or_a_wrong_piece_is_no_version(
    service: ReplicaService, replica: DirectoryReplica
) -> None:
    with version("a", size=3 * CHUNK) as copy:
        pieces = [(at, bytes(piece)) for at, piece in copy.chunks(CHUNK)]
        for given_ in (
            pieces[:-1],
            [pieces[0], pieces[0], *pieces[2:]],
            [*pieces, pieces[1]],
            [(at, bytes(len(piece))) if at == CHUNK else (at, piece) for at, piece in pieces],
        ):
            token = begun(service, copy)
            for at, piece in given_:
                ask(service, "piece", piece, upload=token, at=at)
            with pytest.raises(ArtifactError):
                ask(service, "end", upload=token, number=0)
    assert service.under_way == 0
    assert replica.look(["a"], 0) == [None]


def test_two_uploads_of_one_name_end_with_the_newer_in_either_order(
    service: ReplicaService, replica: DirectoryReplica
) -> None:
    with version("a", 1, 3 * CHUNK) as older, version("a", 2, 3 * CHUNK) as newer:
        first, second = sent(service, older), sent(service, newer, OTHER)
        assert ask(service, "end", upload=second, number=0, asker=OTHER) == {"stand": newer.stand.words()}
        assert ask(service, "end", upload=first, number=0) == {"stand": newer.stand.words()}
        assert replica.look(["a"], 0) == [newer.stand]
        # And what is there already need not travel at all.
        again = ask(service, "begin", name="a", number=0, stand=older.stand.words())
        assert again == {"stand": newer.stand.words()}


def test_what_one_peer_began_is_nothing_to_another(service: ReplicaService) -> None:
    with version("a", size=3 * CHUNK) as copy:
        token = sent(service, copy)
        relayed = Asker(PEER.node_id, PEER.name, (OTHER.node_id, OTHER.name))
        for stranger in (OTHER, relayed):
            with pytest.raises(Closed):
                ask(service, "piece", b"x", asker=stranger, upload=token, at=0)
            with pytest.raises(Closed):
                ask(service, "end", asker=stranger, upload=token, number=0)
            ask(service, "drop", asker=stranger, token=token)
        assert ask(service, "end", upload=token, number=0) == {"stand": copy.stand.words()}


def test_one_peer_has_only_so_many_copies_under_way(service: ReplicaService) -> None:
    with version("a", size=3 * CHUNK) as copy:
        tokens = [begun(service, copy) for _ in range(FOR_EACH)]
        with pytest.raises(Busy, match="8"):
            begun(service, copy)
        begun(service, copy, OTHER)
        ask(service, "drop", token=tokens[0])
        begun(service, copy)
        assert service.under_way == FOR_EACH + 1


def test_one_peer_has_only_so_many_bytes_under_way(service: ReplicaService) -> None:
    half = [*STAND[:5], BYTES // 2 + 1, 0.0]
    first = ask(service, "begin", name="a", number=0, stand=half)["upload"]
    with pytest.raises(Busy, match="bytes"):
        ask(service, "begin", name="b", number=0, stand=half)
    ask(service, "drop", token=first)
    ask(service, "begin", name="b", number=0, stand=half)


def test_what_nobody_touches_is_dropped_by_itself(replica: DirectoryReplica) -> None:
    service = ReplicaService(replica, TRUST, idle=0.2)
    with version("a", size=3 * CHUNK) as copy:
        replica.put(copy, 0)
        with version("a", 2, size=3 * CHUNK) as next_:
            upload = begun(service, next_)
        loan = ask(service, "fetch", name="a", number=0)["loan"]
        run = ask(service, "scrub")["run"]
    until(lambda: service.under_way == 0, 120)
    for word, token in (("end", {"upload": upload}), ("return", {"loan": loan}), ("scrub", {"run": run})):
        with pytest.raises(Closed, match="begin again"):
            ask(service, word, number=0, **token)
    service.close()


def test_what_a_peer_leaves_is_dropped_when_it_is_gone(replica: DirectoryReplica) -> None:
    here = {PEER.node_id, OTHER.node_id}
    service = ReplicaService(replica, TRUST, idle=60.0, alive=here.__contains__)
    with version("a", size=3 * CHUNK) as copy:
        begun(service, copy)
        token = sent(service, copy, OTHER)
        here.remove(PEER.node_id)
        until(lambda: service.under_way == 1, 50, "before it is idle for long enough")
        assert ask(service, "end", asker=OTHER, upload=token, number=0)
    service.close()


def test_a_closed_service_begins_nothing(service: ReplicaService) -> None:
    with version("a", size=3 * CHUNK) as copy:
        token = begun(service, copy)
        service.close()
        for do in (lambda: begun(service, copy), lambda: ask(service, "piece", b"x", upload=token, at=0)):
            with pytest.raises(Closed):
                do()


def test_a_membership_that_became_newer_during_a_download_is_told_at_its_end(
    service: ReplicaService, replica: DirectoryReplica
) -> None:
    with version("a", size=3 * CHUNK) as copy:
        replica.put(copy, 0)
        loan = ask(service, "fetch", name="a", number=1)["loan"]
        raw = membership(3)
        ask(service, "learn", document=raw)
        with pytest.raises(MembershipStale) as caught:
            ask(service, "return", loan=loan, number=1)
        assert (caught.value.number, caught.value.document) == (3, raw)
        ask(service, "return", loan=loan, number=3)
        assert service.under_way == 0


def test_long_looks_leave_threads_to_others(service: ReplicaService, replica: DirectoryReplica) -> None:
    """Two of them at the same time; who comes third is told to come back."""
    inside, release = threading.Semaphore(0), threading.Event()

    def check(name: str, number: int) -> Health:
        inside.release()
        assert release.wait(150)
        return Health(None, False, "slow")

    replica.check = check  # type: ignore[method-assign]  # a disk that takes its time
    threads = [
        threading.Thread(target=ask, args=(service, "check"), kwargs={"name": "a", "number": 0})
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert inside.acquire(timeout=120)
        with pytest.raises(Busy):
            ask(service, "check", name="a", number=0)
        assert ask(service, "stamp")["stamp"] == [STORE, "one", False, ""]
    finally:
        release.set()
        for thread in threads:
            thread.join(120)


def test_a_dead_disk_does_not_take_all_threads_of_the_node(
    service: ReplicaService, replica: DirectoryReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "HUNG", 0.1)
    release = threading.Event()
    monkeypatch.setattr(replica, "look", lambda names, number: release.wait(150) and [None])
    words = {"names": ["a"], "number": 0}
    threads = [
        threading.Thread(target=ask, args=(service, "look"), kwargs=words)
        for _ in range(service_module.MAY_HANG)
    ]
    for thread in threads:
        thread.start()
    refused: list[StorageError] = []

    def another() -> bool:
        try:
            ask(service, "stamp")
        except StorageError as error:
            refused.append(error)
        return bool(refused)

    try:
        until(another, 120)
        assert "does not answer: 12 calls" in str(refused[0])
    finally:
        release.set()
        for thread in threads:
            thread.join(120)
    assert ask(service, "stamp")


def test_counts_tell_what_was_done(service: ReplicaService) -> None:
    with version("a") as copy:
        put(service, copy)
        ask(service, "fetch", name="a", number=0)
        with pytest.raises(BadValue):
            ask(service, "fetch", name="a")
        counts = service.counts
        assert (counts.questions, counts.puts, counts.fetches, counts.refusals) == (3, 1, 1, 1)
        assert (counts.bytes_taken, counts.bytes_served) == (copy.size, copy.size)
        assert counts.last_error_at is not None


# ---- what is under way ----


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_used_or_touched_stays_and_all_is_ended_once() -> None:
    clock, ended = Clock(), list[str]()
    things = UnderWay[str]("things", ended.append, idle=60.0, clock=clock)
    who = ("peer", "")
    slow, left, used = (things.begin(who, thing) for thing in ("slow", "left", "used"))
    with things.use(who, used):
        for clock.now in (50.0, 100.0, 150.0):  # a slow reader takes a piece now and then
            with things.use(who, slow):
                pass
        things.sweep()
        assert ended == ["left"]
        things.drop(who, used)
        things.drop(who, used)
        assert ended == ["left"], "it is in use still"
    assert ended == ["left", "used"]
    clock.now = 500.0
    things.sweep()
    things.sweep()
    things.close()
    assert ended == ["left", "used", "slow"]
    with pytest.raises(Closed), things.use(who, left):
        pass


def test_nothing_is_taken_while_it_is_used() -> None:
    things = UnderWay[str]("things", lambda thing: None)
    token = things.begin(("peer", ""), "thing")
    with things.use(("peer", ""), token):
        with pytest.raises(Busy):
            things.take(("peer", ""), token)
    assert things.take(("peer", ""), token) == "thing"
    things.close()
