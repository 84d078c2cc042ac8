"""The register over real directories: what a quorum promises, with replicas that fail, hang, lie and forget."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import Signer, TrustSet, create_maif
from laila.errors import (
    AlreadyPublished,
    BadConfig,
    BadValue,
    QuorumLost,
    RolledBack,
    StorageError,
    Unreachable,
    UntrustedSigner,
)
from laila.replication.calls import HEAVIEST
from laila.replication.copies import Copy
from laila.replication.replica import Listing
from laila.replication.tags import Stand, Tag, Unsure
from laila.replication.views import Quorums
from laila.transport.identity import Identity
from tests.replication.cluster import Client, Cluster, cluster

A, B, C = (f"{number:032x}" for number in range(3))


@pytest.fixture
def signer() -> Signer:
    return Signer(Identity.ephemeral())


@pytest.fixture
def trust(signer: Signer) -> TrustSet:
    return TrustSet([signer])


@pytest.fixture
def three(tmp_path: Path, signer: Signer, trust: TrustSet) -> Iterator[Cluster]:
    with cluster(tmp_path, signer, trust) as made:
        yield made


def eventually(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_what_was_saved_is_loaded_and_all_replicas_have_the_same_bytes(three: Cluster) -> None:
    client = three.client()
    assert client.load("plan") is None
    client.save("plan", "one")
    client.save("plan", "two")
    assert client.text("plan") == "two"
    three.settle_down()
    assert len({three.file(id, "plan").read_bytes() for id in (A, B, C)}) == 1


def test_a_minority_may_be_away(three: Cluster) -> None:
    client = three.client()
    three.replicas[B].down(Unreachable("it is away"))
    client.save("plan", "one")
    assert client.text("plan") == "one"
    eventually(lambda: client.owed == {(B, "plan")}, "what the one that is away is owed")
    three.replicas[B].up()
    three.replicas[A].down(StorageError("its disk broke", reason="EIO"))
    assert client.text("plan") == "one"


def test_without_a_majority_nothing_is_claimed(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.replicas[A].down(StorageError("its disk broke", reason="EIO"))
    three.replicas[C].down(Unreachable("node C does not answer"))
    for call in (lambda: client.load("plan"), lambda: client.save("plan", "two")):
        with pytest.raises(QuorumLost) as lost:
            call()
        assert lost.value.needed == 2
        assert lost.value.reasons == {
            three.replicas[A].where: "its disk broke",
            three.replicas[C].where: "node C does not answer",
        }
        assert "node C does not answer" in str(lost.value)


def test_a_write_that_reached_too_few_is_unknown_and_says_where_it_may_be(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    for id in (B, C):
        three.replicas[id].faults = {"put": StorageError("no space", reason="ENOSPC")}
    artifact = create_maif("writer")
    artifact.add_text("two")
    with pytest.raises(QuorumLost) as lost:
        client.save_artifact("plan", artifact)
    assert lost.value.stored == [three.replicas[A].where]
    assert lost.value.maybe == [three.replicas[B].where, three.replicas[C].where]
    for id in (B, C):
        three.replicas[id].up()
    client.save_artifact("plan", artifact)  # the same version again, not another one
    assert client.load("plan").sequence == 2  # type: ignore[union-attr]
    assert client.text("plan") == "two"


def test_a_read_writes_back_so_that_no_later_read_is_older(three: Cluster) -> None:
    """The version is on one replica only: who reads it puts it on a majority before it returns it."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    writer = three.client()
    for id in (B, C):
        three.replicas[id].faults = {"put": StorageError("no space", reason="ENOSPC")}
    with pytest.raises(QuorumLost):
        writer.save("plan", "two")
    for id in (B, C):
        three.replicas[id].up()
    three.replicas[C].down(Unreachable("away"))
    assert three.client().text("plan") == "two"  # A and B
    three.replicas[C].up()
    three.replicas[A].down(Unreachable("away"))
    assert three.client().text("plan") == "two"  # B and C


def test_a_version_that_too_few_have_is_not_shown(three: Cluster) -> None:
    """Who loads it is told why, and what to do; that nobody can save is another's trouble."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    for id in (B, C):
        three.replicas[id].faults = {"put": StorageError("it is read-only", reason="EROFS")}
    with pytest.raises(QuorumLost):
        three.client().save("plan", "two")
    three.replicas[C].down(Unreachable("away"))
    with pytest.raises(QuorumLost, match="cannot read 'plan': its version 2 is on too few.*it is read-only"):
        three.client().text("plan")


def test_a_read_does_not_wait_for_a_replica_that_hangs(three: Cluster) -> None:
    client = three.client(timeout=30)
    client.save("plan", "one")
    three.settle_down()
    for hanging in (A, B, C):
        client = three.client(timeout=30)
        three.replicas[hanging].hold()
        began = time.monotonic()
        assert client.text("plan") == "one"
        client.save("plan", "one")
        assert time.monotonic() - began < 15
        three.replicas[hanging].release()


def test_who_hangs_for_ever_is_reported_at_the_deadline(three: Cluster) -> None:
    client = three.client(timeout=0.5)
    three.replicas[A].hold()
    three.replicas[B].hold()
    with pytest.raises(QuorumLost, match=r"no answer within 0\.5 s"):
        client.load("plan")


def test_a_damaged_replica_is_read_around_and_healed(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one " * 500)
    three.settle_down()
    for damaged in (A, B, C):
        path = three.file(damaged, "plan")
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
        fresh = three.client()
        for id in {A, B, C} - {damaged}:
            three.replicas[id].faults = {"fetch": StorageError("not now", reason="EIO")}
        with pytest.raises(QuorumLost):
            fresh.text("plan")  # it is asked for the bytes, at last, and cannot give them
        for id in {A, B, C} - {damaged}:
            three.replicas[id].up()
        good = three.file(next(iter({A, B, C} - {damaged})), "plan")
        eventually(
            lambda path=path, good=good: (  # type: ignore[misc]
                three.client().text("plan") and path.exists() and path.read_bytes() == good.read_bytes()
            ),
            "the damaged file is good again",
        )
        three.settle_down()


def test_a_forger_is_not_believed(three: Cluster, tmp_path: Path) -> None:
    """A replica that shows what a stranger signed, or says that it has what it cannot show, does not count."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    stranger = Signer(Identity.ephemeral())
    made = create_maif("x")
    made.add_text("forged")
    made.name_as("plan", sequence=9)
    forged = Copy.encode("plan", made, stranger, TrustSet([stranger]))
    liar = Stand(Tag(2**40, "f" * 64, "f" * 64), "f" * 64, False, 100, 0.0)
    for id in (A, B, C):
        three.replicas[id].faults = {
            "look": lambda method, *arguments: [liar],
            "fetch": lambda method, *arguments: forged.share(),
        }
        reader = three.client()
        assert reader.text("plan") in {"one", "two"}
        reader.save("plan", "two")
        assert reader.load("plan").sequence < 2**20  # type: ignore[union-attr]
        three.replicas[id].up()
    forged.close()


def test_a_replica_that_went_back_is_told_so(three: Cluster) -> None:
    """It acknowledged version 2 and has version 1 again: it does not count, until it was healed."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    old = three.file(A, "plan").read_bytes()
    client = three.client()
    client.save("plan", "two")
    three.replicas[A].calls.clear()
    eventually(lambda: three.file(A, "plan").read_bytes() != old, "the second version is there")
    three.replicas[A].faults = {"look": lambda method, names, number: [_stand_of(old, three.trust)]}
    three.replicas[A].faults["fetch"] = lambda method, name, number: Copy.of_bytes("plan", old, three.trust)
    eventually(
        lambda: client.text("plan") == "two" and three.replicas[A].calls.get("distrust"), "it was told"
    )
    three.replicas[B].down(Unreachable("away"))
    with pytest.raises(QuorumLost, match="an older state was put back"):
        client.text("plan")


def _stand_of(data: bytes, trust: TrustSet) -> Stand:
    with Copy.of_bytes("plan", data, trust) as copy:
        return copy.stand


def test_a_quorum_that_went_back_is_noticed_by_who_saw_more(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    old = three.file(A, "plan").read_bytes()
    client = three.client()
    client.save("plan", "two")
    reader = three.client()
    assert reader.text("plan") == "two"
    for id in (A, B, C):
        three.replicas[id].faults = {
            "look": lambda method, names, number: [_stand_of(old, three.trust)],
            "fetch": lambda method, name, number: Copy.of_bytes("plan", old, three.trust),
        }
    with pytest.raises(RolledBack, match="saw version 2"):
        reader.text("plan")
    reader.register.forget_seen("plan")
    assert reader.text("plan") == "one"


def test_forgotten_stays_forgotten(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    client = three.client()
    three.replicas[C].down(Unreachable("away"))
    client.forget("plan")
    assert client.text("plan") is None
    three.replicas[C].up()
    assert three.file(C, "plan").exists()
    three.replicas[A].down(Unreachable("away"))
    assert three.client().text("plan") is None
    assert three.client().register.names() == []
    three.replicas[A].up()
    client.save("plan", "again")
    assert client.load("plan").sequence == 3  # type: ignore[union-attr]


def test_names_are_those_that_a_quorum_has(three: Cluster) -> None:
    client = three.client()
    for name in ("a", "b", "c"):
        client.save(name, name)
    three.replicas[B].down(Unreachable("away"))
    client.save("d", "d")
    client.forget("b")
    three.replicas[B].up()
    assert client.register.names() == ["a", "c", "d"]
    three.replicas[A].down(Unreachable("away"))
    assert three.client().register.names() == ["a", "c", "d"]


def test_an_artifact_is_continued_only_where_it_is_the_newest(three: Cluster) -> None:
    first, second = three.client(), three.client()
    artifact = first.save("plan", "one")
    loaded = second.load("plan")
    assert loaded is not None
    artifact.add_text("two")
    first.save_artifact("plan", artifact)
    loaded.add_text("also two")
    with pytest.raises(AlreadyPublished, match="version 2 was saved since"):
        second.save_artifact("plan", loaded)
    assert [version.sequence for version in first.load("plan").history] == [1, 2]  # type: ignore[union-attr]
    first.forget("plan")
    with pytest.raises(AlreadyPublished, match="forgotten since"):
        first.save_artifact("plan", artifact)
    with pytest.raises(BadValue, match="copy"):
        first.save_artifact("other", artifact)
    assert first.save_artifact("plan", artifact.copy()).sequence == 4


def test_another_signer_makes_another_version(three: Cluster, signer: Signer) -> None:
    other = Signer(Identity.ephemeral())
    three.trust = TrustSet([signer, other])
    three.client().save("plan", "one")
    client = three.client(other)
    loaded = client.load("plan")
    assert loaded is not None
    with pytest.raises(UntrustedSigner):
        Copy.encode("plan", loaded.copy(), Signer(Identity.ephemeral()), three.trust)


def test_rebuilding_replicas_take_versions_and_do_not_count_in_reads(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.rebuilding.add(A)
    three.replicas[B].down(Unreachable("away"))
    with pytest.raises(QuorumLost, match="being rebuilt"):
        client.load("plan")
    three.replicas[B].up()
    assert client.text("plan") == "one"


def test_quorums_must_meet() -> None:
    with pytest.raises(BadConfig, match="need not meet"):
        Quorums(write=1, read=1).check(3)
    Quorums(write=1, read=1, stale=True).check(3)
    Quorums(write=3, read=1).check(3)
    for wrong in (0, 4, True, "2"):
        with pytest.raises(BadConfig, match="from 1 to 3"):
            Quorums(write=wrong).check(3)  # type: ignore[arg-type]


def test_concurrent_writers_and_readers_see_one_register(three: Cluster) -> None:
    """Each reader sees versions rise, and what was acknowledged before it began; replicas come and go meanwhile."""
    clients = [three.client(timeout=30) for _ in range(4)]
    acknowledged = [0]
    lock = threading.Lock()
    errors: list[str] = []
    stop = threading.Event()

    def write(client: Client) -> None:
        for _ in range(15):
            try:
                artifact = client.save("plan", "text")
            except QuorumLost:  # two of them were away at the same moment
                continue
            with lock:
                acknowledged[0] = max(acknowledged[0], artifact.sequence)

    def read(client: Client) -> None:
        last: Tag | None = None
        while not stop.is_set():
            with lock:
                floor = acknowledged[0]
            try:
                copy = client.register.read("plan")
            except QuorumLost:
                continue
            if copy is None:
                found = Tag(0, "", "")
            else:
                with copy:
                    found = copy.stand.tag
            if found.sequence < floor or (last is not None and found < last):
                errors.append(f"read {found} after {last}, acknowledged was {floor}")
            last = found

    def break_things() -> None:
        chance = random.Random(7)  # noqa: S311  repeatable on purpose
        while not stop.is_set():
            victim = three.replicas[chance.choice((A, B, C))]
            victim.down(Unreachable("a while"))
            time.sleep(chance.uniform(0, 0.02))
            victim.up()
            time.sleep(chance.uniform(0, 0.02))

    writers = [threading.Thread(target=write, args=(client,)) for client in clients[:2]]
    others = [threading.Thread(target=read, args=(client,)) for client in clients[2:]]
    others.append(threading.Thread(target=break_things))
    for thread in (*writers, *others):
        thread.start()
    for thread in writers:
        thread.join(120)
    stop.set()
    for thread in others:
        thread.join(60)
    assert not errors
    assert acknowledged[0] >= 5


def test_an_unsure_replica_counts_again_after_it_was_given_the_newest(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    three.replicas[A].replica.distrust("plan", "a test says so")
    [found] = three.replicas[A].replica.look(["plan"], 1)
    assert isinstance(found, Unsure)
    client = three.client()
    assert client.text("plan") == "one"
    eventually(lambda: isinstance(three.replicas[A].replica.look(["plan"], 1)[0], Stand), "it counts again")


def test_a_lost_directory_is_no_empty_one(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    shutil.rmtree(three.replicas[A].where)
    client = three.client()
    assert client.text("plan") == "one"
    three.replicas[B].down(Unreachable("away"))
    with pytest.raises(QuorumLost):
        client.text("plan")


def test_what_is_said_of_a_name_is_put_back_first(three: Cluster) -> None:
    """A tombstone that only one replica has: who is told that the name is gone may rely on it."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    client = three.client()
    for id in (B, C):
        three.replicas[id].faults = {"put": StorageError("no space", reason="ENOSPC")}
    with pytest.raises(QuorumLost):
        client.forget("plan")
    for id in (B, C):
        three.replicas[id].up()
    three.replicas[C].down(Unreachable("away"))
    said = three.client().register.agreed("plan")
    assert said is not None
    assert said.gone
    three.replicas[C].up()
    three.replicas[A].down(Unreachable("away"))
    assert three.client().text("plan") is None


def test_a_lone_claim_is_no_fact(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    tombstone = Stand(Tag(2, "f" * 64, "f" * 64), "f" * 64, True, 100, 0.0)
    three.replicas[A].faults = {
        "look": lambda method, names, number: [tombstone for _ in names],
        "fetch": lambda method, name, number: None,
        "names": lambda method, number: Listing(["phantom"], []),
    }
    for _ in range(5):
        said = three.client().register.agreed("plan")
        assert said is not None
        assert not said.gone
        assert three.client().register.names() == ["plan"]


def test_a_replica_is_told_once_that_it_went_back(three: Cluster) -> None:
    """Its mark stands for it from then on: what it is given again is good."""
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    old = three.file(A, "plan").read_bytes()
    client = three.client()
    client.save("plan", "two")
    eventually(lambda: client.register._had(A, ["plan"])[0], "it acknowledged the second version")
    three.replicas[A].calls.clear()
    told = three.replicas[A].calls

    def went_back(method: Any, *arguments: Any) -> Any:
        if told.get("distrust"):
            return method(*arguments)
        if arguments[0] == "plan":
            return Copy.of_bytes("plan", old, three.trust)
        return [_stand_of(old, three.trust)]

    three.replicas[A].faults = {"look": went_back, "fetch": went_back}
    eventually(lambda: client.text("plan") == "two" and told.get("distrust"), "it was told")
    eventually(
        lambda: (
            client.text("plan") == "two" and isinstance(three.replicas[A].replica.look(["plan"], 1)[0], Stand)
        ),
        "it counts again",
    )
    for _ in range(6):
        assert client.text("plan") == "two"
    assert told["distrust"] == 1


def test_a_load_does_not_return_before_a_majority_has_what_it_returns(three: Cluster) -> None:
    client = three.client()
    client.save("plan", "one")
    three.settle_down()
    writer = three.client()
    for id in (B, C):
        three.replicas[id].faults = {"put": StorageError("no space", reason="ENOSPC")}
    with pytest.raises(QuorumLost):
        writer.save("plan", "two")
    holding = threading.Event()

    def held(method: Any, *arguments: Any) -> Any:
        holding.wait(60)
        return method(*arguments)

    three.replicas[B].faults = {"put": held}
    three.replicas[C].down(Unreachable("away"))  # so that a quorum is A, which has it, and B, which does not
    loaded: list[str | None] = []
    loading = threading.Thread(target=lambda: loaded.append(three.client(timeout=60).text("plan")))
    loading.start()
    eventually(lambda: three.replicas[B].calls.get("put", 0) > 1, "it puts what it read")
    loading.join(0.5)
    assert not loaded  # it has the bytes, and must not show them yet
    holding.set()
    loading.join(60)
    assert loaded == ["two"]


def test_a_replica_that_hangs_holds_few_bytes(three: Cluster) -> None:
    """What waits for it is bounded; the rest is refused, and owed."""
    client = three.client()
    client.save("plan-0", "first")
    three.settle_down()
    client = three.client()
    three.replicas[C].hold()
    text = "x" * (3 << 20)
    for number in range(40):
        client.save(f"plan-{number % 4}", text + str(number))
    desk = client.register._crowd._desks[C]
    assert desk._weight <= HEAVIEST
    assert any(id == C for id, _ in client.owed)
    three.replicas[C].release()
