"""The bench's own logic: what is measured, how it is judged, and what it refuses. Speed itself is not tested."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tools.benchmarks import (
    artifact_group,
    checker_group,
    checker_works,
    lock_group,
    peer_group,
    replica_group,
)
from tools.benchmarks.artifact_works import LARGE, damage
from tools.benchmarks.bare_replicas import Bare as BareReplicas
from tools.benchmarks.bars import Bar, judge
from tools.benchmarks.etcd_replicas import FIRST, SECOND, field, find
from tools.benchmarks.flock_locks import Bare
from tools.benchmarks.group import Group, Plan
from tools.benchmarks.lock_contender import Place
from tools.benchmarks.lock_driver import alone, contend, shared_counter
from tools.benchmarks.replica_contender import Place as ReplicaPlace
from tools.benchmarks.replica_works import FEWEST, Settings, crowd, durable, in_turns
from tools.benchmarks.results import Results
from tools.benchmarks.table import report

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (peer_group.GROUP, artifact_group.GROUP, lock_group.GROUP, replica_group.GROUP, checker_group.GROUP)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`./tools/bench` with this interpreter."""
    command = [str(ROOT / "tools" / "bench"), *arguments]
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def plan(tmp_path: Path, *, maif: Path | None = None, quick: bool = False) -> Plan:
    """Two repetitions."""
    return Plan(2, 0.1, 0.1, quick, str(tmp_path), None, maif, "free")


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_bars_tables_and_references_name_what_the_group_has(group: Group) -> None:
    columns = {
        metric for tables in group.tables.values() for table in tables for metric, _, _ in table.columns
    }
    assert set(group.tables) == set(group.works)
    assert {name for name, _ in group.references} <= set(group.contenders)
    for bar in group.bars:
        assert {bar.subject, bar.reference} <= {*group.contenders, None}
        assert bar.metric.partition(".")[0] in group.works
        assert bar.metric in columns


def test_a_bar_is_judged_by_the_median_of_the_ratios_within_repetitions() -> None:
    results = Results(("alone",), ("laila", "bare", "filelock"))
    for repetition, (ours, bare) in enumerate([(10, 100), (40, 100), (30, 100)]):
        results.add("laila", repetition, {"alone.cycles": ours})
        results.add("bare", repetition, {"alone.cycles": bare})
    bars = (
        Bar("alone.cycles", 0.3, "bare"),
        Bar("alone.cycles", 0.31, "bare"),
        Bar("alone.cycles", 0.29, "bare", at_most=True),
        Bar("alone.cycles", 10, "filelock"),
        Bar("alone.cycles", 10, "fasteners"),
        Bar("held1ms.cycles", 0.5, "bare"),
    )
    verdicts = judge(results, bars)
    assert [(v.value, v.low, v.high) for v in verdicts[:3]] == [(0.3, 0.1, 0.4)] * 3
    assert [v.met for v in verdicts] == [True, False, False, None]  # the last two were not asked for
    text = report(lock_group.GROUP, results, verdicts)
    assert "bars: 1 met, 2 missed, 1 not measured" in text


def test_fairness_is_one_where_all_did_as_much_and_a_quarter_where_one_did_everything() -> None:
    assert lock_group.fairness([7, 7, 7, 7]) == 1.0
    assert lock_group.fairness([0, 0, 9, 0]) == 0.25


def test_the_public_library_is_left_out_with_a_remark_where_there_is_no_checkout(tmp_path: Path) -> None:
    results = Results(("small", "appends"), ("laila", "maif"))
    steps = list(artifact_group.steps(plan(tmp_path), results))
    assert {name for _, _, name in steps} == {"laila"}
    assert "--maif" in results.remarks[0]


def test_the_quadratic_appends_of_the_public_library_are_done_once_and_not_in_a_hurry(tmp_path: Path) -> None:
    results = Results(("small", "appends"), ("maif",))
    full = list(artifact_group.steps(plan(tmp_path, maif=tmp_path), results))
    quick = list(artifact_group.steps(plan(tmp_path, maif=tmp_path, quick=True), results))
    assert [step for step in full if step[1] == ("appends",)] == [(0, ("appends",), "maif")]
    assert {works for _, works, _ in quick} == {("small",)}


def test_a_lock_is_cycled_alone_and_in_turns_and_the_counter_counts(tmp_path: Path) -> None:
    lock = Bare(Place(tmp_path, None))
    assert alone(lock, 0.01)["alone.cycles"] > 0
    with shared_counter(tmp_path) as counter:
        numbers = contend(lock, 20e-6, 0.0, 0.0, counter)
        assert numbers == {"cycles": 0, "longest": 0.0}  # the end had come before it began
        assert int.from_bytes(counter[:8], "little") == 0


def test_servers_that_are_not_there_are_left_out_with_a_remark(tmp_path: Path) -> None:
    results = Results(("durable", "crowd", "verify"), ("bare", "laila", "etcd", "redis"))
    steps = list(replica_group.steps(plan(tmp_path), results))
    shared = [(("durable", "crowd"), "bare"), (("durable", "crowd"), "laila")]
    once = [(0, ("verify",), "laila")]
    assert steps == [(0, *each) for each in shared] + once + [(1, *each) for each in shared]
    assert len(results.remarks) == 2


def test_values_are_put_and_got_by_one_and_by_a_crowd(tmp_path: Path) -> None:
    contender = BareReplicas(ReplicaPlace(tmp_path, (), ""))
    contender.connect()
    try:
        settings = Settings(0.01, (), 3)
        numbers = durable(contender, settings) | crowd(contender, settings)
    finally:
        contender.close()
    assert sorted(numbers) == ["crowd.get", "crowd.put", "durable.get", "durable.put"]
    assert min(numbers.values()) > 0
    assert {path.name.partition("-")[0] for path in (tmp_path / "server-0").iterdir()} == {"crowd", "durable"}


@pytest.mark.parametrize("works", [("durable", "crowd", "quorum"), ("verify", "repair")], ids=",".join)
def test_a_store_on_three_nodes_is_measured_whole(
    works: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_group.environments, "python", lambda environment: sys.executable)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    tiny = replace(plan(tmp_path), seconds=0.01, names=20)
    numbers = replica_group.do(tiny, works, "laila")
    tables = [table for work in works for table in replica_group.TABLES[work]]
    assert sorted(numbers) == sorted(metric for table in tables for metric, _, _ in table.columns), numbers
    if "verify" in works:
        assert (numbers["verify.names"], numbers["verify.exchanges"]) == (20, 1)
        assert numbers["repair.transfers"] >= 3
    assert list(tmp_path.glob("replicas-*")) == []


def test_operations_take_turns_in_every_order_and_the_first_turn_is_not_counted() -> None:
    calls: list[str] = []
    operations = {"a": lambda turn: calls.append(f"a{turn}"), "b": lambda turn: calls.append(f"b{turn}")}
    times = in_turns(operations, 0.0, lambda turn: calls.append(f"before {turn}"))
    assert calls[:6] == ["before 0", "a0", "b0", "before 1", "b1", "a1"]
    assert {name: len(each) for name, each in times.items()} == {"a": FEWEST, "b": FEWEST}


def test_histories_that_are_measured_are_right_and_are_judged_by_both(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    checker_works.write_lines(file, 500)
    numbers = checker_works.judged_file("file", file, 500)
    numbers |= checker_works.judged("some", checker_works.zones, 500)
    numbers |= checker_works.judged("million", checker_works.search, 500)
    numbers |= checker_works.judged("swaps", checker_works.search, 500, 0.5)
    metrics = {m for tables in checker_group.TABLES.values() for table in tables for m, _, _ in table.columns}
    assert set(numbers) == metrics
    assert min(numbers.values()) > 0


def test_messages_of_etcd_are_written_and_read() -> None:
    # PutRequest{key: "k", value: 200 bytes}, as protoc writes it
    assert field(FIRST, b"k") + field(SECOND, bytes(200)) == b"\x0a\x01k\x12\xc8\x01" + bytes(200)
    # RangeResponse{header{revision: 300}, kvs{key: "k", mod_revision: 300, value: "v"}, count: 1}
    answer = b"\x0a\x03\x18\xac\x02" + b"\x12\x09\x0a\x01k\x18\xac\x02\x2a\x01v" + b"\x20\x01"
    assert find(find(answer, 2), 5) == b"v"
    assert find(field(SECOND, bytes(200)) + field(FIRST, b"k"), 1) == b"k"
    with pytest.raises(KeyError):
        find(answer, 9)


def test_a_damaged_cache_keeps_its_size_and_times(tmp_path: Path) -> None:
    file = tmp_path / "cached"
    with file.open("wb") as out:
        out.truncate(LARGE)
    before = file.stat()
    damage(tmp_path)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_mode,
    )
    with file.open("rb") as found:
        found.seek(LARGE // 2)
        assert found.read(1) == b"\x01"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "'nonsense' is none of peers, artifacts, locks, replicas, checkers"),
        (["locks", "--pin", "apart"], "choose the group `peers` alone"),
        (["locks", "--only", "grpc"], "no contender of --only"),
        (["artifacts", "--maif", "/nowhere"], "no checkout of the public MAIF"),
        (["replicas", "--names", "2"], "--names must be 3 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(arguments: list[str], words: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_help_names_groups_contenders_and_works() -> None:
    done = bench("--help")
    assert done.returncode == 0
    for word in (
        "artifacts",
        "checkers",
        "locks",
        "peers",
        "replicas",
        "portalocker",
        "held1ms",
        "etcd",
        "--maif",
        "--names",
    ):
        assert word in done.stdout
