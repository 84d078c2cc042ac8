"""Repair and scrub over real directories: what differs is found, brought to the newest version, and told."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import Signer, TrustSet, create_maif
from laila.clock import ManualClock
from laila.errors import BadConfig, QuorumLost, StorageError, Unreachable
from laila.replication.calls import Crowd
from laila.replication.copies import Copy
from laila.replication.directory import DirectoryReplica
from laila.replication.pace import Pace
from laila.replication.register import Register
from laila.replication.repair import Progress, Repair, RepairReport
from laila.replication.replica import Stamp
from laila.replication.scrub import scrub
from laila.replication.tags import Found, Stand, Unsure
from laila.transport.identity import Identity
from tests.replication.cluster import STORE, Cluster, cluster
from tests.replication.faulty import Faulty

A, B, C, D = (f"{number:032x}" for number in range(4))


@dataclass
class Bench:
    """A cluster, and the means to put into its replicas what a history of accidents would have left there."""

    cluster: Cluster
    crowd: Crowd
    repair: Repair
    rebuilt: list[str]

    @property
    def replicas(self) -> Mapping[str, Faulty]:
        return self.cluster.replicas

    def plant(self, name: str, sequence: int, *ids: str, gone: bool = False, size: int = 0) -> Stand:
        """One version, on these replicas."""
        artifact = create_maif("writer")
        if not gone:
            artifact.add_text(f"{name} {sequence}")
            if size:
                artifact.add_binary(random.Random(1).randbytes(size))  # noqa: S311  # not to be packed
        artifact.name_as(name, sequence=sequence, gone=gone)
        with Copy.encode(name, artifact, self.cluster.signer, self.cluster.trust) as copy:
            for id in ids:
                self.replicas[id].replica.put(copy, 1)
            return copy.stand

    def damage(self, id: str, name: str) -> None:
        file = self.cluster.file(id, name)
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)

    def found(self, name: str) -> list[Found]:
        return [replica.replica.look([name], 1)[0] for replica in self.replicas.values()]

    def same(self) -> bool:
        """Whether all have the same bytes in the same files."""
        trees = [replica.replica.branches([""])[0].digest for replica in self.replicas.values()]
        folders = [Path(replica.where) for replica in self.replicas.values()]
        files = [{file.name: file.read_bytes() for file in folder.glob("*.maif")} for folder in folders]
        return all(tree == trees[0] for tree in trees) and all(one == files[0] for one in files)

    def blank(self, id: str) -> None:
        """It lost its disk, has a new one, and was told who it is."""
        where = self.cluster.file(id, "x").parent
        self.replicas[id].close()
        for file in sorted(where.rglob("*"), reverse=True):
            if file.is_dir():
                file.rmdir()
            else:
                file.unlink()
        fresh = Faulty(DirectoryReplica(where, self.cluster.trust))
        fresh.mark(Stamp(STORE, id, rebuilding=True))
        self.cluster.replicas[id] = fresh
        self.crowd.dismiss(id)
        self.crowd.admit(id, fresh)
        self.cluster.rebuilding.add(id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with bench_of(tmp_path) as made:
        yield made


@contextmanager
def bench_of(folder: Path, count: int = 3, **quorums: int) -> Iterator[Bench]:
    signer = Signer(Identity.ephemeral())
    trust = TrustSet([signer])
    with cluster(folder, signer, trust, count, **quorums) as made:
        crowd = Crowd(made.replicas)
        register = Register(
            crowd,
            lambda: made.view,
            trust,
            timeout=20.0,
            stale=lambda error: None,
            rebuilding=lambda id: id in made.rebuilding,
        )
        read = partial(register.read, spread=False)
        rebuilt: list[str] = []
        repair = Repair(crowd, lambda: made.view, trust, read, rebuilt=rebuilt.append, timeout=20.0)
        try:
            yield Bench(made, crowd, repair, rebuilt)
        finally:
            for replica in made.replicas.values():
                replica.release()
            crowd.close()


def where(bench: Bench, *ids: str) -> set[str]:
    return {bench.replicas[id].where for id in ids}


def calls(bench: Bench, what: str) -> int:
    return sum(replica.calls.get(what, 0) for replica in bench.replicas.values())


def test_replicas_that_agree_are_only_compared(bench: Bench) -> None:
    for number in range(40):
        bench.plant(f"name-{number}", 1, A, B, C)
    report = bench.repair.everything()
    assert report.ok
    assert (report.looked, report.transferred, report.repairs) == (40, 0, 0)
    assert [calls(bench, what) for what in ("branches", "look", "fetch", "put")] == [3, 0, 0, 0]


def test_each_replica_gets_what_it_lacks_and_nothing_else_travels(bench: Bench) -> None:
    """200 names: missing, stale, forgotten, damaged, an unfinished write."""
    for number in range(200):
        bench.plant(f"name-{number}", 1, A, B, C)
    newest = {
        "missing": bench.plant("missing", 1, A, B),
        "name-10": bench.plant("name-10", 2, B, C),  # stale on A
        "name-11": bench.plant("name-11", 7, B, C),
        "name-20": bench.plant("name-20", 2, A, C, gone=True),  # B did not hear that it was forgotten
        "unfinished": bench.plant("unfinished", 1, C),  # its writer died; a read would finish it, too
    }
    assert isinstance(bench.found("name-30")[1], Stand)
    bench.replicas[B].distrust("name-30", "it was damaged")
    report = bench.repair.everything()
    assert report.ok, report
    assert {(one.name, one.was) for one in report.repaired} == {
        ("missing", "missing"),
        ("name-10", "stale"),
        ("name-11", "stale"),
        ("name-20", "stale"),
        ("unfinished", "missing"),
        ("name-30", "unsure"),
    }
    assert (report.transferred, calls(bench, "put")) == (7, 7)
    assert report.repairs == 7
    assert report.looked in (201, 202)
    for name, stand in newest.items():
        assert bench.found(name) == [stand] * 3
    assert not bench.cluster.file(B, "name-20").exists()
    assert bench.same()
    assert report.behind == {
        bench.replicas[A].where: 3,
        bench.replicas[B].where: 3,
        bench.replicas[C].where: 1,
    }
    assert set(report.left.values()) == {0}
    again = bench.repair.everything()
    assert (again.ok, again.repairs, again.transferred) == (True, 0, 0)


def test_a_forgotten_name_does_not_come_back(bench: Bench) -> None:
    """Also when most replicas still have its last version, and the one that has the tombstone was away."""
    bench.plant("plan", 4, A, B, C)
    tombstone = bench.plant("plan", 5, A, gone=True)
    assert bench.repair.everything().ok
    assert bench.found("plan") == [tombstone] * 3
    assert not any(bench.cluster.file(id, "plan").exists() for id in (A, B, C))


def test_damaged_bytes_are_found_by_a_scrub_and_repaired(bench: Bench) -> None:
    for number in range(30):
        bench.plant(f"name-{number}", 1, A, B, C)
    bench.damage(A, "name-3")
    bench.damage(C, "name-7")
    seen: list[Progress] = []
    report = scrub(bench.repair, progress=seen.append)
    assert report.ok, report
    assert (report.looked, report.bytes > 30 * 3 * 1000) == (90, True)
    assert {(one.name, one.replica) for one in report.damaged} == {
        ("name-3", bench.replicas[A].where),
        ("name-7", bench.replicas[C].where),
    }
    assert all(one.reason for one in report.damaged)
    assert report.repaired is not None
    assert {one.name for one in report.repaired.repaired} == {"name-3", "name-7"}
    assert bench.same()
    assert bench.replicas[A].replica.quarantined() == ["name-3"]
    assert (seen[0].phase, seen[0].total) == ("scrub", 90)
    assert seen[-1].phase == "repair"
    assert report.as_dict()["ok"] is True


def test_a_scrub_can_leave_it_at_telling(bench: Bench) -> None:
    bench.plant("plan", 1, A, B, C)
    bench.damage(B, "plan")
    report = scrub(bench.repair, mend=False)
    assert not report.ok
    assert [one.replica for one in report.damaged] == [bench.replicas[B].where]
    assert report.repaired is None
    assert isinstance(bench.found("plan")[1], Unsure)


def test_a_scrub_goes_on_without_one_that_fails(bench: Bench) -> None:
    bench.plant("plan", 1, A, B, C)
    bench.replicas[B].faults["scrub"] = StorageError("the disk is gone")
    report = scrub(bench.repair)
    assert (report.looked, report.ok) == (2, False)
    assert report.unreachable == {bench.replicas[B].where: "the disk is gone"}


def test_a_blank_replica_is_rebuilt_and_counts_again(bench: Bench) -> None:
    for number in range(60):
        bench.plant(f"name-{number}", 1, A, B, C)
    bench.plant("gone", 2, A, B, gone=True)
    bench.blank(C)
    report = bench.repair.everything()
    assert report.ok, report
    assert set(report.rebuilt) == where(bench, C)
    assert bench.rebuilt == [C]
    assert (report.transferred, report.repairs) == (61, 61)
    assert bench.replicas[C].stamp() == Stamp(STORE, C)
    assert bench.same()
    assert bench.found("gone")[0] == bench.found("gone")[2]


def test_a_replica_does_not_count_while_a_name_is_missing_on_it(bench: Bench) -> None:
    for number in range(10):
        bench.plant(f"name-{number}", 1, A, B, C)
    bench.blank(C)

    def fails_for_one(put: Any, copy: Copy, number: int) -> Stand:
        if copy.name == "name-4":
            raise StorageError("no space left")
        stand: Stand = put(copy, number)
        return stand

    bench.replicas[C].faults["put"] = fails_for_one
    report = bench.repair.everything()
    assert [(one.name, one.replica, one.reason) for one in report.failed] == [
        ("name-4", bench.replicas[C].where, "no space left")
    ]
    assert (report.ok, report.rebuilt, bench.rebuilt) == (False, (), [])
    assert bench.replicas[C].stamp().rebuilding
    assert report.left[bench.replicas[C].where] == 1
    bench.replicas[C].up()
    assert bench.repair.everything().rebuilt
    assert not bench.replicas[C].stamp().rebuilding


@pytest.mark.parametrize("away", ["down", "rebuilding"])
def test_a_replica_does_not_count_without_a_quorum_of_the_others(bench: Bench, away: str) -> None:
    for number in range(5):
        bench.plant(f"name-{number}", 1, A, B)
    bench.blank(C)
    if away == "down":
        bench.replicas[B].down(Unreachable("it is not there"))
    else:
        bench.blank(B)
    report = bench.repair.everything()
    assert not report.rebuilt
    assert bench.replicas[C].stamp().rebuilding
    assert not report.ok


def test_of_two_replicas_each_can_be_rebuilt_from_the_other(tmp_path: Path) -> None:
    """Every write was acknowledged by both, so one of them suffices, though it is no read quorum."""
    with bench_of(tmp_path, 2) as bench:
        for number in range(10):
            bench.plant(f"name-{number}", 1, A, B)
        bench.replicas[A].distrust("name-3", "it was damaged")
        assert bench.repair.everything().ok
        assert isinstance(bench.found("name-3")[0], Stand)
        bench.blank(B)
        report = bench.repair.everything()
        assert report.ok, report
        assert set(report.rebuilt) == where(bench, B)
        assert bench.same()
        assert all(isinstance(bench.found(f"name-{number}")[1], Stand) for number in range(10))
        for id in (A, B):
            bench.replicas[id].distrust("name-5", "it was damaged")
        assert bench.repair.everything().failures == 2


def test_where_stale_reads_are_allowed_a_blank_one_is_rebuilt_too(tmp_path: Path) -> None:
    with bench_of(tmp_path, 3, write=1, read=1, stale=True) as bench:
        bench.plant("plan", 1, A, B, C)
        bench.blank(C)
        report = bench.repair.everything()
        assert report.ok, report
        assert set(report.rebuilt) == where(bench, C)


@pytest.mark.parametrize("members", [[A], [A, B]])
def test_a_new_member_catches_up_before_it_counts(bench: Bench, members: list[str]) -> None:
    """While the membership changes from one or two replicas to three; or from one to another one."""
    for number in range(10):
        bench.plant(f"name-{number}", 1, *members)
    bench.blank(C)
    everybody = bench.cluster.view.members
    old = tuple(member for member in everybody if member.id in members)
    new = tuple(member for member in everybody if member.id in {*members, C})
    bench.cluster.view = replace(bench.cluster.view, members=old, next=new)
    report = bench.repair.everything()
    assert report.ok, report
    assert set(report.rebuilt) == where(bench, C)
    bench.blank(C)
    bench.cluster.view = replace(bench.cluster.view, members=old, next=new[-1:])
    report = bench.repair.everything()
    assert report.ok, report
    assert set(report.rebuilt) == where(bench, C)


def test_what_suffices_for_a_new_member_does_not_suffice_for_every_one(bench: Bench) -> None:
    """B may have lost what it and C acknowledged, if the next membership holds already; C has lost nothing."""
    bench.plant("plan", 1, A, B)
    bench.blank(C)
    bench.replicas[B].distrust("plan", "it was damaged")
    a, b, c = bench.cluster.view.members
    bench.cluster.view = replace(bench.cluster.view, members=(a,), next=(b, c))
    report = bench.repair.everything()
    assert [(one.name, one.replica) for one in report.failed] == [("plan", b.where)]
    assert isinstance(bench.found("plan")[1], Unsure)
    assert set(report.rebuilt) == where(bench, C)


def test_it_does_not_count_when_only_those_were_compared_who_may_know_less(bench: Bench) -> None:
    """Nothing differs among those that answer, and the one that is away has what they lack."""
    bench.plant("plan", 1, A, B)
    bench.plant("list", 1, B)
    bench.blank(C)
    copy = bench.replicas[A].replica.fetch("plan", 1)
    assert copy is not None
    with copy:
        bench.replicas[C].replica.put(copy, 1)
    bench.replicas[B].down(Unreachable("it is not there"))
    report = bench.repair.everything()
    assert (report.failed, report.rebuilt) == ((), ())
    assert bench.replicas[C].stamp().rebuilding


def test_one_whose_disk_was_exchanged_meanwhile_is_not_marked(bench: Bench) -> None:
    bench.plant("plan", 1, A, B)
    bench.blank(C)
    asked = []

    def another(stamp: Any) -> Stamp:
        asked.append(1)
        return stamp() if len(asked) == 1 else Stamp()

    bench.replicas[C].faults["stamp"] = another
    assert not bench.repair.everything().rebuilt
    bench.replicas[C].up()
    assert bench.replicas[C].stamp().rebuilding


def test_one_that_lost_everything_again_is_not_marked(bench: Bench) -> None:
    """It is the same member, and is being rebuilt again: by another mark."""
    bench.plant("plan", 1, A, B)
    bench.blank(C)
    again = Stamp(STORE, C, rebuilding=True, life="another")

    def exchanged(put: Any, copy: Copy, number: int) -> Stand:
        stand: Stand = put(copy, number)
        bench.replicas[C].replica.mark(again)
        return stand

    bench.replicas[C].faults["put"] = exchanged
    report = bench.repair.everything()
    assert not report.rebuilt
    assert "exchanged meanwhile" in report.unreachable[bench.replicas[C].where]
    assert bench.replicas[C].stamp() == again
    bench.replicas[C].up()
    assert bench.repair.everything().rebuilt
    assert bench.replicas[C].stamp() == replace(again, rebuilding=False)


def test_one_that_loses_everything_before_it_is_marked_is_not_marked(bench: Bench) -> None:
    """After it was asked for the last time who it is."""
    bench.plant("plan", 1, A, B)
    bench.blank(C)
    again = Stamp(STORE, C, rebuilding=True, life="another")

    def exchanged(mark: Any, stamp: Stamp, before: Stamp | None) -> bool:
        bench.replicas[C].replica.mark(again)
        done: bool = mark(stamp, before)
        return done

    bench.replicas[C].faults["mark"] = exchanged
    assert not bench.repair.everything().rebuilt
    assert bench.replicas[C].stamp() == again


def test_nobody_is_rebuilt_from_one_that_lost_everything_meanwhile(bench: Bench) -> None:
    bench.plant("plan", 1, A, B)
    bench.blank(C)

    def exchanged(branches: Any, prefixes: list[str]) -> Any:
        bench.replicas[B].replica.mark(Stamp(STORE, B, rebuilding=True, life="another"))
        return branches(prefixes)

    bench.replicas[B].faults["branches"] = exchanged
    assert not bench.repair.everything().rebuilt
    assert bench.replicas[C].stamp().rebuilding


def test_nobody_is_rebuilt_while_a_name_is_in_doubt(bench: Bench) -> None:
    """It may have been the only other one that had it: as one that counts, it would say that there never was any."""
    bench.plant("sure", 1, A, B)
    bench.blank(C)
    bench.replicas[A].distrust("plan", "it was damaged")
    report = bench.repair.everything()
    assert (report.unknown, report.rebuilt) == (1, ())
    assert bench.replicas[C].stamp().rebuilding


def test_a_blank_one_that_nobody_named_is_left_alone(bench: Bench) -> None:
    """It may be a disk that is not mounted."""
    bench.plant("plan", 1, A, B, C)
    bench.plant("more", 1, A, B)
    bench.replicas[C].faults["stamp"] = lambda stamp: Stamp()
    report = bench.repair.everything()
    assert not report.ok
    assert "blank" in report.unreachable[bench.replicas[C].where]
    assert bench.found("more")[2] is None


def test_a_replica_of_another_store_is_left_alone(bench: Bench) -> None:
    bench.plant("more", 1, A, B)
    bench.replicas[C].faults["stamp"] = lambda stamp: Stamp("6" * 32, C)
    report = bench.repair.everything()
    assert "of store 666" in report.unreachable[bench.replicas[C].where]
    assert bench.found("more")[2] is None


def test_an_unsure_replica_counts_again_only_after_a_quorum_of_the_others(bench: Bench) -> None:
    """With a majority unsure nobody can say what the newest version is."""
    bench.plant("plan", 1, A, B, C)
    for id in (A, B):
        bench.replicas[id].distrust("plan", "it was damaged")
    report = bench.repair.everything()
    assert {one.replica for one in report.failed} == where(bench, A, B)
    assert report.quorum_failures >= 1
    assert [type(one) for one in bench.found("plan")] == [Unsure, Unsure, Stand]


def test_what_became_unsure_after_the_read_is_read_again(bench: Bench) -> None:
    """Its answer may have been one of the quorum's, so that quorum says nothing of what it lost."""
    bench.plant("plan", 1, B)
    stand = bench.plant("plan", 2, A, C)
    looks = []

    def loses_it(look: Any, names: list[str], number: int) -> list[Found]:
        looks.append(names)
        if len(looks) == 2:  # the first one is the read's, the second one is just before it is put
            bench.replicas[B].replica.distrust("plan", "it was damaged just now")
        found: list[Found] = look(names, number)
        return found

    reads = []
    read = bench.repair.read

    def counted(name: str) -> Copy | None:
        reads.append(name)
        return read(name)

    bench.repair.read = counted
    settled: list[int] = []
    bench.replicas[B].faults["settle"] = lambda settle, *what: (settled.append(len(reads)), settle(*what))
    bench.replicas[B].faults["look"] = loses_it
    bench.replicas[B].faults["fetch"] = lambda fetch, name, number: (
        looks.append([name]) or fetch(name, number)
    )
    report = bench.repair.everything()
    assert report.ok, report
    assert (len(reads), settled) == (2, [2])
    assert bench.found("plan") == [stand] * 3


def test_what_was_lost_again_after_the_read_is_read_again(bench: Bench) -> None:
    """It was unsure before and is unsure now, and between it was whole, lost that, and has another mark."""
    stand = bench.plant("plan", 2, A, B, C)
    bench.replicas[B].distrust("plan", "it was damaged")
    marks: list[str] = []
    settled: list[str] = []

    def mark_of_b() -> str:
        (found,) = bench.replicas[B].replica.look(["plan"], 1)
        assert isinstance(found, Unsure)
        return found.mark

    marks.append(mark_of_b())
    read = bench.repair.read

    def and_lost(name: str) -> Copy | None:
        copy = read(name)
        if len(marks) == 1:
            with Copy.share(copy) if copy is not None else pytest.fail("nothing was read") as whole:
                bench.replicas[B].replica.put(whole, 1)
            bench.replicas[B].replica.settle("plan", stand.tag, marks[0])
            assert bench.found("plan")[1] == stand
            bench.replicas[B].replica.distrust("plan", "it was damaged again")
            marks.append(mark_of_b())
        return copy

    def noted(settle: Any, name: str, tag: Any, mark: str) -> None:
        settled.append(mark)
        settle(name, tag, mark)

    bench.repair.read = and_lost
    bench.replicas[B].faults["settle"] = noted
    assert bench.repair.everything().ok
    assert marks[0] != marks[1]
    assert settled == [marks[1]]
    assert bench.found("plan") == [stand] * 3


def test_one_that_nobody_else_ever_had_is_settled_without_bytes(bench: Bench) -> None:
    bench.replicas[C].distrust("plan", "it was damaged")
    report = bench.repair.everything()
    assert report.ok, report
    assert bench.found("plan") == [None] * 3
    assert (report.transferred, report.repairs) == (0, 1)


def test_names_of_a_replica_that_is_away_are_brought_to_the_others(bench: Bench) -> None:
    for number in range(20):
        bench.plant(f"name-{number}", 1, A, B, C)
    bench.plant("name-3", 2, A)
    bench.replicas[C].down(Unreachable("nobody answers at that address"))
    report = bench.repair.everything()
    assert not report.ok
    assert report.unreachable == {bench.replicas[C].where: "nobody answers at that address"}
    assert [one.name for one in report.repaired] == ["name-3"]
    assert not report.failed
    bench.replicas[C].up()
    assert bench.repair.everything().ok
    assert bench.same()


def test_one_that_goes_away_in_the_middle_is_given_up(bench: Bench) -> None:
    for number in range(40):
        bench.plant(f"name-{number}", 1, A, B)
    fails = [0]

    def gone(put: Any, copy: Copy, number: int) -> Stand:
        fails[0] += 1
        if fails[0] > 5:
            raise StorageError("the disk is gone")
        stand: Stand = put(copy, number)
        return stand

    bench.replicas[C].faults["put"] = gone
    report = bench.repair.everything()
    assert report.unreachable == {bench.replicas[C].where: "the disk is gone"}
    assert fails[0] < 25  # not tried for every name
    assert report.repairs == 5
    assert not report.ok


def test_without_a_quorum_the_rest_is_not_tried(bench: Bench) -> None:
    for number in range(40):
        bench.plant(f"name-{number}", 1, A, B)
    reads = []

    def lost(name: str) -> Copy | None:
        reads.append(name)
        for id in (A, B):
            bench.replicas[id].down(Unreachable("it is not there"))
        raise QuorumLost("too few")

    bench.repair.read = lost
    report = bench.repair.everything()
    assert len(reads) <= bench.repair.parallel
    assert where(bench, A, B) <= set(report.unreachable)
    assert not report.ok


def test_one_that_hangs_holds_nobody_up_for_long(bench: Bench) -> None:
    bench.plant("plan", 1, A)
    bench.repair.timeout = 4.0
    bench.replicas[C].hold()
    report = bench.repair.everything()
    assert report.unreachable == {bench.replicas[C].where: "no answer within 4 s"}
    assert bench.cluster.file(B, "plan").exists()


def test_chosen_names(bench: Bench) -> None:
    first = bench.plant("first", 1, A, B)
    bench.plant("second", 1, A, B)
    seen: list[Progress] = []
    report = bench.repair.names(["first", "first", "nobody"], progress=seen.append)
    assert report.ok, report
    assert (report.looked, report.transferred) == (2, 1)
    assert bench.found("first") == [first] * 3
    assert bench.found("second")[2] is None
    assert (seen[-1].done, seen[-1].total) == (2, 2)
    bench.replicas[B].down(Unreachable("it is not there"))
    assert bench.repair.names(["first"]).unreachable == {bench.replicas[B].where: "it is not there"}


def test_chosen_names_on_one_that_is_being_rebuilt(bench: Bench) -> None:
    bench.plant("plan", 3, A, B)
    bench.blank(C)
    report = bench.repair.names(["plan"])
    assert report.ok, report
    assert bench.cluster.file(C, "plan").exists()
    assert bench.replicas[C].stamp().rebuilding  # one name is not all


def test_only_some_replicas(bench: Bench) -> None:
    bench.plant("plan", 1, A)
    report = bench.repair.everything({C})
    assert report.ok
    assert [type(one) for one in bench.found("plan")] == [Stand, type(None), Stand]
    assert report.left == {bench.replicas[A].where: 0, bench.replicas[B].where: 1, bench.replicas[C].where: 0}


def test_a_large_copy_is_fetched_once_and_put_to_all(bench: Bench) -> None:
    stand = bench.plant("film", 1, A, size=12 << 20)
    report = bench.repair.everything()
    assert report.ok, report
    assert calls(bench, "fetch") <= 3  # a quorum read tries one; then the one that has it is asked
    assert (calls(bench, "put"), report.bytes) == (2, 2 * stand.size)
    assert bench.same()


def test_a_put_that_comes_late_still_has_its_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = bench.plant("film", 1, A, B, size=6 << 20)
    monkeypatch.setattr("laila.replication.errands.SLOWEST", 1 << 40)
    bench.repair.timeout = 4.0
    late = threading.Event()
    ended = threading.Event()

    def slow(put: Any, copy: Copy, number: int) -> Stand:
        late.wait(60)
        there: Stand = put(copy, number)
        ended.set()
        return there

    bench.replicas[C].faults["put"] = slow
    report = bench.repair.everything()
    assert "no answer" in report.unreachable[bench.replicas[C].where]
    late.set()
    assert ended.wait(60)
    assert bench.found("film") == [stand] * 3


def test_forged_bytes_are_not_spread(bench: Bench) -> None:
    """One replica claims to have a newer version and shows something that nobody trusted has signed."""
    honest = bench.plant("plan", 1, A, B, C)
    stranger = Signer(Identity.ephemeral())
    artifact = create_maif("stranger")
    artifact.add_text("believe me")
    artifact.name_as("plan", sequence=9)
    forged = Copy.encode("plan", artifact, stranger, TrustSet([stranger]))
    bench.replicas[C].faults["fetch"] = lambda fetch, name, number: forged.share()
    bench.replicas[C].faults["look"] = lambda look, names, number: [forged.stand]
    real = bench.replicas[C].replica.branches([""])[0]
    lie = type(real)("", b"?" * 16, 1, entries=(("plan", forged.stand),))
    bench.replicas[C].faults["branches"] = lambda branches, prefixes: [lie]
    bench.repair.everything()
    forged.close()
    assert bench.found("plan") == [honest] * 3


# -- before the members change ----------------------------------------------------------------------------


@pytest.fixture
def joint(tmp_path: Path) -> Iterator[Bench]:
    """A, B and C become B, C and D. What was acknowledged is on A and B."""
    with bench_of(tmp_path, 4) as bench:
        view = bench.cluster.view
        bench.cluster.view = replace(view, members=view.members[:3], next=view.members[1:])
        for number in range(10):
            bench.plant(f"name-{number}", 1, A, B)
        yield bench


def judge(bench: Bench, report: RepairReport | None = None) -> str:
    return (report or bench.repair.everything()).caught_up(bench.cluster.view)


def test_the_next_members_have_caught_up(joint: Bench) -> None:
    report = joint.repair.everything()
    assert judge(joint, report) == ""
    assert (report.complete, report.asked, report.unknown) == (True, frozenset(joint.replicas), 0)
    other = replace(joint.cluster.view, number=2)
    assert "under membership 1, and 2" in report.caught_up(other)
    early = "the comparison did not come to its end"
    assert early in judge(joint, replace(report, complete=False))
    assert early in judge(joint, joint.repair.names(["name-1"]))


@pytest.mark.parametrize("away", [A, B, C, D])
def test_one_may_be_away_while_the_next_members_catch_up(joint: Bench, away: str) -> None:
    joint.replicas[away].down(Unreachable("it is not there"))
    assert judge(joint) == ""
    assert all(joint.found("name-3")[at] is not None for at in range(4) if f"{at:032x}" != away)


@pytest.mark.parametrize("what", ["branches", "stamp", ""])
def test_catching_up_without_those_that_have_it_is_none(joint: Bench, what: str) -> None:
    """C and D agree that there is nothing."""
    for id in (A, B):
        joint.replicas[id].faults[what] = Unreachable("it is cut off")
    assert "it is cut off" in judge(joint)
    assert joint.found("name-3")[2:] == [None, None]
    for id in (A, B):
        joint.replicas[id].up()
    assert judge(joint) == ""


def test_one_that_is_rebuilt_cannot_say_what_there_was(joint: Bench) -> None:
    joint.replicas[A].down(Unreachable("it is cut off"))
    joint.blank(B)
    assert "1 of the 3 present members told all that they have, and 2 have to" in judge(joint)


def test_catching_up_that_ends_early_is_none(joint: Bench) -> None:
    """The present members are cut off when all was compared and nothing was copied."""

    def cut_off(look: Any, *what: Any) -> Any:
        for id in (A, B):
            joint.replicas[id].down(Unreachable("it is cut off"))
        return look(*what)

    joint.replicas[C].faults["look"] = cut_off
    assert "it is cut off" in judge(joint)


def test_catching_up_that_is_given_up_is_none(joint: Bench) -> None:
    cancel = threading.Event()
    cancel.set()
    assert judge(joint, joint.repair.everything(cancel=cancel)) == "it was given up"


def test_so_many_of_the_next_members_must_take_everything(
    joint: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many failures a report lists."""
    monkeypatch.setattr("laila.replication.repair.LISTED", 1)

    def full(put: Any, copy: Copy, number: int) -> Stand:
        if copy.name == "name-7":
            raise StorageError("no space left")
        stand: Stand = put(copy, number)
        return stand

    joint.replicas[D].faults["put"] = full
    assert judge(joint) == ""  # B and C have it
    joint.plant("name-7", 2, A, B)
    joint.replicas[C].faults["put"] = full
    assert "1 of the 3 next members have every name, and 2 have to" in judge(joint)


def test_a_name_that_is_in_doubt_has_not_caught_up(joint: Bench) -> None:
    """C and D never had it, and after the change they would say so."""
    joint.plant("plan", 1, A, B)
    for id in (A, B):
        joint.replicas[id].distrust("plan", "it was damaged")
    assert "of 1 names nobody could tell the newest version" in judge(joint)


def test_it_works_while_writers_write(bench: Bench) -> None:
    """What they write is not lost, and what differs only because of them is no failure."""
    for number in range(60):
        bench.plant(f"name-{number}", 1, A, B)
    over = threading.Event()
    wrote: dict[str, Stand] = {}

    def write() -> None:
        sequence = 1
        while not over.is_set():
            sequence += 1
            for number in range(0, 60, 7):
                wrote[f"name-{number}"] = bench.plant(f"name-{number}", sequence, B, C)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        reports = [bench.repair.everything() for _ in range(4)]
    finally:
        over.set()
        writer.join()
    assert all(report.ok for report in reports), reports
    assert bench.repair.everything().ok
    for name, stand in wrote.items():
        assert bench.found(name) == [stand] * 3
    assert bench.same()


def test_it_tells_how_far_it_is(bench: Bench) -> None:
    for number in range(50):
        bench.plant(f"name-{number}", 1, *((A, B) if number % 5 else (A, B, C)))
    seen: list[Progress] = []
    report = bench.repair.everything(progress=seen.append)
    assert report.ok
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert all(one.done <= one.total for one in seen)
    assert (seen[-1].done, seen[-1].total, seen[-1].bytes) == (50, 50, report.bytes)
    assert {one.phase for one in seen} == {"compare", "repair"}


def test_an_error_of_who_is_told_ends_it(bench: Bench) -> None:
    for number in range(10):
        bench.plant(f"name-{number}", 1, A, B)

    def broken(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.repair.everything(progress=broken)
    assert not [thread for thread in threading.enumerate() if thread.name == "laila-repair"]


def test_it_can_be_given_up(bench: Bench) -> None:
    for number in range(50):
        bench.plant(f"name-{number}", 1, A, B)
    cancel = threading.Event()

    def enough(progress: Progress) -> None:
        if progress.bytes:
            cancel.set()

    report = bench.repair.everything(progress=enough, cancel=cancel)
    assert (report.cancelled, report.ok) == (True, False)
    assert 0 < report.repairs < 50
    assert not report.failed
    # A put that was under way goes on by itself.
    assert bench.repair.everything().repairs in range(47 - report.repairs, 51 - report.repairs)
    assert bench.same()


def test_giving_up_does_not_wait_for_one_that_hangs(bench: Bench) -> None:
    bench.plant("plan", 1, A, B)
    cancel = threading.Event()

    def hangs(put: Any, copy: Copy, number: int) -> Stand:
        cancel.set()
        bench.replicas[C].hold()
        bench.replicas[C].stamp()
        stand: Stand = put(copy, number)
        return stand

    bench.replicas[C].faults["put"] = hangs
    report = bench.repair.everything(cancel=cancel)
    assert report.cancelled
    assert report.seconds < 15  # and not the 20 of a call


def test_a_scrub_can_be_given_up_and_lets_go_of_what_it_began(bench: Bench) -> None:
    for number in range(10):
        bench.plant(f"name-{number}", 1, A, B, C)
    cancel = threading.Event()
    ended: list[str] = []

    def slow(scrub: Any) -> Iterator[Any]:
        try:
            for one in scrub():
                cancel.set()
                yield one
        finally:
            ended.append("ended")

    bench.replicas[A].faults["scrub"] = slow
    bench.replicas[B].faults["scrub"] = lambda scrub: iter(())
    bench.replicas[C].faults["scrub"] = lambda scrub: iter(())
    report = scrub(bench.repair, cancel=cancel)
    assert (report.cancelled, report.ok) == (True, False)
    for _ in range(1000):
        if ended:
            break
        threading.Event().wait(0.01)
    assert ended == ["ended"]


def test_the_rate_holds_on_average() -> None:
    clock = ManualClock()
    pace = Pace(100.0, clock=clock)
    assert pace.delay(60) == 0.0
    assert pace.delay(240) == 0.0  # at once, and in debt
    assert pace.delay(10) == pytest.approx(2.0)
    clock.advance(2.1)
    assert pace.delay(5) == 0.0
    clock.advance(1000)
    assert pace.delay(100) == 0.0  # a rest does not add up
    assert pace.delay(100) == 0.0
    assert pace.delay(1) == pytest.approx(1.0)
    assert Pace(None).delay(10**12) == 0.0
    with pytest.raises(BadConfig, match="above zero"):
        Pace(0)


def test_a_wait_for_the_rate_can_be_given_up() -> None:
    cancel = threading.Event()
    pace = Pace(1.0)
    assert pace.take(10**6, cancel)
    threading.Timer(0.05, cancel.set).start()
    assert not pace.take(1, cancel)


def test_a_repair_keeps_to_its_rate(bench: Bench) -> None:
    """Six names at two a second, with one second's worth in advance."""
    for number in range(6):
        bench.plant(f"name-{number}", 1, A, B)
    report = bench.repair.everything(names_rate=Pace(4.0))
    assert report.ok
    assert report.seconds > 0.2
    size = report.bytes / 6
    for number in range(6):
        bench.plant(f"more-{number}", 1, A, B)
    report = bench.repair.everything(rate=Pace(size * 4))
    assert report.ok
    assert report.seconds > 0.2


def test_reports_are_plain_for_json(bench: Bench) -> None:
    import json

    bench.plant("plan", 1, A, B)
    report = bench.repair.everything()
    assert isinstance(report, RepairReport)
    words = json.loads(json.dumps(report.as_dict()))
    assert words["ok"] is True
    assert words["repaired"] == [
        {"name": "plan", "replica": bench.replicas[C].where, "version": 1, "was": "missing"}
    ]
