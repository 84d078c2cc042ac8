"""The seed's programs and ours in one directory: each sees the other's work, and the seed's holes are closed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from laila.agents import DistributedAgent
from laila.agents.turn import Turn
from laila.maif import load_maif
from tests.agents.support import SEED, finish, ids, run, seed_class, start

Make = Callable[..., DistributedAgent]

REGISTER_MANY = """
import sys
from tests.agents.support import seed_class
from laila.agents import DistributedAgent
kind, shared, number = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for count in range(25):
    agent = (DistributedAgent if kind == "ours" else seed_class())(f"agent-{number}-{count}", shared)
    agent.register()
    print(agent.agent_id)
"""


def eight_times_25(kind: str, shared: Path) -> set[str]:
    """Eight processes register 25 agents each, all at once; those that were acknowledged."""
    children = [start(REGISTER_MANY, kind, shared, number) for number in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    done = {line for child in children for line in finish(child).split()}
    assert len(done) == 200
    return done


def test_the_seed_loses_registrations(shared: Path) -> None:
    """Load, add, save without a lock: of 200 acknowledged registrations some are not there."""
    done = eight_times_25("naive", shared)
    assert set(ids(seed_class()("reader", str(shared)).get_active_agents())) < done


def test_ours_loses_none(shared: Path, make: Make) -> None:
    """The same with ours: all 200 are there, for our reader and for the seed's."""
    done = eight_times_25("ours", shared)
    assert set(ids(make("reader").get_active_agents())) == done
    listed = ids(seed_class()("reader", str(shared)).get_active_agents())
    assert (len(listed), set(listed)) == (200, done)


def test_the_seeds_program_runs_on_ours(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its usage, line by line, with our class in the place of its own."""
    usage = SEED.read_text(encoding="utf-8").partition("# Usage")[2]
    assert "/mnt/shared/coordination" in usage
    names = {"DistributedAgent": DistributedAgent}
    exec(compile(usage.replace("/mnt/shared/coordination", str(shared)), str(SEED), "exec"), names)  # noqa: S102
    assert capsys.readouterr().out == ("Result from worker-1: {'output': 'completed', 'data': [1, 2, 3]}\n")


def test_the_seed_reads_ours(shared: Path, make: Make) -> None:
    """Registrations and results of ours, by the seed's own code."""
    ours = make("worker-1", capabilities=["resize"])
    ours.register()
    ours.publish_result("task-1", {"n": [1, 2.5, None, "é"]})
    seed = seed_class()("worker-2", str(shared))
    (agent,) = seed.get_active_agents()
    assert (agent["agent_id"], agent["status"]) == ("worker-1", "active")
    assert agent["registered_at"]
    result = seed.get_result("task-1")
    assert (result["agent_id"], result["task_id"], result["result"]) == (
        "worker-1", "task-1", {"n": [1, 2.5, None, "é"]},
    )  # fmt: skip
    titles = [item["title"] for item in load_maif(shared / "agent_states.maif").get_content_list()]
    assert titles == ["Agent Registration: worker-1"]


def test_ours_reads_the_seed(shared: Path, make: Make) -> None:
    """Registrations and results of the seed's own code, by ours, with who signed them."""
    seed = seed_class()("worker-2", str(shared))
    seed.register()
    seed.publish_result("task-2", {"a": 1})
    ours = make("worker-1")
    ours.register()
    by_id = {one["agent_id"]: one for one in ours.get_active_agents()}
    assert sorted(by_id) == ["worker-1", "worker-2"]
    assert by_id["worker-2"]["last_seen"] is None
    result = ours.get_result("task-2")
    assert result is not None
    assert (result["agent_id"], result["result"], result["registered"]) == ("worker-2", {"a": 1}, False)
    assert result["signed_by"].startswith("node ")
    assert [(one["task_id"], one["status"]) for one in ours.results()] == [("task-2", "ok")]


def test_deregistered_agents_vanish_for_the_seed(shared: Path, make: Make) -> None:
    """The summary has those who are registered, each once, whatever they did before."""
    first, second = make("worker-1"), make("worker-2")
    for agent in (first, second, first, second, first):
        agent.register()
    assert sorted(ids(seed_class()("r", str(shared)).get_active_agents())) == ["worker-1", "worker-2"]
    first.deregister()
    assert ids(seed_class()("r", str(shared)).get_active_agents()) == ["worker-2"]


def test_what_the_seed_overwrites_is_put_back(shared: Path, make: Make) -> None:
    """A summary that the seed's code loaded early and saved late lacks what came between; registering heals it."""
    make("worker-1").register()
    state = load_maif(shared / "agent_states.maif")
    make("worker-2").register()
    state.add_text(
        json.dumps({"agent_id": "late", "registered_at": "now", "status": "active"}),
        title="Agent Registration: late",
    )
    state.save(shared / "agent_states.maif", sign=True)
    seed = seed_class()("r", str(shared))
    assert sorted(ids(seed.get_active_agents())) == ["late", "worker-1"]
    reader = make("worker-3")
    assert ids(reader.get_active_agents()) == ["late", "worker-1", "worker-2"]
    reader.register()
    assert sorted(ids(seed.get_active_agents())) == ["late", "worker-1", "worker-2", "worker-3"]


def test_what_the_seed_overwrites_was_published_once(shared: Path, make: Make) -> None:
    """The seed's code replaces a result; ours still gives what its agent published first, and publishes no other."""
    ours = make("worker-1")
    ours.register()
    ours.publish_result("task-1", {"n": 1})
    seed_class()("worker-1", str(shared)).publish_result("task-1", {"n": 2})
    assert ours.get_result("task-1")["result"] == {"n": 1}  # type: ignore[index]
    assert sorted(one["result"]["n"] for one in ours.get_results("task-1")) == [1, 2]


def test_what_the_seed_saves_in_between_is_kept(
    shared: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seed's code, which takes no lock, saves after ours has read the summary and before it replaces it."""
    make("worker-1").register()
    guard, late = Turn.guard, ["late-1", "late-2"]

    def guarded(self: Turn, path: Path) -> None:
        if late and path.name == "agent_states.maif":
            seed_class()(late.pop(), str(shared)).register()
        guard(self, path)

    monkeypatch.setattr(Turn, "guard", guarded)
    make("worker-2").register()
    seen = sorted(ids(seed_class()("r", str(shared)).get_active_agents()))
    assert seen == ["late-1", "late-2", "worker-1", "worker-2"]


def test_seed_and_ours_side_by_side(shared: Path, make: Make) -> None:
    """While the seed's code registers and registers, ours lose nothing."""
    noise = start(
        "import sys\nfrom tests.agents.support import seed_class\n"
        "for n in range(60):\n    seed_class()(f'noise-{n % 5}', sys.argv[1]).register()",
        shared,
    )
    for number in range(20):
        make(f"worker-{number}").register()
    finish(noise)
    expected = {f"worker-{number}" for number in range(20)}
    assert expected <= set(ids(make("reader").get_active_agents()))
    make("last").register()
    assert expected <= set(ids(seed_class()("r", str(shared)).get_active_agents()))


def test_long_names_reach_the_seed(shared: Path, make: Make) -> None:
    """Names as long as may be, and in other letters, are in the summary too."""
    names = ["a" * 120, "é" * 60, "名前.1", "b" * 119 + "1"]
    for name in names:
        make(name).register()
    assert sorted(ids(seed_class()("r", str(shared)).get_active_agents())) == sorted(names)
    assert list((shared / "agents" / ".pending").iterdir()) == []


def test_versions_of_the_summary(shared: Path, make: Make) -> None:
    """Each rewrite is the next version of one lineage, whoever writes it."""
    first, second = make("worker-1"), make("worker-2")
    root, sequence = "", 0
    for agent in (first, first, second, first, second):
        agent.register()
        state = load_maif(shared / "agent_states.maif")
        assert (state.name, state.history[-1].parent) == ("agent_states", root)
        assert state.sequence > sequence
        assert sequence == 0 or state.sequence == sequence + 1
        root, sequence = state.root, state.sequence


def test_names_stay_inside(shared: Path, make: Make) -> None:
    """The seed's code writes outside of its directory when a task's name says so; ours refuses the name."""
    outside = shared.parent / "escape.maif"
    seed_class()("worker", str(shared)).publish_result("../../escape", {})
    assert outside.exists()
    for name in ("../escape", "../../escape", "a/b", "", ".hidden", "-rf", "a\nb", "x" * 200):
        with pytest.raises(ValueError, match="cannot name"):
            make(name)
        for call in (
            lambda n: make("ok").publish_result(n, {}),
            make("ok").get_result,
            make("ok").get_results,
        ):
            with pytest.raises(ValueError, match="cannot name a task"):
                call(name)


def test_doctests() -> None:
    """The examples in the docstrings."""
    run("import doctest, laila.agents.agent as a, laila.agents.directory as d\n"
        "assert (doctest.testmod(a).attempted, doctest.testmod(d).attempted) > (0, 0)\n"
        "assert not doctest.testmod(a).failed + doctest.testmod(d).failed")  # fmt: skip
