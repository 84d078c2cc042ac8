"""What the check of a replicated store concludes from what it saw, and what its report says of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from laila.lab import replica_page, report
from laila.lab.checkers import registers as judge
from laila.lab.checks import registers, replica_promises
from laila.lab.checks.replica_faults import Bite
from laila.lab.checks.replica_holdings import Holdings, differences
from laila.lab.checks.replica_load import FORGET, LOAD, SAVE, Done, Forgotten, ReplicaLoad, records
from laila.lab.clocks import Moment
from laila.lab.history import History
from laila.lab.remote import Outcome
from laila.lab.result import Result, StepResult, Verdict

CUT = Bite(
    "cut off", "node3", injecting=10.0, injected=10.1, healing=16.0, healed=18.0, proof="it sees nobody"
)


class Beside:
    """A worker as the load knows it: a place and a name, with the controller's own clock."""

    def __init__(self, node: str, number: int = 0) -> None:
        self.node, self.name = node, f"{node}/home/{number}"

    def span(self, outcome: Outcome) -> tuple[Moment, Moment]:
        return Moment.at(outcome.started), Moment.at(outcome.ended)


def done(
    node: str, op: str, started: float, ended: float, error: str = "", name: str = "shared-a", **more: Any
) -> Done:
    outcome = Outcome(started, ended, error=error)
    return Done(Beside(node), op, name, "before", outcome, **more)  # type: ignore[arg-type]  # as much of a worker as is used


def loaded(operations: Sequence[Done], forgotten: Sequence[Forgotten] = ()) -> ReplicaLoad:
    return ReplicaLoad(None, list(operations), list(forgotten))  # type: ignore[arg-type]  # nobody works here


def holdings(node: str, live: dict[str, tuple[str, int]], gone: dict[str, int] | None = None) -> Holdings:
    files = {name: (digest, number, f"value of {name}") for name, (digest, number) in live.items()}
    tombs = {name: ("t" * 64, number, None) for name, number in (gone or {}).items()}
    return Holdings(node, files, tombs, (), ())


# -- operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (done("node3", LOAD, 10.5, 11.0), "though its node was cut off from all others"),
        (done("node3", LOAD, 9.9, 11.0), ""),
        (done("node3", LOAD, 15.9, 17.0), ""),
        (done("node1", LOAD, 10.5, 11.0), ""),
        (done("node3", SAVE, 10.5, 13.5, "QuorumLost"), ""),
        (done("node1", SAVE, 1.0, 29.0, "NoAnswer"), "a hang"),
        (done("node1", LOAD, 1.0, 1.1, "ArtifactCorrupt"), "ArtifactCorrupt"),
        (done("node1", LOAD, 1.0, 1.1, "TypeError"), "TypeError"),
    ],
)
def test_nobody_answers_alone_and_nothing_fails_but_for_want_of_a_quorum(operation: Done, said: str) -> None:
    found = registers._wrong(operation, [CUT])
    assert said in found
    assert bool(found) == bool(said)


def test_a_write_without_an_answer_stays_open_and_a_read_without_one_is_left_out() -> None:
    load = loaded(
        [
            done("node1", SAVE, 1, 2, value="a-1", sequence=1),
            done("node1", SAVE, 3, 4, "QuorumLost", value="b-1"),
            done("node2", LOAD, 5, 6, value="b-1"),
            done("node2", LOAD, 7, 8, "QuorumLost"),
            done("node2", SAVE, 9, 9.5, name="gone-1", value="c-1"),
        ]
    )
    writes, reads = records(load)
    assert [(write.value, write.ended) for write in writes] == [("a-1", Moment.at(2)), ("b-1", None)]
    assert [read.value for read in reads] == ["b-1"]
    assert [one.verdict for one in judge.judge_all(writes, reads)] == [judge.Verdict.OK]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("a-1", judge.STALE), (None, judge.LOST), ("torn:0123", judge.PHANTOM), ("b-1", "")],
)
def test_what_a_broken_node_answers_is_named(answer: str | None, kind: str) -> None:
    """Two writes through one node were acknowledged; another node then answers as a broken one would."""
    load = loaded(
        [
            done("node1", SAVE, 1, 2, value="a-1", sequence=1),
            done("node1", SAVE, 3, 4, value="b-1", sequence=2),
            done("node2", LOAD, 5, 6, value=answer),
        ]
    )
    (found,) = judge.judge_all(*records(load))
    assert (found.why.kind if found.why else "") == kind


# -- promises -----------------------------------------------------------------------------------------------


def test_an_older_version_or_none_than_was_acknowledged_is_named() -> None:
    known = loaded(
        [
            done("node1", SAVE, 1, 2, value="a-1", sequence=1),
            done("node2", SAVE, 3, 4, value="b-1", sequence=2),
            done("node2", SAVE, 5, 6, "QuorumLost", value="c-1", sequence=3),
            done("node2", SAVE, 7, 8, name="gone-1", value="d-1", sequence=1),
        ],
        [Forgotten("gone-1", sure=False)],
    ).acknowledged()
    assert known == {"shared-a": (2, "b-1")}
    everywhere = [holdings("node1", {"shared-a": ("x", 2)}), holdings("node2", {"shared-a": ("y", 3)})]
    assert replica_promises.missing(known, everywhere) == []
    wrong = replica_promises.missing(
        known, [holdings("node1", {"shared-a": ("x", 1)}), holdings("node2", {})]
    )
    assert wrong == [
        "node1 has version 1 of shared-a, and version 2 (b-1) was acknowledged",
        "node2 has nothing of shared-a, and version 2 (b-1) was acknowledged",
    ]


def test_a_forgotten_name_that_is_back_is_named() -> None:
    under_its_tombstone = holdings("node1", {"gone-1": ("x", 1)}, {"gone-1": 2})
    assert replica_promises.risen(["gone-1"], [under_its_tombstone, holdings("node2", {})]) == []
    back = [holdings("node1", {"gone-1": ("x", 3)}, {"gone-1": 2}), holdings("node2", {"gone-1": ("x", 1)})]
    assert replica_promises.risen(["gone-1"], back) == [
        "node1 has gone-1, which was forgotten",
        "node2 has gone-1, which was forgotten",
    ]


def test_files_that_differ_are_named_with_every_nodes_digest() -> None:
    found = [
        holdings("node1", {"a": ("x" * 64, 2), "b": ("y" * 64, 1)}, {"g": 2}),
        holdings("node2", {"a": ("z" * 64, 1), "b": ("y" * 64, 1)}),
    ]
    assert differences(found) == [
        "a: node1 xxxxxxxx, node2 zzzzzzzz",
        "g (forgotten): node1 tttttttt, node2 nothing",
    ]
    assert differences([found[0], found[0]]) == []


# -- the report ---------------------------------------------------------------------------------------------

WHY = {
    "name": "shared-a",
    "kind": judge.STALE,
    "text": "the read <by> node2",
    "rows": [
        {
            "client": "node1/0",
            "node": "node1",
            "what": "write",
            "value": "b-1",
            "from": 3.0,
            "to": 4.0,
            "offender": 0,
        },
        {
            "client": "node2/0",
            "node": "node2",
            "what": "read",
            "value": "a-1",
            "from": 5.0,
            "to": 6.0,
            "offender": 1,
        },
    ],
}
FACTS: dict[str, Any] = {
    "registers": {
        "names": 4,
        "writes": 100,
        "reads": 200,
        "open": 2,
        "phases": {"before": 9},
        "illegal": 0,
        "why": [],
    },
    "bites": [
        {
            "what": "kill -9",
            "node": "node1",
            "proof": "its process is gone",
            "from": 3.0,
            "to": 5.0,
            "healed": 6.0,
        },
        {
            "what": "cut off",
            "node": "node2",
            "proof": "it sees nobody",
            "from": 7.0,
            "to": 8.0,
            "healed": 9.0,
        },
    ],
    "converged": {"seconds": 1.25, "by": "by themselves", "names": 14, "differing": 1},
    "replica_promises": {"saved": 100, "names": 4, "forgotten": 10, "wrong": 0},
    "replica_damage": {
        "victim": "node1",
        "cases": 4,
        "loads": 24,
        "served": 0,
        "seconds": 2.5,
        "by": "by themselves",
    },
}


def kept(history: History) -> None:
    began = history.began
    for node, op, start, end, outcome in (
        ("node1", SAVE, 1.0, 1.1, ""),
        ("node1", LOAD, 1.2, 1.3, ""),
        ("node1", FORGET, 1.3, 1.35, ""),
        ("node2", LOAD, 7.0, 9.9, "QuorumLost"),
    ):
        done = Outcome(began + start, began + end, error=outcome)
        history.op(op, done, client=f"{node}/home/0", at=node, phase="before", name="shared-a")
    history.op(LOAD, Outcome(began, began + 20), client="node1/home/1", at="node1", phase="hurt")


def page(folder: Path, facts: dict[str, Any], state: str = "ok") -> str:
    steps = tuple(StepResult(key, key, state, "said", 0.0, 5.0) for key in ("registers", "converge"))
    nodes = ("node1", "node2")
    made = Result("run", "replicated", "process", "a test", nodes, 7, "repeat", 0.0, 10.0, steps, facts=facts)
    with History(folder / "history.jsonl") as history:
        kept(history)
        return report.render(made, history, {})


def test_each_node_has_a_lane_of_what_went_through_it_and_what_did_not(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        kept(history)
        found = replica_page.data(FACTS, history)
        assert replica_page.data({}, history) == {}
    assert (found["from"], found["to"]) == (1.0, 9.9), "other steps are not drawn"
    first, second = found["lanes"]
    assert (sum(first["writes"]), sum(first["reads"]), sum(first["failed"])) == (2, 1, 0)
    assert (sum(second["reads"]), sum(second["failed"])) == (0, 1)
    assert second["workers"][0]["long"] == [[7.0, 9.9, "load", "QuorumLost", "shared-a"]]
    assert first["workers"][0]["long"] == []
    assert "every answer is one that a single store could have given" in found["said"]


def test_the_numbers_that_people_ask_for(tmp_path: Path) -> None:
    assert [tile["number"] for tile in replica_page.tiles(FACTS)] == ["300", "2", "1.2 s", "100", "4"]
    assert replica_page.tiles({}) == []
    bad = {
        "registers": {**FACTS["registers"], "illegal": 1},
        "replica_promises": {**FACTS["replica_promises"], "wrong": 3},
        "replica_damage": {**FACTS["replica_damage"], "served": 2},
    }
    assert [(tile["number"], tile["bad"]) for tile in replica_page.tiles(bad)] == [
        ("1 / 4", True),
        ("3", True),
        ("2", True),
    ]
    helped = replica_page.tiles({"converged": {**FACTS["converged"], "by": "but by one explicit repair"}})
    assert helped[0]["text"] == "until 14 files were equal on all nodes, with an explicit repair"


def test_the_verdict_says_what_was_shown() -> None:
    steps = (StepResult("registers", "r", "ok", ""),)
    good = Result("run", "replicated", "docker", "", ("a", "b", "c"), 1, "", 0.0, 1.0, steps, facts=FACTS)
    assert good.verdict is Verdict.OK
    assert good.sentence == (
        "3 nodes peer with each other, and their replicas answer as one store: every read is of the newest version, "
        "nothing acknowledged is missing, nothing damaged served; what broke healed."
    )


def test_a_browser_draws_lanes_faults_and_the_contradiction(tmp_path: Path) -> None:
    if shutil.which("chromium") is None:
        assert not os.environ.get("CI"), "CI must have chromium"
        pytest.skip("no chromium on this machine")
    path = tmp_path / "report.html"
    facts = {**FACTS, "registers": {**FACTS["registers"], "illegal": 1, "why": [WHY]}}
    path.write_text(page(tmp_path, facts, "failed"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    drawn = subprocess.run(
        ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    drawn = re.sub(r"<script.*?</script>", "", drawn, flags=re.DOTALL)  # what it drew, not what it draws with
    assert "The replicated store, through every node" in drawn
    assert "node1 kill −9" in drawn  # noqa: RUF001  typeset in the page
    assert "node2 cut off" in drawn
    assert "the read &lt;by&gt; node2" in drawn
    assert "node2/0 reads a-1" in drawn
    assert "load of shared-a took 2.90 s: QuorumLost" in drawn
    assert not re.search(r"NaN|undefined", drawn)
