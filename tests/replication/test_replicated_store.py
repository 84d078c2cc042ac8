"""The store as its users see it: over directories, peers and pools, mixed, and with what goes wrong around it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laila import ReplicatedStore
from laila.artifacts import Artifact, TrustSet, create_maif
from laila.errors import (
    AlreadyPublished,
    ArtifactNotFound,
    BadConfig,
    BadName,
    BadValue,
    Closed,
    MixedReplicas,
    QuorumLost,
)
from laila.macros.defaults import DefaultPolicy
from laila.pools import SqlitePool
from laila.replication.directory import DirectoryReplica
from laila.replication.members import VETTED
from laila.replication.opening import MembershipDiffers
from laila.replication.service import ReplicaService
from laila.wire.messages import Hello
from tests.peering.support import SECRET, node

THREE = ("primary", "backup1", "backup2")


def artifact(text: str) -> Artifact:
    made = create_maif("important-data")
    made.add_text(text)
    return made


def text(loaded: Artifact) -> str:
    return str(loaded.get_content_list()[0]["text"])


def eventually(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    return [str(tmp_path / name) for name in THREE]


@pytest.fixture
def store(places: list[str]) -> Iterator[ReplicatedStore]:
    with ReplicatedStore(places) as made:
        yield made


# -- the interface ---------------------------------------------------------------------------------------


def test_save_load_and_everything_about_one_name(store: ReplicatedStore, places: list[str]) -> None:
    made = artifact("Critical information")
    assert store.save("important-data", made).sequence == 1
    assert text(store.load("important-data")) == "Critical information"
    made.add_text("more")
    assert store.save("important-data", made).sequence == 2
    assert [version.sequence for version in store.history("important-data")] == [1, 2]
    assert store.version("important-data").sequence == 2  # type: ignore[union-attr]
    assert store.names() == ["important-data"]
    assert store.exists("important-data")
    found = store.verify_replicas("important-data")
    assert list(found) == places
    digest = store.load("important-data").digest
    assert all(
        row == {"exists": True, "valid": True, "version": 2, "digest": digest, "lag": 0, "error": ""}
        for row in found.values()
    )
    store.forget("important-data")
    assert not store.exists("important-data")
    assert store.names() == []
    for call in (store.load, store.history, store.forget):
        with pytest.raises(FileNotFoundError) as missing:
            call("important-data")
        assert isinstance(missing.value, ArtifactNotFound)
    store.forget("important-data", missing_ok=True)
    assert store.save("important-data", artifact("again")).sequence == 4


def test_what_is_no_store(tmp_path: Path, places: list[str]) -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ([], {}, "give a list"),
        (places[0], {}, "give a list"),
        ([*places, places[0]], {}, "listed twice"),
        ([*places, str(tmp_path / "." / "primary")], {}, "listed twice"),
        (["s3://bucket/x"], {}, "no replica is reached by s3"),
        ([3], {}, "no place of a replica"),
        (["laila://node1/store"], {}, "peer or a pool of a policy"),
        (["laila://node1:7400/store"], {}, "secret is not known"),
        (["laila:///store"], {"secret": SECRET}, "names no node"),
        (["laila://node1:port/store"], {"secret": SECRET}, "no HOST:PORT"),
        (places, {"write_quorum": 1, "read_quorum": 1}, "need not meet"),
        (places, {"write_quorum": 4}, "from 1 to 3"),
        (places, {"timeout": 0}, "timeout"),
        (places, {"timeout": "soon"}, "timeout"),
    ]
    for replicas, options, words in wrong:
        with pytest.raises(BadConfig, match=words):
            ReplicatedStore(replicas, **options)
    assert not any(Path(place).exists() for place in places)


def test_what_is_no_name_or_artifact(store: ReplicatedStore) -> None:
    for name in ("../escape", "", "a/b", ".hidden", "laila-membership"):
        for call in (store.load, store.forget, store.exists, store.verify_replicas, store.history):
            with pytest.raises(BadName):
                call(name)
        with pytest.raises(BadName):
            store.save(name, artifact("x"))
    with pytest.raises(BadValue, match="create_maif"):
        store.save("plan", "text")  # type: ignore[arg-type]


def test_a_closed_store_says_so(places: list[str]) -> None:
    store = ReplicatedStore(places)
    store.save("plan", artifact("one"))
    loaded = store.load("plan")
    store.close()
    store.close()
    assert text(loaded) == "one"
    for call in (
        lambda: store.load("plan"),
        store.names,
        store.repair,
        lambda: store.save("plan", artifact("x")),
    ):
        with pytest.raises(Closed):
            call()


def test_the_same_calls_for_coroutines(store: ReplicatedStore) -> None:
    async def work() -> None:
        made = [store.save_async(f"plan-{number}", artifact(str(number))) for number in range(6)]
        versions = await asyncio.gather(*made)
        assert [version.sequence for version in versions] == [1] * 6
        assert text(await store.load_async("plan-3")) == "3"
        assert len(await store.names_async()) == 6
        assert await store.exists_async("plan-1")
        assert (await store.history_async("plan-1"))[0].sequence == 1
        assert all(row["valid"] for row in (await store.verify_replicas_async("plan-1")).values())
        assert (await store.repair_async()).ok
        await store.forget_async("plan-1")
        watched = store.watch_async("plan-2", timeout=20, interval=0.02)
        assert text(await anext(watched)) == "2"
        await store.save_async("plan-2", artifact("2b"))
        assert text(await anext(watched)) == "2b"
        await watched.aclose()  # type: ignore[attr-defined]

    asyncio.run(work())


def test_watching_sees_each_newest_version_and_ends(store: ReplicatedStore) -> None:
    seen: list[str] = []
    began = threading.Event()

    def watch() -> None:
        for found in store.watch("plan", timeout=1.5, interval=0.02):
            seen.append(text(found))
            began.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.1)
    store.save("plan", artifact("one"))
    assert began.wait(20)
    store.forget("plan")
    store.save("plan", artifact("two"))
    watcher.join(30)
    assert seen == ["one", "two"]


def test_a_second_program_sees_what_the_first_saved(places: list[str], store: ReplicatedStore) -> None:
    store.save("plan", artifact("one"))
    program = (
        "import sys\nfrom laila import ReplicatedStore\n"
        "with ReplicatedStore(sys.argv[1:]) as store:\n"
        "    artifact = store.load('plan')\n"
        "    artifact.add_text('two')\n"
        "    print(store.save('plan', artifact).sequence)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *places], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2\n", done.stderr
    assert len(store.load("plan").get_content_list()) == 2


def test_who_was_overtaken_is_told(store: ReplicatedStore, places: list[str]) -> None:
    store.save("plan", artifact("one"))
    first, second = store.load("plan"), store.load("plan")
    first.add_text("mine")
    second.add_text("yours")
    store.save("plan", first)
    with pytest.raises(AlreadyPublished, match="load it again"):
        store.save("plan", second)
    store.save("plan", second.copy())
    assert store.load("plan").get_content_list()[1]["text"] == "yours"


def test_files_of_the_naive_program_are_taken_over(places: list[str]) -> None:
    """It saves `artifact.save(f"{replica}/{name}.maif")` in every directory; so stores may have begun."""
    made = artifact("from before")
    for place in places:
        Path(place).mkdir()
        made.save(f"{place}/old.maif")
    with ReplicatedStore(places) as store:
        assert store.names() == ["old"]
        loaded = store.load("old")
        assert text(loaded) == "from before"
        loaded.add_text("and now")
        assert store.save("old", loaded).sequence == 1
        assert all(row["valid"] and row["version"] == 1 for row in store.verify_replicas("old").values())


# -- what goes wrong with directories --------------------------------------------------------------------


def test_a_directory_that_cannot_be_used_is_one_replica_less(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    places = [str(tmp_path / "primary"), str(tmp_path / "backup1"), str(blocked / "backup2")]
    with ReplicatedStore(places) as store:
        store.save("plan", artifact("one"))
        assert text(store.load("plan")) == "one"
        row = store.verify_replicas("plan")[places[2]]
        assert not row["exists"]
        assert row["error"]
        assert store.status()["quorum"]
    with pytest.raises(QuorumLost) as lost:
        ReplicatedStore([str(tmp_path / "new"), *(str(blocked / name) for name in "ab")], timeout=5)
    assert set(lost.value.reasons) == {str(blocked / name) for name in "ab"}


def test_directories_that_vanish_under_the_store(store: ReplicatedStore, places: list[str]) -> None:
    store.save("plan", artifact("one"))
    shutil.rmtree(places[1])
    store.save("plan", artifact("two"))
    assert text(store.load("plan")) == "two"
    shutil.rmtree(places[0])
    with pytest.raises(QuorumLost) as lost:
        store.load("plan")
    assert {places[0], places[1]} <= set(lost.value.reasons)
    with pytest.raises(QuorumLost):
        store.save("plan", artifact("three"))


def test_a_blank_disk_is_filled_before_it_counts(places: list[str], tmp_path: Path) -> None:
    with ReplicatedStore(places, background=False) as store:
        for number in range(20):
            store.save(f"plan-{number}", artifact(str(number)))
        store.forget("plan-7")
        assert store.repair().ok
    shutil.rmtree(places[0])
    Path(places[0]).mkdir()
    with ReplicatedStore(places, background=False) as store:
        states = {row["where"]: row["state"] for row in store.status()["replicas"]}
        assert states == {places[0]: "rebuilding", places[1]: "ok", places[2]: "ok"}
        moved = shutil.move(places[1], tmp_path / "away")
        with pytest.raises(QuorumLost, match="being rebuilt"):  # one that counts, and one that does not yet
            store.load("plan-3")
        shutil.move(moved, places[1])
        report = store.repair()
        assert report.ok
        assert report.rebuilt == (places[0],)
        assert store.view.number > 1  # so that it has a vote on the next change again
        assert all(row["state"] == "ok" for row in store.status()["replicas"])
    shutil.rmtree(places[2])
    with ReplicatedStore(places, background=False) as store:
        assert len(store.names()) == 19
        assert text(store.load("plan-3")) == "3"


def test_a_missing_directory_is_no_blank_disk(places: list[str]) -> None:
    """It may be one that is not mounted: nothing is made in its place, until somebody makes it."""
    with ReplicatedStore(places, background=False) as store:
        store.save("plan", artifact("one"))
    shutil.rmtree(places[1])
    with ReplicatedStore(places, background=False) as store:
        store.save("plan", artifact("two"))
        row = store.verify_replicas("plan")[places[1]]
        assert "mount what belongs there, or make an empty directory" in row["error"]
        assert not Path(places[1]).exists()
        Path(places[1]).mkdir()
        assert store.repair().rebuilt == (places[1],)
        assert all(row["valid"] for row in store.verify_replicas("plan").values())


def test_a_store_heals_what_it_owes_by_itself(places: list[str], tmp_path: Path) -> None:
    with ReplicatedStore(places) as store:
        store.save("plan", artifact("one"))
        eventually(lambda: all(row["valid"] for row in store.verify_replicas("plan").values()), "all have it")
        away = tmp_path / "away"
        shutil.move(places[2], away)
        store.save("plan", artifact("two"))
        assert store.verify_replicas("plan")[places[2]]["error"]
        shutil.move(away, places[2])
        eventually(
            lambda: [row["version"] for row in store.verify_replicas("plan").values()] == [2, 2, 2],
            "the one that was away is up to date",
        )


def test_what_a_replica_that_is_away_misses_is_owed_to_it(places: list[str], tmp_path: Path) -> None:
    """Also when it is found to be away before anything is put: nobody else knows of it, and it is noted on disk."""
    with ReplicatedStore(places) as store:
        store.save("plan", artifact("one"))
        shutil.move(places[2], tmp_path / "away")
        time.sleep(VETTED + 0.2)
        store.save("plan", artifact("two"))

        def owed() -> int:
            return {row["where"]: row["owed"] for row in store.keeper.status()["replicas"]}[places[2]]

        eventually(lambda: owed() == 1, "the debt is noted")
    assert [path.name for path in tmp_path.rglob("owed/*/*")] == ["plan"]


def test_comparing_all_names_reads_no_content(store: ReplicatedStore, places: list[str]) -> None:
    for number in range(40):
        store.save(f"plan-{number}", artifact(str(number)))
    assert store.repair().ok
    found = store.compare()
    assert (found.ok, found.names, found.exchanges) == (True, 40, 1)
    (Path(places[1]) / "plan-3.maif").unlink()
    found = store.compare()
    assert list(found.differing) == ["plan-3"]
    assert found.differing["plan-3"][places[0]]["version"] == 1
    assert "removed" in found.differing["plan-3"][places[1]]["error"]
    assert found.as_dict()["ok"] is False
    assert store.repair().ok
    assert store.compare().ok
    shutil.rmtree(places[2])
    assert list(store.compare().unreachable) == [places[2]]


def test_a_majority_that_lost_a_name_needs_somebody_s_word(places: list[str]) -> None:
    """Two of three lost it: the third is not believed by itself, until somebody says so."""
    with ReplicatedStore(places, background=False) as store:
        store.save("plan", artifact("one"))
        assert store.repair().ok
        for place in places[:2]:
            (Path(place) / "plan.maif").write_bytes(b"damaged")
        with pytest.raises(QuorumLost):
            store.load("plan")
        with pytest.raises(QuorumLost):
            store.save("plan", artifact("two"))
        assert store.accept("plan").sequence == 1  # type: ignore[union-attr]
        assert text(store.load("plan")) == "one"
        assert [row["valid"] for row in store.verify_replicas("plan").values()] == [True] * 3
        for place in places:
            (Path(place) / "plan.maif").unlink()
        assert store.accept("plan") is None
        assert not store.exists("plan")
        shutil.rmtree(places[0])
        shutil.rmtree(places[1])
        with pytest.raises(QuorumLost, match="the others may have it"):
            store.accept("plan")


def test_repair_of_a_name_finds_what_verifying_it_found(store: ReplicatedStore, places: list[str]) -> None:
    """Damage that nobody has read yet has the right digest in its head."""
    store.save("plan", artifact("one " * 200))
    assert store.repair().ok
    path = Path(places[1]) / "plan.maif"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    row = store.verify_replicas("plan")[places[1]]
    assert (row["exists"], row["valid"], row["lag"]) == (True, False, None)
    assert store.repair("plan").ok
    assert all(row["valid"] for row in store.verify_replicas("plan").values())


def test_two_stores_mixed_up(tmp_path: Path) -> None:
    for one in "ab":
        with ReplicatedStore([str(tmp_path / f"{one}{number}") for number in range(3)]) as store:
            store.save("plan", artifact(one))
    with pytest.raises(MixedReplicas, match="store"):
        ReplicatedStore([str(tmp_path / name) for name in ("a0", "a1", "b2")])
    shutil.rmtree(tmp_path / "a2")
    shutil.copytree(tmp_path / "b2", tmp_path / "a2")
    with (
        contextlib.suppress(MixedReplicas),
        ReplicatedStore([str(tmp_path / f"a{number}") for number in range(3)]) as store,
    ):
        assert text(store.load("plan")) == "a"
        assert "store" in store.verify_replicas("plan")[str(tmp_path / "a2")]["error"]


def test_the_membership_counts_and_not_the_list(places: list[str], tmp_path: Path) -> None:
    with ReplicatedStore(places) as store:
        store.save("plan", artifact("one"))
        store.replace_replica(places[2], str(tmp_path / "new"))
    with pytest.warns(MembershipDiffers, match="new"):
        store = ReplicatedStore(places[:2])
    with store:
        assert [member.where for member in store.members] == [*places[:2], str(tmp_path / "new")]
        assert text(store.load("plan")) == "one"
    uninvited = tmp_path / "uninvited"
    with pytest.warns(MembershipDiffers, match="uninvited is listed, is no member"):
        ReplicatedStore([*places[:2], uninvited]).close()
    assert not uninvited.exists()
    uninvited.mkdir()
    with pytest.raises((MixedReplicas, BadConfig), match="add_replica"):
        ReplicatedStore([*places[:2], uninvited])


def test_clocks_hours_apart_decide_nothing(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_ns = time.time, time.time_ns
    with ReplicatedStore(places) as ahead, ReplicatedStore(places) as behind:
        for turn in range(4):
            hours = 9 * 3600 * (1 if turn % 2 else -1)
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours)
            monkeypatch.setattr(time, "time_ns", lambda hours=hours: real_ns() + hours * 10**9)
            (ahead if turn % 2 else behind).save("plan", artifact(str(turn)))
            assert text(ahead.load("plan")) == text(behind.load("plan")) == str(turn)


# -- peers, pools, and all together ----------------------------------------------------------------------


@contextlib.contextmanager
def served(root: Path, name: str) -> Iterator[tuple[DefaultPolicy, int]]:
    """A node in this process that serves a replica called "store"."""
    with node(name) as (policy, door):
        trust = TrustSet([policy.identity], secret=SECRET)
        replica = DirectoryReplica(root / name, trust)
        service = ReplicaService(replica, trust, alive=policy.communication.is_connected)
        policy.services.offer("replica/store", service)
        try:
            yield policy, door.port
        finally:
            service.close()
            replica.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[tuple[DefaultPolicy, int]]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(served(tmp_path, f"node{number}")) for number in range(3)]


def outside() -> DefaultPolicy:
    """A node of its own for the program, which else would be taken for the first of `nodes`."""
    return DefaultPolicy(name="program")


def test_a_node_among_the_replicas_asks_itself_without_a_link(nodes: list[tuple[DefaultPolicy, int]]) -> None:
    places = [f"laila://127.0.0.1:{port}/store" for _, port in nodes]
    with ReplicatedStore(places, secret=SECRET, policy=nodes[0][0], identity=nodes[0][0].identity) as store:
        store.save("plan", artifact("one"))
        eventually(lambda: all(row["valid"] for row in store.verify_replicas("plan").values()), "all have it")
        assert len(nodes[0][0].communication.links()) == 2


def test_a_node_s_own_dialers_are_used_and_stay(nodes: list[tuple[DefaultPolicy, int]]) -> None:
    with outside() as policy:
        kept = [policy.communication.maintain("127.0.0.1", port, SECRET) for _, port in nodes]
        places = [f"laila://127.0.0.1:{port}/store" for _, port in nodes]
        with ReplicatedStore(places, secret=SECRET, policy=policy) as store:
            store.save("plan", artifact("one"))
        assert policy.communication.dialers == kept
        assert not any(dialer.closed for dialer in kept)


def test_over_peers_by_address(nodes: list[tuple[DefaultPolicy, int]], tmp_path: Path) -> None:
    places = [f"laila://127.0.0.1:{port}/store" for _, port in nodes]
    with outside() as policy, ReplicatedStore(places, secret=SECRET, policy=policy) as store:
        store.save("plan", artifact("one"))
        big = create_maif("big")
        big.add_binary(bytes(range(256)) * 40_000)  # 10 MB: in pieces, and by a file on this side
        store.save("big", big)
        assert len(store.load("big").get_content_list()[0]["content"]) == 256 * 40_000
        eventually(lambda: all(row["valid"] for row in store.verify_replicas("big").values()), "all have it")
        nodes[0][0].close()
        store.save("plan", artifact("two"))
        assert text(store.load("plan")) == "two"
        assert "not connected" in store.verify_replicas("plan")[places[0]]["error"]
        nodes[1][0].close()
        with pytest.raises(QuorumLost, match="not connected"):
            store.load("plan")


def test_over_peers_by_name_with_the_program_s_own_links(nodes: list[tuple[DefaultPolicy, int]]) -> None:
    with DefaultPolicy(name="program") as policy:
        for _, port in nodes:
            policy.communication.add_tcpip_peer("127.0.0.1", port, SECRET)
        places = [f"laila://node{number}/store" for number in range(3)]
        with ReplicatedStore(places, policy=policy, secret=SECRET, identity=policy.identity) as store:
            store.save("plan", artifact("one"))
            assert text(store.load("plan")) == "one"
        assert len(policy.communication.links()) == 3  # they are the policy's, and stay


def test_a_wrong_secret_and_a_node_without_a_replica(
    nodes: list[tuple[DefaultPolicy, int]], tmp_path: Path
) -> None:
    places = [f"laila://127.0.0.1:{port}/store" for _, port in nodes]
    with outside() as policy, pytest.raises(QuorumLost) as lost:
        ReplicatedStore(places, secret=uuid.uuid4().hex, timeout=10, policy=policy)
    assert all("secret" in reason for reason in lost.value.reasons.values()), lost.value.reasons
    nodes[2][0].services.withdraw("replica/store")
    with outside() as policy, ReplicatedStore(places, secret=SECRET, policy=policy) as store:
        store.save("plan", artifact("one"))
        assert "LAILA_REPLICAS" in store.verify_replicas("plan")[places[2]]["error"]


def test_a_node_of_another_version_is_one_replica_less(
    nodes: list[tuple[DefaultPolicy, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that speaks no protocol version of ours is named, with what to do; two of three are enough."""
    places = [f"laila://127.0.0.1:{port}/store" for _, port in nodes]
    older = nodes[2][0].communication
    hello = older._hello()
    other = Hello(hello.node_id, "future", hello.instance, first=7, last=9)
    monkeypatch.setattr(older, "_hello", lambda: other)
    with outside() as policy, ReplicatedStore(places, secret=SECRET, policy=policy) as store:
        store.save("plan", artifact("one"))
        assert text(store.load("plan")) == "one"
        assert "upgrade" in store.verify_replicas("plan")[places[2]]["error"]


def test_mixed_at_will(nodes: list[tuple[DefaultPolicy, int]], tmp_path: Path) -> None:
    """A directory, a peer and a pool; each may go."""
    with contextlib.ExitStack() as stack:
        pool, policy = stack.enter_context(SqlitePool(tmp_path / "pool.db")), stack.enter_context(outside())
        places: list[Any] = [tmp_path / "here", f"laila://127.0.0.1:{nodes[0][1]}/store", pool]
        with ReplicatedStore(places, secret=SECRET, background=False, policy=policy) as store:
            store.save("plan", artifact("one"))
            assert store.repair().ok
            found = store.verify_replicas("plan")
            assert next(iter(found)) == str(tmp_path / "here")
            assert len({row["digest"] for row in found.values()}) == 1
            assert all(row["valid"] for row in found.values())
            shutil.rmtree(tmp_path / "here")
            assert text(store.load("plan")) == "one"
            store.save("plan", artifact("two"))
        (tmp_path / "here").mkdir()
        pool.close()
        places[2] = stack.enter_context(SqlitePool(tmp_path / "pool.db"))  # as another program would have it
        with ReplicatedStore(places, secret=SECRET, background=False, policy=policy) as store:
            assert text(store.load("plan")) == "two"
            assert store.repair().ok
            nodes[0][0].close()
            assert text(store.load("plan")) == "two"


def test_warnings_are_for_what_differs_only(places: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for order in (places, places[::-1]):
            ReplicatedStore(order).close()
