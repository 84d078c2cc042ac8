"""The keeper: replicas come to agree by themselves, and it says how far they are."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import Signer, TrustSet, create_maif
from laila.errors import BadConfig, MembershipBusy, StorageError, Unreachable
from laila.replication.calls import Crowd
from laila.replication.copies import Copy
from laila.replication.hints import EVERYTHING, Hints
from laila.replication.keeper import Keeper
from laila.replication.register import Register
from laila.replication.repair import Repair
from laila.replication.replica import Stamp
from laila.transport.identity import Identity
from tests.replication.cluster import STORE, Cluster, cluster

A, B, C = (f"{number:032x}" for number in range(3))
NEVER = 10_000.0


class House:
    """A cluster, and the keepers of its nodes."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.crowds: list[Crowd] = []
        self.keepers: list[Keeper] = []
        self.hints = Hints(folder / "hints")

    def repair(self) -> Repair:
        crowd = Crowd(self.cluster.replicas)
        self.crowds.append(crowd)
        register = Register(
            crowd,
            lambda: self.cluster.view,
            self.cluster.trust,
            timeout=20.0,
            stale=lambda error: None,
            rebuilding=lambda id: id in self.cluster.rebuilding,
        )
        read = partial(register.read, spread=False)
        return Repair(crowd, lambda: self.cluster.view, self.cluster.trust, read, timeout=20.0)

    def keeper(self, **options: Any) -> Keeper:
        settings: dict[str, Any] = {"interval": NEVER, "scrub_every": None, "rate": None, "scrub_rate": None}
        keeper = Keeper(self.repair(), options.pop("hints", self.hints), **(settings | options))
        self.keepers.append(keeper)
        return keeper

    def plant(self, name: str, sequence: int, *ids: str) -> None:
        artifact = create_maif("writer")
        artifact.add_text(f"{name} {sequence}")
        artifact.name_as(name, sequence=sequence)
        with Copy.encode(name, artifact, self.cluster.signer, self.cluster.trust) as copy:
            for id in ids:
                self.cluster.replicas[id].replica.put(copy, 1)

    def sequence(self, id: str, name: str) -> int:
        found = self.cluster.replicas[id].replica.look([name], 1)[0]
        return getattr(found, "sequence", 0)

    def same(self) -> bool:
        replicas = self.cluster.replicas.values()
        return len({replica.replica.branches([""])[0].digest for replica in replicas}) == 1

    def where(self, id: str) -> str:
        return self.cluster.replicas[id].where


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    signer = Signer(Identity.ephemeral())
    with cluster(tmp_path, signer, TrustSet([signer])) as made:
        house = House(made, tmp_path)
        try:
            yield house
        finally:
            for replica in made.replicas.values():
                replica.release()
            for keeper in house.keepers:
                keeper.close()
                assert not keeper.alive
            for crowd in house.crowds:
                crowd.close()


def eventually(condition: Callable[[], object], what: str = "it did not come about") -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def compared(keeper: Keeper, times: int = 1) -> bool:
    return bool(keeper.status()["comparisons"] >= times)


def of(keeper: Keeper, id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in keeper.status()["replicas"] if one["id"] == id)
    return found


def test_replicas_come_to_agree_by_themselves(house: House) -> None:
    house.plant("plan", 2, A, B)
    house.plant("list", 1, C)
    keeper = house.keeper()
    eventually(lambda: compared(keeper))
    assert house.same()
    status = keeper.status()
    assert (status["repairs"], status["failures"], status["trouble"]) == (3, 0, None)
    assert [one["behind"] for one in status["replicas"]] == [0, 0, 0]
    assert status["compared_at"] == pytest.approx(time.time(), abs=60)
    assert json.loads(json.dumps(status)) == status


def test_it_goes_on_comparing(house: House) -> None:
    keeper = house.keeper(interval=0.05)
    eventually(lambda: compared(keeper, 2))
    house.plant("plan", 1, B)
    eventually(house.same)


def test_it_pays_what_is_owed_as_soon_as_the_replica_answers(house: House) -> None:
    """Without comparing: nobody calls it, and the interval is long."""
    keeper = house.keeper()
    eventually(lambda: compared(keeper))
    house.plant("plan", 1, A, B)
    keeper.owe(C, "plan")
    eventually(lambda: not house.hints.owed())
    assert house.sequence(C, "plan") == 1
    assert (keeper.status()["comparisons"], keeper.status()["paid"]) == (1, 1)


def test_it_converges_after_a_replica_returns(house: House) -> None:
    keeper = house.keeper(interval=1.0)
    house.cluster.replicas[C].down(Unreachable("it is not there"))
    keeper.wake()
    eventually(lambda: of(keeper, C)["error"])
    assert of(keeper, C)["error"] == "it is not there"
    assert "it is not there" in str(keeper.trouble)
    assert of(keeper, A)["behind"] == 0
    assert of(keeper, C)["behind"] is None
    for number in range(20):
        house.plant(f"name-{number}", 1, A, B)
        keeper.owe(C, f"name-{number}")
    assert of(keeper, C)["owed"] == 20
    house.cluster.replicas[C].up()
    eventually(lambda: not house.hints.owed())
    assert house.same()
    eventually(lambda: keeper.trouble is None)
    assert of(keeper, C)["behind"] == 0


def test_it_tries_at_once_when_it_is_told_that_a_replica_is_back(house: House) -> None:
    keeper = house.keeper()
    eventually(lambda: compared(keeper))
    replica = house.cluster.replicas[C]
    replica.down(Unreachable("it is not there"))
    house.plant("plan", 1, A, B)
    keeper.owe(C, "plan")
    eventually(lambda: keeper._waits.get(C, 0) >= 2, "it did not wait longer and longer")
    with keeper._mutex:
        keeper._try_at[C] = time.monotonic() + NEVER
    replica.up()
    assert house.hints.owed()
    keeper.wake(C)
    eventually(lambda: not house.hints.owed())
    assert house.sequence(C, "plan") == 1
    eventually(lambda: compared(keeper, 2), "who was away may have missed more than what was owed here")


def test_debts_of_a_process_that_died_are_paid(house: House) -> None:
    house.plant("plan", 1, A, B)
    house.hints.owe(C, "plan")
    house.hints.take(C)  # and then it was killed
    house.keeper(mine={A})  # so that only what is owed brings it to C
    eventually(lambda: not house.hints.owed())
    assert house.sequence(C, "plan") == 1


def test_everything_owed_is_a_comparison(house: House) -> None:
    house.plant("plan", 1, A, B)
    house.hints.owe_everything(C)
    keeper = house.keeper(mine={A})
    eventually(lambda: not house.hints.owed())
    assert house.sequence(C, "plan") == 1
    house.cluster.replicas[C].down(Unreachable("it is not there"))
    house.hints.owe_everything(C)
    keeper.wake()
    eventually(lambda: keeper._waits.get(C))
    assert house.hints.owed() == {C: [EVERYTHING]}
    assert of(keeper, C)["owed"] == "everything"


def test_what_could_not_be_paid_is_still_owed(house: House) -> None:
    """It answers, and takes nothing: a full disk."""
    house.plant("plan", 1, A, B)
    house.cluster.replicas[C].faults["put"] = StorageError("no space left")
    keeper = house.keeper(mine={A})
    keeper.owe(C, "plan")
    eventually(lambda: keeper.status()["failures"])
    keeper.wake(C)
    eventually(lambda: keeper.status()["failures"] >= 2)
    assert house.hints.owed() == {C: ["plan"]}
    assert keeper.status()["paid"] == 0
    house.cluster.replicas[C].up()
    keeper.wake(C)
    eventually(lambda: not house.hints.owed())
    assert house.sequence(C, "plan") == 1


def test_debts_to_who_is_no_member_are_dropped(house: House) -> None:
    house.hints.owe("f" * 32, "plan")
    house.keeper()
    eventually(lambda: not house.hints.owed())


def test_each_node_pulls_for_its_own_replica(house: House) -> None:
    """So three nodes do not all put the same to the same one."""
    house.plant("plan", 1, A)
    keeper = house.keeper(mine=lambda: {B})
    eventually(lambda: compared(keeper))
    assert [house.sequence(id, "plan") for id in (A, B)] == [1, 1]
    assert of(keeper, B)["behind"] == 0


def test_a_neighbour_without_a_keeper_is_seen_to_now_and_then(house: House) -> None:
    house.plant("old", 1, A, B)
    keeper = house.keeper(mine={A}, interval=0.05)
    eventually(lambda: compared(keeper, 5))
    assert house.same()


def test_nodes_that_keep_the_same_store_at_the_same_time(house: House) -> None:
    for number in range(30):
        house.plant(f"name-{number}", 1, (A, B, C)[number % 3])
    for id in (A, B, C):
        house.keeper(mine={id}, interval=0.2, hints=Hints(house.folder / f"hints-{id}"))
    eventually(house.same)
    assert all(house.sequence(id, f"name-{number}") == 1 for id in (A, B, C) for number in range(30))


def test_a_replica_that_lost_everything_is_rebuilt(house: House) -> None:
    house.plant("plan", 1, A, B)
    house.cluster.replicas[C].mark(Stamp(STORE, C, rebuilding=True))
    house.cluster.rebuilding.add(C)
    told: list[int] = []

    def tell() -> None:
        told.append(1)
        raise MembershipBusy("another change is under way")

    keeper = house.keeper(mine={C}, rebuilt=tell)
    eventually(lambda: not house.cluster.replicas[C].stamp().rebuilding)
    assert house.sequence(C, "plan") == 1
    eventually(lambda: told)
    eventually(lambda: keeper.status()["comparisons"])  # and it goes on


def test_it_reads_the_bytes_at_rest_and_mends_what_is_damaged(house: House, tmp_path: Path) -> None:
    for number in range(10):
        house.plant(f"name-{number}", 1, A, B, C)
    file = house.cluster.file(B, "name-3")
    raw = bytearray(file.read_bytes())
    raw[700] ^= 1
    status = file.stat()
    file.write_bytes(raw)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    keeper = house.keeper(scrub_every=1.0, state=tmp_path / "state")
    eventually(lambda: keeper.status()["scrubbed_at"])
    status_now = keeper.status()
    assert status_now["scrubbed"] >= 30
    assert status_now["damaged"] >= 1
    assert house.sequence(B, "name-3") == 1
    assert house.cluster.replicas[B].replica.check("name-3", 1).valid
    keeper.close()
    # Another one knows when that was, and does not begin anew.
    later = house.keeper(scrub_every=NEVER, state=tmp_path / "state")
    eventually(lambda: compared(later))
    assert later.status()["scrubbed_at"] == pytest.approx(status_now["scrubbed_at"], abs=60)
    assert later.status()["scrubbed"] == 0


def test_only_its_own_replica_is_scrubbed(house: House) -> None:
    for number in range(5):
        house.plant(f"name-{number}", 1, A, B, C)
    keeper = house.keeper(mine={B}, scrub_every=1.0)
    eventually(lambda: keeper.status()["scrubbed_at"])
    calls = [house.cluster.replicas[id].calls.get("scrub", 0) for id in (A, B, C)]
    assert calls[0] == calls[2] == 0
    assert calls[1] >= 1


def test_whatever_goes_wrong_it_goes_on(house: House, caplog: pytest.LogCaptureFixture) -> None:
    keeper = house.keeper(interval=0.05)
    eventually(lambda: compared(keeper))
    view = house.cluster.view

    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise RuntimeError("nobody expected this")

    repair = keeper._repair
    with caplog.at_level(logging.WARNING, "laila.replication"):
        repair.view = Broken  # type: ignore[assignment,return-value]
        keeper.wake()
        eventually(lambda: "nobody expected this" in str(keeper.trouble))
        assert keeper.alive
    assert any("nobody expected this" in str(getattr(one, "reason", "")) for one in caplog.records)
    repair.view = lambda: view
    house.plant("plan", 1, A)
    keeper.wake()
    eventually(lambda: house.same() and keeper.trouble is None)


def test_it_ends_within_seconds_also_when_a_replica_hangs(house: House) -> None:
    house.plant("plan", 1, A, B)
    keeper = house.keeper()
    eventually(lambda: compared(keeper))
    house.cluster.replicas[C].hold()
    keeper.wake()
    eventually(lambda: keeper.status()["doing"] == "comparing")
    started = time.monotonic()
    keeper.close()
    assert time.monotonic() - started < 9
    assert not keeper.alive
    keeper.close()
    names = [thread.name for thread in threading.enumerate()]
    assert "laila-keeper" not in names
    assert "laila-repair" not in names


def test_quorums_that_others_lost_are_counted(house: House) -> None:
    keeper = house.keeper()
    keeper.note_quorum_lost()
    assert keeper.status()["quorum_failures"] == 1


@pytest.mark.parametrize("options", [{"interval": 0}, {"scrub_every": -1}, {"rate": 0}])
def test_what_cannot_be_kept_to_is_refused(house: House, options: dict[str, Any]) -> None:
    with pytest.raises(BadConfig):
        house.keeper(**options)
