"""A replica on another node: asked over a real link, with copies of every size, and never believed."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import TrustSet
from laila.codec import Buffer
from laila.errors import (
    AccessDenied,
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    Closed,
    DeadlineExceeded,
    LinkError,
    MembershipStale,
    PeerLost,
    ProtocolError,
    StorageError,
    Unreachable,
    UntrustedSigner,
)
from laila.macros.defaults import DefaultPolicy
from laila.replication import service as service_module
from laila.replication import words as words_module
from laila.replication.copies import CHUNK
from laila.replication.directory import DirectoryReplica
from laila.replication.peer import TRIES, PeerReplica
from laila.replication.replica import Health, Replica, Stamp
from laila.replication.service import ReplicaService
from laila.replication.tags import Stand, Tag, Unsure
from laila.transport.identity import Identity
from laila.wire.messages import Answer
from tests.peering.support import SECRET, node, until
from tests.replication import test_directory_replica as directory_suite
from tests.replication.served_replica import (
    CALM,
    MIB,
    SERVICE,
    STORE,
    TRUST,
    WHERE,
    Served,
    bytes_of,
    membership,
    served,
    version,
)
from tests.replication.versions import settle

ROOT = Path(__file__).parents[2]
HASH = "a" * 64
SIZES = (0, 100, CHUNK - 5000, CHUNK + 1, 9 * MIB)


# ---- the suite for all replicas ----


class Dialed(PeerReplica):
    """With an endpoint of its own, as another program has it."""

    def __init__(self, place: str, trust: TrustSet) -> None:
        self._policy = DefaultPolicy(name="program", limits=CALM)
        port = int(place.partition(" ")[0])
        peer = self._policy.peers[self._policy.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        super().__init__(WHERE, lambda: peer, SERVICE, timeout=150.0, trust=trust)

    def close(self) -> None:
        super().close()
        self._policy.close()


def opened(place: str, trust: TrustSet) -> Replica:
    return Dialed(place, trust)


class TestPeer(directory_suite.TestDirectory):
    """A directory that a node serves. What is done behind its back is done to the directory."""

    opener = "tests.replication.test_peer_replica:opened"

    @pytest.fixture
    def place(self, tmp_path: Path, trust: TrustSet) -> Iterator[str]:
        with node("server", limits=CALM) as (server, protocol):
            replica = DirectoryReplica(tmp_path / "replica", trust)
            service = ReplicaService(replica, trust, alive=server.communication.is_connected)
            server.services.offer(SERVICE, service)
            yield f"{protocol.port} {tmp_path}/replica"
            service.close()
            replica.close()

    def opened(self, place: str, trust: TrustSet) -> Replica:
        return opened(place, trust)

    def _file(self, place: str, name: str) -> Path:
        return super()._file(place.partition(" ")[2], name)


@pytest.fixture
def link(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "replica") as found:
        yield found


def fetched(link: Served, name: str, number: int = 0) -> bytes:
    copy = link.peer.fetch(name, number)
    assert copy is not None
    with copy:
        return bytes_of(copy)


# ---- copies ----


@pytest.mark.parametrize("size", SIZES)
def test_a_copy_of_any_size_goes_there_and_back(link: Served, size: int) -> None:
    with version("a", size=size) as copy:
        data = bytes_of(copy)
        assert link.peer.put(copy, 0) == copy.stand
    assert (link.directory / "a.maif").read_bytes() == data
    assert fetched(link, "a") == data
    assert link.service.under_way == 0
    assert link.peer.fetch("b", 0) is None


def test_many_copies_go_at_the_same_time_over_one_link(link: Served) -> None:
    """More than one peer may have under way: the others wait for their turn."""
    copies = [version(f"n{n}", size=5 * MIB) for n in range(12)]
    failures: list[BaseException] = []

    def work(copy: Any) -> None:
        try:
            assert link.peer.put(copy, 0) == copy.stand
            assert fetched(link, copy.name) == bytes_of(copy)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(copy,)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    for copy in copies:
        copy.close()
    assert failures == []
    assert link.service.under_way == 0
    assert link.peer.names(0).live == sorted(copy.name for copy in copies)


def test_an_older_version_is_not_taken_and_need_not_travel(link: Served) -> None:
    with version("a", 1, 9 * MIB) as older, version("a", 2, 9 * MIB) as newer:
        assert link.peer.put(newer, 0) == newer.stand
        taken = link.service.counts.bytes_taken
        assert link.peer.put(older, 0) == newer.stand
        assert link.service.counts.bytes_taken == taken


def test_a_tombstone_is_a_version(link: Served) -> None:
    with version("a", 1) as live, version("a", 2, gone=True) as tombstone:
        link.peer.put(live, 0)
        assert link.peer.put(tombstone, 0) == tombstone.stand
        assert link.peer.names(0).live == []
        assert link.peer.look(["a"], 0) == [tombstone.stand]
        assert fetched(link, "a") == bytes_of(tombstone)


MEMORY = """
import gc, sys, threading
from pathlib import Path
sys.path[:0] = [{root!r}]
from tests.replication.served_replica import MIB, served, version

def private():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024

copy = version("big", size=160 * MIB)
with served(Path({path!r})) as link, copy:
    with version("small", size=9 * MIB) as small:
        link.peer.put(small, 0)
        link.peer.fetch("small", 0).close()
    gc.collect()
    before, most, done = private(), 0.0, threading.Event()
    def watch():
        global most
        while not done.wait(0.005):
            most = max(most, private())
    watcher = threading.Thread(target=watch)
    watcher.start()
    link.peer.put(copy, 0)
    up, most = most - before, 0.0
    fetched = link.peer.fetch("big", 0)
    done.set()
    watcher.join()
    assert fetched.stand == copy.stand
    fetched.close()
    print(up, most - before)
"""


def test_memory_is_bounded_to_a_few_pieces_on_both_sides(tmp_path: Path) -> None:
    """160 MiB go there and back, both sides in one process, which needs a fraction of that."""
    script = MEMORY.format(root=str(ROOT), path=str(tmp_path / "replica"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    up, down = map(float, done.stdout.split())
    assert up < 64, f"{up} MiB to send 160"
    assert down < 64, f"{down} MiB to fetch 160"


# ---- everything else that a replica answers ----


def test_identity_membership_and_ballot_travel(link: Served) -> None:
    peer = link.peer
    assert peer.remote
    assert peer.where == WHERE
    assert peer.stamp() == Stamp(STORE, "one")
    rebuilding = Stamp(STORE, "one", rebuilding=True, life="first")
    assert not peer.mark(rebuilding, rebuilding)
    assert peer.mark(rebuilding, Stamp(STORE, "one"))
    assert peer.stamp() == rebuilding
    assert peer.mark(rebuilding)
    assert peer.membership() is None
    assert peer.ballot() is None
    assert peer.cast(None, b"one")
    assert not peer.cast(None, b"two")
    assert not peer.cast(b"two", b"three")
    assert peer.cast(b"one", b"two")
    assert peer.ballot() == b"two"


def test_a_newer_membership_is_told_with_its_document(link: Served) -> None:
    raw = membership(5)
    link.peer.learn(raw)
    assert link.peer.membership() == raw
    for call in (lambda: link.peer.look(["a"], 4), lambda: link.peer.fetch("a", 4)):
        with pytest.raises(MembershipStale) as caught:
            call()
        assert (caught.value.number, caught.value.document) == (5, raw)


def test_long_lists_come_page_by_page(link: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number:02}" for number in range(23)]
    for name in names:
        with version(name) as copy:
            link.replica.put(copy, 0)
    monkeypatch.setattr(service_module, "LISTED", 5)
    monkeypatch.setattr("laila.replication.peer.NAMES", 7)
    monkeypatch.setattr(service_module, "WEIGHT", 1)
    prefixes = ["", *(f"{number:02x}" for number in range(256)), "abcd"]
    assert link.peer.names(0).live == names
    assert link.peer.look([*names, "other"], 0) == link.replica.look([*names, "other"], 0)
    assert link.peer.look([], 0) == []
    assert link.peer.branches(prefixes[:9]) == link.replica.branches(prefixes[:9])
    monkeypatch.setattr(service_module, "WEIGHT", words_module.WEIGHT)
    assert link.peer.branches(prefixes) == link.replica.branches(prefixes)
    assert link.peer.branches([]) == []


def test_damage_is_found_set_aside_and_healed_over_the_link(
    link: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laila.replication.transfer.TURN", 0.0)  # each name is a turn of its own
    copies = {name: version(name) for name in "abcde"}
    for copy in copies.values():
        link.replica.put(copy, 0)
    path = link.directory / "c.maif"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert link.peer.check("a", 0) == Health(copies["a"].stand, True)
    assert not link.peer.check("c", 0).valid
    healths = dict(link.peer.scrub())
    assert {name: health.valid for name, health in healths.items()} == {name: name != "c" for name in "abcde"}
    assert isinstance(link.peer.look(["c"], 0)[0], Unsure)
    assert link.peer.quarantined() == ["c"]
    with pytest.raises(ArtifactError):
        link.peer.fetch("c", 0)
    link.peer.put(copies["c"], 0)
    settle(link.peer, copies["c"].stand.tag, "c")
    assert link.peer.look(["c"], 0) == [copies["c"].stand]
    link.peer.distrust("d", "it is not what the others have")
    assert isinstance(link.peer.look(["d"], 0)[0], Unsure)
    settle(link.peer, None, "e")
    for copy in copies.values():
        copy.close()
    until(lambda: link.service.under_way == 0, 60)


def test_a_scrub_that_is_given_up_leaves_nothing(link: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laila.replication.transfer.TURN", 0.0)
    for name in "ab":
        with version(name) as copy:
            link.replica.put(copy, 0)
    scrub = link.peer.scrub()
    assert next(scrub)[0] == "a"
    assert link.service.under_way == 1
    scrub.close()  # type: ignore[attr-defined]  # a generator
    until(lambda: link.service.under_way == 0, 60)


# ---- what changes, and what goes away, in the middle ----


def test_a_version_that_is_replaced_during_a_download_comes_whole(link: Served) -> None:
    with version("a", 1, 9 * MIB) as older, version("a", 2, 9 * MIB) as newer:
        link.replica.put(older, 0)
        link.before("read", lambda count: count == 2 and link.replica.put(newer, 0))
        assert fetched(link, "a") == bytes_of(older)
        assert fetched(link, "a") == bytes_of(newer)


def test_a_file_that_is_rewritten_in_place_during_a_download_is_fetched_again(link: Served) -> None:
    """As the seed's program writes: first the file is short, then another one."""
    with version("a", 1, 9 * MIB) as older, version("a", 2, 9 * MIB) as newer:
        link.replica.put(older, 0)
        data, path = bytes_of(newer), link.directory / "a.maif"
        fetches, reads = itertools.count(1), itertools.count(1)

        def answer(asker: Any, words: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
            if words["do"] == "read" and next(reads) == 2:
                os.truncate(path, CHUNK)
            if words["do"] == "fetch" and next(fetches) == 2:
                path.write_bytes(data)
            return link.service(asker, words, buffers)

        link.answer = answer
        assert fetched(link, "a") == data
        assert link.service.under_way == 0


def test_bytes_that_change_all_the_time_are_no_version(link: Served) -> None:
    with version("a", 1, 9 * MIB) as copy:
        link.replica.put(copy, 0)
    begun = 0

    def answer(asker: Any, words: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
        nonlocal begun
        begun += words["do"] == "fetch"
        found = link.service(asker, words, buffers)
        if words["do"] == "read" and isinstance(found, Answer):
            return Answer(found.words, [bytes(len(found.buffers[0]))])
        return found

    link.answer = answer
    with pytest.raises(ArtifactCorrupt):
        link.peer.fetch("a", 0)
    assert begun == TRIES
    until(lambda: link.service.under_way == 0, 60)


def test_a_copy_that_was_dropped_there_is_begun_again_but_not_for_ever(link: Served) -> None:
    def forget(kind: str, times: int) -> None:
        def act(count: int) -> None:
            if count % 2 == 0 and count <= 2 * times:
                for token in list(getattr(link.service, kind)._items):
                    getattr(link.service, kind).drop((link.client.global_id, ""), token)

        link.before("read" if kind == "_loans" else "piece", act)

    with version("a", 1, 9 * MIB) as copy, version("a", 2, 9 * MIB) as newer:
        forget("_uploads", 1)
        assert link.peer.put(copy, 0) == copy.stand
        forget("_loans", 1)
        assert fetched(link, "a") == bytes_of(copy)
        forget("_loans", 1000)
        with pytest.raises(PeerLost, match=WHERE):
            link.peer.fetch("a", 0)
        forget("_uploads", 1000)
        with pytest.raises(PeerLost, match=WHERE):
            link.peer.put(newer, 0)
        assert link.replica.look(["a"], 0) == [copy.stand]


CHILD = """
import sys
sys.path[:0] = [{root!r}]
from tests.replication.served_replica import CALM, MIB, SERVICE, WHERE, TRUST, version
from laila.replication.peer import PeerReplica
from tests.peering.support import SECRET, node
with node("child", limits=CALM) as (policy, _):
    peer = policy.peers[policy.communication.add_tcpip_peer("127.0.0.1", {port}, SECRET)]
    PeerReplica(WHERE, lambda: peer, SERVICE, trust=TRUST, timeout=150.0).put(version("a", size=20 * MIB), 0)
"""


def test_a_peer_that_is_killed_in_the_middle_of_an_upload_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path / "replica", idle=12.0) as link:
        arrived, go_on = threading.Event(), threading.Event()

        def third(count: int) -> None:
            if count == 3:
                arrived.set()
                assert go_on.wait(150)

        link.before("piece", third)
        files = sorted(path for path in link.directory.rglob("*") if path.is_file())
        script = CHILD.format(root=str(ROOT), port=link.port)
        child = subprocess.Popen([sys.executable, "-c", script])
        try:
            assert arrived.wait(150)
            assert link.service.under_way == 1
        finally:
            child.kill()
            child.wait(120)
        go_on.set()
        until(lambda: link.service.under_way == 0, 120)
        assert sorted(path for path in link.directory.rglob("*") if path.is_file()) == files
        assert link.replica.look(["a"], 0) == [None]


def test_a_node_that_goes_in_the_middle_is_named_and_found_again(tmp_path: Path) -> None:
    with served(tmp_path / "replica") as link, version("a", size=20 * MIB) as copy:
        closers: list[threading.Thread] = []

        def stop(count: int) -> None:
            if count == 3:
                closers.append(threading.Thread(target=link.server.close))
                closers[0].start()

        link.before("piece", stop)
        with pytest.raises(LinkError, match=re.escape(WHERE)):
            link.peer.put(copy, 0)
        closers[0].join(120)
        with pytest.raises(LinkError, match=re.escape(WHERE)):
            link.peer.stamp()
        # Another node of that name: the peer is looked up anew at each question.
        with node("server", limits=CALM) as (again, protocol):
            again.services.offer(SERVICE, link.service)
            link.client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)
            link.client.communication.remove_peer(link.server.global_id)
            assert link.peer.put(copy, 0) == copy.stand
            assert fetched(link, "a") == bytes_of(copy)


# ---- who does not answer, or may not be asked ----


def test_a_node_that_serves_no_such_replica_says_what_to_set(link: Served) -> None:
    other = PeerReplica("laila://server/other", link.peer._connect, "replica/other", trust=TRUST)
    with pytest.raises(StorageError, match=r"laila://server/other.*LAILA_REPLICAS.*other=/"):
        other.stamp()


def test_a_peer_that_is_not_there_is_named(link: Served) -> None:
    stranger = PeerReplica(
        "laila://nobody/store", lambda: link.client.communication.peers.named("nobody"), SERVICE, trust=TRUST
    )
    with pytest.raises(Unreachable, match=r"laila://nobody/store.*nobody"):
        stranger.look(["a"], 0)


def test_access_rules_say_who_may_ask(link: Served) -> None:
    link.server.communication.access.add("deny client service:replica/store")
    with version("a") as small, version("a", size=9 * MIB) as large:
        for call in (
            lambda: link.peer.put(small, 0),
            lambda: link.peer.put(large, 0),
            lambda: link.peer.fetch("a", 0),
            link.peer.stamp,
            lambda: link.peer.names(0),
        ):
            with pytest.raises(AccessDenied, match="service:replica/store"):
                call()
        assert link.service.counts.questions == 0
        link.server.communication.access.add("allow client read,write service:replica/store")
        assert link.peer.put(small, 0) == small.stand


def test_an_answer_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    release = threading.Event()
    with served(tmp_path / "replica", timeout=0.3) as link:
        link.answer = lambda asker, words, buffers: release.wait(150) and {}
        try:
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=r"laila://server/store gave no answer within 0.3 s"):
                link.peer.stamp()
            assert time.monotonic() - started < 60
        finally:
            release.set()


def test_who_is_told_to_come_back_comes_back(link: Served) -> None:
    inside, release = threading.Semaphore(0), threading.Event()
    real = link.replica.check

    def check(name: str, number: int) -> Health:
        inside.release()
        assert release.wait(150)
        return real(name, number)

    link.replica.check = check  # type: ignore[method-assign]  # a disk that takes its time
    found: list[Health] = []
    threads = [
        threading.Thread(target=lambda: found.append(link.peer.check("a", 0)))
        for _ in range(service_module.LOOKS + 2)
    ]
    for thread in threads:
        thread.start()
    for _ in range(service_module.LOOKS):
        assert inside.acquire(timeout=120)
    until(lambda: link.service.counts.refusals >= 2, 120, "the others were sent away")
    release.set()
    for thread in threads:
        thread.join(120)
    assert found == [Health(None, False)] * len(threads)


def test_one_that_was_closed_says_so(link: Served) -> None:
    link.peer.close()
    link.peer.close()
    with pytest.raises(Closed):
        link.peer.stamp()


def test_a_relayed_node_serves_as_well(link: Served) -> None:
    with node("far", limits=CALM) as (far, _):
        via = far.peers[far.communication.add_tcpip_peer("127.0.0.1", link.port, SECRET)]
        until(lambda: "client" in {peer.name for peer in link.server.peers.values()}, 60)
        link.client.services.offer(SERVICE, link.service)
        replica = PeerReplica("laila://client/store", lambda: via.at("client"), SERVICE, trust=TRUST)
        with version("a", size=9 * MIB) as copy:
            assert replica.put(copy, 0) == copy.stand
            assert replica.look(["a"], 0) == [copy.stand]
            back = replica.fetch("a", 0)
            assert back is not None
            with back:
                assert bytes_of(back) == bytes_of(copy)


# ---- who lies ----

STAND = [3, HASH, HASH, HASH, False, 100, 1.0]
LARGE = [3, HASH, HASH, HASH, False, 9 * MIB, 1.0]
NONSENSE: list[tuple[str, Any, Any]] = [
    ("stamp", (), {}),
    ("stamp", (), {"stamp": ["a", "b"]}),
    ("stamp", (), {"stamp": ["a", "b", 1]}),
    ("membership", (), {"document": "text"}),
    ("ballot", (), {"state": 7}),
    ("cast", (None, b"x"), {"cast": 1}),
    ("look", (["a", "b"], 0), {"found": [None]}),
    ("look", (["a"], 0), {"found": [None, None]}),
    ("look", (["a"], 0), {"found": "none"}),
    ("look", (["a"], 0), {"found": [7]}),
    ("look", (["a"], 0), {"found": [["x"] * 7]}),
    ("look", (["a"], 0), {"found": [[True, *STAND[1:]]]}),
    ("look", (["a"], 0), {"found": [[*STAND[:1], "A" * 64, *STAND[2:]]]}),
    ("look", (["a"], 0), {"found": [[-1, *STAND[1:]]]}),
    ("fetch", ("a", 0), {"stand": 7}),
    ("fetch", ("a", 0), {"stand": STAND}),
    ("fetch", ("a", 0), Answer({"stand": STAND}, [b"x" * 99])),
    ("fetch", ("a", 0), Answer({"stand": STAND}, [b"x" * 50, b"x" * 50])),
    ("fetch", ("a", 0), Answer({"stand": LARGE}, [b"x" * CHUNK])),
    ("fetch", ("a", 0), Answer({"stand": LARGE, "loan": 7}, [b"x" * CHUNK])),
    ("fetch", ("a", 0), Answer({"stand": LARGE, "loan": "x"}, [b"x" * 9 * MIB])),
    ("fetch", ("a", 0), Answer({"stand": LARGE, "loan": "x"}, [b"x" * CHUNK])),
    ("branches", ([""],), {"branches": []}),
    ("branches", ([""],), {"branches": [["ab", b"d" * 16, 0, b"", []]]}),
    ("branches", ([""],), {"branches": [["", b"d", 0, b"", []]]}),
    ("branches", ([""],), {"branches": [["", b"d" * 16, -1, b"", []]]}),
    ("branches", ([""],), {"branches": [["", b"d" * 16, 1, b"b" * 16, []]]}),
    ("branches", ([""],), {"branches": [["", b"d" * 16, 1, b"", [["../a", None]]]]}),
    ("branches", (["ff"],), {"branches": [["ff", b"d" * 16, 1, b"", [["a", None]]]]}),
    ("branches", ([""],), {"branches": [["", b"d" * 16, 0, b"", []]] * 2}),
    ("names", (0,), {"names": ["b", "a"], "more": False, "unsure": []}),
    ("names", (0,), {"names": ["a", "a"], "more": False, "unsure": []}),
    ("names", (0,), {"names": [], "more": True, "unsure": []}),
    ("names", (0,), {"names": ["a"], "more": True, "unsure": []}),
    ("names", (0,), {"names": ["../a"], "more": False, "unsure": []}),
    ("names", (0,), {"names": ["a"], "unsure": []}),
    ("names", (0,), {"names": ["a"], "more": False}),
    ("names", (0,), {"names": ["a", "b"], "more": False, "unsure": ["b"]}),
    ("names", (0,), {"names": ["a", "c"], "more": False, "unsure": ["d", "b"]}),
    ("quarantined", (), {"names": [1], "more": False}),
    ("check", ("a", 0), {"health": [None, "yes", ""]}),
    ("check", ("a", 0), {"health": [None, True]}),
    ("check", ("a", 0), {}),
]  # fmt: skip


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("liar") / "replica") as found:
        yield found


@pytest.mark.parametrize(("call", "arguments", "answer"), NONSENSE, ids=lambda part: str(part)[:40])
def test_an_answer_that_cannot_be_is_an_error_of_that_node(
    liar: Served, call: str, arguments: tuple[Any, ...], answer: Any
) -> None:
    liar.answer = lambda asker, words, buffers: answer
    with pytest.raises(ProtocolError, match=re.escape(WHERE)):
        getattr(liar.peer, call)(*arguments)


@pytest.mark.parametrize("size", [100, 9 * MIB])
def test_an_acknowledgement_is_for_what_was_put_or_for_something_newer(liar: Served, size: int) -> None:
    with version("a", 3, size) as copy:
        stand = copy.stand
        older = Stand(Tag(2, HASH, HASH), HASH, False, 100, 1.0)
        other = Stand(stand.tag, HASH, False, stand.size, stand.at)
        newer = Stand(Tag(4, HASH, HASH), HASH, True, 100, 1.0)
        for lie in (older, other):
            liar.answer = lambda asker, words, buffers, lie=lie: {"stand": lie.words()}
            with pytest.raises(ProtocolError, match="acknowledged"):
                liar.peer.put(copy, 0)
        liar.answer = lambda asker, words, buffers: {"stand": newer.words()}
        assert liar.peer.put(copy, 0) == newer


def test_forged_and_exchanged_bytes_are_never_handed_on(liar: Served) -> None:
    def show(stand: Stand, data: bytes) -> None:
        liar.answer = lambda asker, words, buffers: Answer({"stand": stand.words()}, [data])

    with (
        version("a", 3) as copy,
        version("a", 2) as older,
        version("a", 3, key=Identity.ephemeral()) as forged,
    ):
        show(forged.stand, bytes_of(forged))
        with pytest.raises(UntrustedSigner):
            liar.peer.fetch("a", 0)
        data = bytearray(bytes_of(copy))
        data[len(data) // 2] ^= 1
        show(copy.stand, bytes(data))
        with pytest.raises(ArtifactCorrupt):
            liar.peer.fetch("a", 0)
        raised = Stand(Tag(9, *copy.stand.words()[1:3]), *copy.stand.words()[3:])
        show(raised, bytes_of(copy))
        with pytest.raises(ProtocolError, match="announced"):
            liar.peer.fetch("a", 0)
        if older.size == copy.size:
            show(copy.stand, bytes_of(older))
            with pytest.raises(ProtocolError, match="announced"):
                liar.peer.fetch("a", 0)
        show(copy.stand, bytes_of(copy))
        with pytest.raises(ArtifactError, match="moved"):
            liar.peer.fetch("b", 0)
        with liar.peer.fetch("a", 0) or pytest.fail("nothing came") as found:
            assert bytes_of(found) == bytes_of(copy)


def test_errors_that_make_no_sense_are_not_handed_on_as_they_are(liar: Served) -> None:
    def fail(error: BaseException) -> None:
        def answer(asker: Any, words: dict[str, Any], buffers: Sequence[Buffer]) -> Any:
            raise error

        liar.answer = answer

    fail(MembershipStale("newer", number="7", document=b""))  # type: ignore[arg-type]  # what a liar would say
    with pytest.raises(ProtocolError, match=WHERE):
        liar.peer.look(["a"], 0)
    fail(MembershipStale("newer", number=7, document=None))  # type: ignore[arg-type]  # as above
    with pytest.raises(ProtocolError, match=WHERE):
        liar.peer.look(["a"], 0)
    fail(RuntimeError("a bug there"))
    with pytest.raises(StorageError, match=f"{WHERE}.*a bug there"):
        liar.peer.look(["a"], 0)
    fail(BadValue("no such word"))
    with pytest.raises(BadValue, match="no such word"):
        liar.peer.look(["a"], 0)


def test_who_is_trusted_is_the_reader_s_own_affair(link: Served) -> None:
    with version("a") as copy:
        link.replica.put(copy, 0)
    careful = PeerReplica(WHERE, link.peer._connect, SERVICE, trust=TrustSet([Identity.ephemeral()]))
    with pytest.raises(UntrustedSigner):
        careful.fetch("a", 0)
