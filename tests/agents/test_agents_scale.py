"""Thousands of agents and results: what is written grows with their number, not with its square."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from laila.agents import DistributedAgent
from laila.agents.directory import Directory
from tests.agents.support import seed_class

AGENTS = 2000


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: what is counted here are bytes, not how fast a disk is."""
    memory = Path("/dev/shm")  # noqa: S108  # a fresh directory is made in it
    path = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else tmp_path))
    yield path
    shutil.rmtree(path)


def written() -> int:
    """Bytes that this process has handed to the kernel so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("wchar:")).split()[1])


def test_thousands_of_agents_and_results(roomy: Path) -> None:
    """2,000 agents and 2,000 results: all are listed, and a late one costs what an early one did."""
    marks = {0: written()}
    for number in range(1, AGENTS + 1):
        name, can = f"worker-{number:05}", [f"c{number % 10}"]
        with DistributedAgent(name, roomy, capabilities=can, expiry=3600) as agent:
            agent.register()
        if number in (500, 1000, AGENTS):
            marks[number] = written()
    each_early = (marks[1000] - marks[500]) / 500
    each_late = (marks[AGENTS] - marks[1000]) / (AGENTS - 1000)
    assert each_late < 2 * each_early
    assert marks[AGENTS] - marks[0] < 200_000_000, "one rewrite for each would have been 2.4 GB"
    with DistributedAgent("publisher", roomy) as agent:
        before = written()
        for number in range(AGENTS):
            agent.publish_result(f"task-{number:05}", {"n": number})
        assert (written() - before) / AGENTS < 10_000
        assert len(agent.get_active_agents("c3")) == AGENTS // 10
        results = agent.results()
        assert (len(results), {one["status"] for one in results}) == (AGENTS, {"ok"})
        assert agent.get_result("task-01999")["result"] == {"n": 1999}  # type: ignore[index]
        fresh = Directory(roomy, agent.trust)
        assert len(fresh.active_agents()) == len(fresh.agents()) == AGENTS
    listed = len(seed_class()("r", str(roomy)).get_active_agents())
    assert AGENTS * 3 // 4 <= listed <= AGENTS, "the summary may lag by a quarter, and by no more"
