"""Heartbeats and expiry: by the volume's clock, whatever the clocks of the nodes say."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laila.agents import DistributedAgent
from laila.agents.beats import Beat
from laila.agents.layout import Layout
from laila.clock import Clock
from laila.errors import ArtifactNotFound
from tests.agents.support import finish, ids, start, until

Make = Callable[..., DistributedAgent]

ROUND_THE_CLOCK = """
import sys, time
from laila.agents import DistributedAgent
from laila.clock import Clock
name, shared, hours, beats = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])

class Off(Clock):
    def now(self): return time.monotonic() * 1.0 + hours * 1e6   # where a monotonic clock begins says nothing either
    def wall(self): return time.time() + hours * 3600

time.time = lambda real=time.time: real() + hours * 3600
time.time_ns = lambda real=time.time_ns: real() + int(hours * 3600e9)
agent = DistributedAgent(name, shared, expiry=4, clock=Off())
agent.register()
if beats:
    agent.start_heartbeat()
print("up", flush=True)
for line in sys.stdin:
    known = {one["agent_id"]: one["status"] for one in agent.agents()}
    print(sorted(known.items()), flush=True)
agent.close()
"""


def statuses(agent: DistributedAgent) -> dict[str, str]:
    return {one["agent_id"]: one["status"] for one in agent.agents()}


def test_expires_without_beats_and_comes_back(make: Make) -> None:
    """Alive after registering and after each beat, expired when it has not beaten for its expiry."""
    agent, reader = make("worker-1", expiry=1.5), make("reader")
    agent.register()
    assert statuses(reader) == {"worker-1": "active"}
    until(lambda: statuses(reader) == {"worker-1": "expired"}, "expiry")
    assert reader.get_active_agents() == []
    (known,) = reader.agents()
    assert known["age"] >= 1.5
    agent.heartbeat()
    assert statuses(reader) == {"worker-1": "active"}


def test_beats_in_the_background(make: Make) -> None:
    """Several expiries long an agent with a heart is never seen expired; closing ends the thread and the life."""
    reader = make("reader")
    agent = make("worker-1", expiry=2.5).start_heartbeat(0.2)
    assert "beating" in repr(agent)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        assert statuses(reader) == {"worker-1": "active"}
        time.sleep(0.05)
    assert agent.trouble is None
    agent.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("laila-heart")]
    until(lambda: statuses(reader) == {"worker-1": "expired"}, "expiry")


def test_each_agent_has_its_own_expiry(make: Make) -> None:
    """A reader takes the expiry that the agent signed, not its own."""
    make("short", expiry=0.3).register()
    make("long", expiry=100).register()
    reader = make("reader", expiry=50)
    until(lambda: statuses(reader) == {"long": "active", "short": "expired"}, "expiry of the short one")


def test_heartbeat_before_registering(make: Make) -> None:
    """An error that says what to do first."""
    with pytest.raises(ArtifactNotFound, match="call register"):
        make("worker-1").heartbeat()


def test_clocks_hours_apart(shared: Path, make: Make) -> None:
    """Nodes whose clocks are hours off in both directions: all see each other alive, and only the killed one expire."""
    hours = {"behind": -9.0, "right": 0.0, "ahead": 7.5}
    children = {name: start(ROUND_THE_CLOCK, name, shared, off, 1) for name, off in hours.items()}
    reader = make("reader")
    try:
        for child in children.values():
            assert child.stdout is not None
            assert child.stdout.readline() == "up\n"

        def seen_by(name: str) -> str:
            child = children[name]
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        alive = str([("ahead", "active"), ("behind", "active"), ("right", "active")])
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert {name: seen_by(name) for name in hours} == dict.fromkeys(hours, alive)
            assert len(make("fresh").get_active_agents()) == 3
            time.sleep(0.2)
        for dead in ("ahead", "behind"):
            children[dead].kill()
        until(lambda: ids(reader.get_active_agents()) == ["right"], "the killed ones expired")
        assert ids(make("fresh").get_active_agents()) == ["right"]
        assert seen_by("right") == alive.replace("'active'", "'expired'", 2)
    finally:
        for child in children.values():
            child.kill()
            child.communicate()


def test_file_times_decide_nothing_while_agents_beat(make: Make, shared: Path) -> None:
    """Times of the beats' files hours off, in both directions: who is alive stays alive, who is dead stays dead."""
    make("dead", expiry=0.5).register()
    reader = make("reader")
    make("alive", expiry=5).start_heartbeat(0.2)
    until(lambda: statuses(reader) == {"alive": "active", "dead": "expired"}, "expiry")
    now = time.time()
    for hours in (5, -5):
        for path in (shared / "agents").iterdir():
            os.utime(path, (now + hours * 3600, now + hours * 3600))
        assert statuses(make("fresh")) == statuses(reader) == {"alive": "active", "dead": "expired"}


def test_a_dead_fleet_is_dead_at_the_first_look(shared: Path, make: Make) -> None:
    """Nobody has beaten since yesterday: a new reader, and a new agent, see that at once."""
    for number in range(3):
        finish(start("import sys\nfrom laila.agents import DistributedAgent\n"
                     "DistributedAgent(sys.argv[2], sys.argv[1]).register()", shared, f"worker-{number}"))  # fmt: skip
    assert len(make("reader").get_active_agents()) == 3
    yesterday = time.time() - 86_400
    for path in (shared / "agents" / ".clock").iterdir():
        os.utime(path, (yesterday, yesterday))
    assert set(statuses(make("reader")).values()) == {"expired"}
    new = make("new")
    new.register()
    assert ids(new.get_active_agents()) == ["new"]
    assert ids(make("reader").get_active_agents()) == ["new"]


def test_where_file_times_prove_nothing(shared: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where file times come from many clocks, hours off, the living are found by watching, and the dead too."""
    monkeypatch.setattr(Layout, "one_kernel", lambda self: False)
    child = start(ROUND_THE_CLOCK, "alive", shared, 0, 1)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        make("dead", expiry=0.2).register()
        clock = shared / "agents" / ".clock"

        def hours_ago() -> None:
            for path in clock.iterdir():
                os.utime(path, (time.time() - 7200, time.time() - 7200))

        time.sleep(0.8)
        hours_ago()
        assert ids(make("reader").get_active_agents()) == ["alive"]
        child.kill()
        hours_ago()
        assert make("another").get_active_agents() == []
        last = make("last", expiry=3)
        last.register()
        assert ids(last.get_active_agents()) == ["last"]
    finally:
        child.kill()
        child.communicate()


def test_clock_files_removed(make: Make, shared: Path) -> None:
    """An operator removes the clock's directory: the beats know the time, and it goes on from there."""
    agent, reader = make("worker-1", expiry=1.5), make("reader")
    agent.register()
    time.sleep(0.2)
    agent.heartbeat()
    shutil.rmtree(shared / "agents" / ".clock")
    assert statuses(make("fresh")) == {"worker-1": "active"}
    agent.heartbeat()
    assert statuses(reader) == {"worker-1": "active"}
    until(lambda: statuses(reader) == {"worker-1": "expired"}, "expiry")
    time.sleep(0.2)  # the next one goes by file times, which are some milliseconds coarse
    make("alive", expiry=60).register()
    shutil.rmtree(shared / "agents" / ".clock")
    assert statuses(make("fresh")) == {"alive": "active", "worker-1": "expired"}
    make("new", expiry=1).register()
    assert statuses(make("fresh")) == {"alive": "active", "new": "active", "worker-1": "expired"}


def test_trouble_is_told_and_passes(make: Make, shared: Path) -> None:
    """A heart that cannot write says so, goes on trying, and says that it is well again."""
    agent = make("worker-1", expiry=0.6).start_heartbeat(0.05)
    beat = shared / "agents" / "worker-1.beat"
    beat.unlink()
    beat.mkdir()
    until(lambda: agent.trouble is not None, "trouble")
    assert "worker-1.beat" in str(agent.trouble)
    beat.rmdir()
    until(lambda: agent.trouble is None, "no trouble")


def test_heart_stops_when_the_agent_is_gone(make: Make, nodes: object) -> None:
    """Deregistered by another program of the same node: the heart notices and ends."""
    agent = make("worker-1", expiry=0.6).start_heartbeat(0.05)
    make("worker-1").deregister()
    until(lambda: agent.trouble is not None, "the heart noticed")
    assert isinstance(agent.trouble, ArtifactNotFound)
    until(lambda: "beating" not in repr(agent), "the heart ended")
    assert statuses(agent) == {"worker-1": "gone"}


def test_beats_are_small_and_checked(tmp_path: Path) -> None:
    """A line per agent, rewritten in place; a torn or foreign one counts as none."""
    path = tmp_path / "a.beat"
    beat = Beat("0" * 31 + "a", 7, 123_456)
    beat.write(path)
    assert Beat.read(path) == beat
    inode = path.stat().st_ino
    for count in range(5):
        Beat(beat.instance, count, 10**14).write(path)
    assert (path.stat().st_ino, path.stat().st_size) == (inode, 87)
    line = path.read_bytes()
    for torn in (line[:-1], line[:70] + beat.encode()[70:], line + b"x", b"", b"x" * 87, line.replace(b"1 ", b"2 ", 1),
                 Beat(beat.instance, 1, 10**14 + 1).encode()):  # fmt: skip
        path.write_bytes(torn)
        assert Beat.read(path) is None
    assert Beat.read(tmp_path / "none.beat") is None


def test_wall_clock_is_for_people(make: Make) -> None:
    """`last_seen` is on the reader's own clock."""

    class Off(Clock):
        def wall(self) -> float:
            return time.time() - 36_000

    make("worker-1").register()
    (known,) = make("reader", clock=Off()).agents()
    from datetime import datetime

    assert abs(datetime.fromisoformat(known["last_seen"]).timestamp() - (time.time() - 36_000)) < 30
