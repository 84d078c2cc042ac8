"""The fault agent in networks of its own: three namespaces on a bridge, real packets, an end that undoes everything."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_support import until

from laila.errors import LabError
from laila.lab.drivers import agents
from laila.lab.remote import RemoteClient

RUN = "20250101-000000-a9e27e57"
DROP = {"direction": "both"}


def _needs() -> str:
    if why := agents.no_rights():
        return why
    missing = [
        name
        for name in ("ip", "tc", "iptables", "unshare", "nsenter", "setpriv")
        if shutil.which(name) is None
    ]
    return f"there is no {', '.join(missing)}" if missing else ""


pytestmark = pytest.mark.skipif(bool(_needs()), reason=f"namespaces cannot be made here: {_needs()}")


class Place:
    """A namespace with an address, held open by a process that does nothing."""

    def __init__(self, number: int) -> None:
        self.ip = f"10.77.0.{number}"
        self.ip6 = f"fd77::{number}"
        # Disks of other tests, which were mounted just now, must not be held by this one.
        let_go = "awk '$1 ~ /loop/ {print $2}' /proc/mounts | xargs -r umount -l"
        self.process = subprocess.Popen(
            ["unshare", "-n", "-m", "sh", "-c", f"{let_go}; echo here; exec sleep 600"],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        self.pid = self.process.pid

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-n", "-m", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def plug(self, switch: Place, number: int) -> None:
        """A cable to the bridge."""
        port = f"port{number}"
        switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.pid))
        switch.run("ip", "link", "set", port, "master", "bridge", "up")
        self.run("ip", "address", "add", f"{self.ip}/24", "dev", "eth0")
        self.run("ip", "address", "add", f"{self.ip6}/64", "dev", "eth0", "nodad")
        for device in ("eth0", "lo"):
            self.run("ip", "link", "set", device, "up")

    def rules(self) -> str:
        """All that faults can leave in this network."""
        tables = [self.run(program, "-t", table, "-S") for program in ("iptables", "ip6tables")
                  for table in ("filter", "mangle")]  # fmt: skip
        return "".join(tables) + self.run("tc", "qdisc", "show", "dev", "eth0")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Agent(RemoteClient):
    """An agent in a place, on this host as the drivers start it."""

    def __init__(self, place: Place, *, lease: float = 0.0) -> None:
        self.place = place
        self.channel: Any = agents.start_here(place.pid, RUN, lease=lease)
        super().__init__(None, "a place", channel=self.channel)  # type: ignore[arg-type]  # it is asked for nothing
        self.pid = int(self.must("hello")["pid"])

    def filter(self, fault: str, *rules: dict[str, Any]) -> None:
        self.must("filter", fault=fault, rules=list(rules))

    def sink(self) -> int:
        return int(self.must("sink")["port"])

    def dials(self, other: Agent, within: float = 0.6, **words: Any) -> str:
        aim = {"host": other.place.ip, "port": other.sink(), "trips": 1, "within": within, **words}
        return str(self.must("probe", **aim)["outcome"])

    def trip(self, other: Agent) -> float:
        """The mean of some round trips, in milliseconds."""
        words = {"host": other.place.ip, "port": other.sink(), "trips": 8, "within": 5}
        return statistics.fmean(self.must("probe", timeout=30, **words)["trips"]) * 1000

    def kbit(self, other: Agent, nbytes: int) -> float:
        words = {"host": other.place.ip, "port": other.sink(), "seconds": 8, "bytes": nbytes, "within": 10}
        took = self.must("pour", timeout=30, **words)
        assert took["bytes"] == nbytes
        return float(took["bytes"] * 8 / 1000 / max(took["seconds"], 1e-6))

    def end(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        self.close()

    def packets(self, fault: str) -> int:
        return int(self.must("counters", fault=fault)["packets"])


@pytest.fixture(scope="module")
def places() -> Iterator[list[Place]]:
    """Three that reach each other."""
    switch, *found = (Place(number) for number in range(4))
    try:
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        for number, place in enumerate(found, 1):
            place.plug(switch, number)
        yield found
    finally:
        for place in (switch, *found):
            place.end()


@pytest.fixture
def clean(places: list[Place]) -> Iterator[list[str]]:
    """What the networks have in them before a test is what they have after it."""
    before = [place.rules() for place in places]
    yield before
    agents.end(RUN)
    assert [place.rules() for place in places] == before


@pytest.fixture
def crew(places: list[Place], clean: list[str]) -> Iterator[list[Agent]]:
    """An agent in each place."""
    opened = [Agent(place) for place in places]
    yield opened
    for agent in opened:
        agent.close()


# -- what it does to packets


def test_it_says_where_it_is_and_what_it_has(crew: list[Agent], places: list[Place]) -> None:
    hello = crew[0].must("hello")
    assert (hello["uid"], hello["target"], hello["alive"]) == (0, places[0].pid, True)
    assert hello["namespaces"]["net"] == os.stat(f"/proc/{places[0].pid}/ns/net").st_ino  # noqa: PTH116  a link
    assert hello["devices"] == ["eth0"]
    assert hello["tools"]["iptables"].endswith("iptables")


def test_a_dropped_peer_is_silent_both_ways_and_the_others_are_not(crew: list[Agent]) -> None:
    a, b, c = crew
    a.filter("cut1", {**DROP, "peers": [b.place.ip]})
    assert [a.dials(b), b.dials(a)] == ["timed out", "timed out"]
    assert [arrived(a, b, "out00000"), arrived(b, a, "in000000")] == [0, 0]
    assert [a.dials(c, 5), c.dials(a, 5), b.dials(c, 5)] == ["connected"] * 3
    assert a.packets("cut1") >= 2
    assert a.must("clear", fault="cut1") == {"found": True}
    assert a.must("clear", fault="cut1") == {"found": False}
    assert a.dials(b, 5) == "connected"


def test_a_peer_with_an_ipv6_address_is_dropped_there_too(crew: list[Agent]) -> None:
    a, b, _ = crew
    assert a.dials(b, 5, host=b.place.ip6) == "connected"
    a.filter("six", {**DROP, "peers": [b.place.ip, b.place.ip6]})
    assert [a.dials(b, host=b.place.ip6), a.dials(b)] == ["timed out", "timed out"]


def test_one_direction_is_dropped_and_the_other_is_not(crew: list[Agent]) -> None:
    a, b, _ = crew
    a.filter("way", {"direction": "in", "peers": [b.place.ip]})
    assert arrived(a, b, "waytoooo") == 100
    assert arrived(b, a, "wayfroom") == 0


def arrived(near: Agent, far: Agent, tag: str, count: int = 100) -> int:
    sent = near.must("burst", host=far.place.ip, port=far.sink(), tag=tag, count=count, rate=5000)
    assert sent["sent"] == count
    seen = -1
    while (now := int(far.must("counted", tag=tag)["arrived"])) != seen:
        seen = now
        time.sleep(0.2)
    return seen


def test_some_are_lost_by_chance(crew: list[Agent]) -> None:
    a, b, _ = crew
    b.filter("loss", {"direction": "in", "peers": [a.place.ip], "chance": 0.3})
    lost = 2000 - arrived(a, b, "lossloss", 2000)
    assert 480 < lost < 720, "30 % of 2000, six deviations more or less"
    assert b.packets("loss") == lost


def test_new_connections_are_refused_and_standing_ones_go_on(crew: list[Agent]) -> None:
    a, b, _ = crew
    held = a.must("dial", host=b.place.ip, port=b.sink())["connection"]
    b.filter(
        "no", {"direction": "in", "peers": [a.place.ip], "proto": "tcp", "packets": "new", "action": "reset"}
    )
    assert a.dials(b) == "refused"
    assert b.dials(a, 5) == "connected"
    assert a.must("exchange", connection=held)["outcome"] == "answered"
    a.must("hang_up", connection=held)


def test_one_connection_is_reset_at_both_ends_by_its_ports(crew: list[Agent]) -> None:
    a, b, _ = crew
    first, second = (a.must("dial", host=b.place.ip, port=b.sink()) for _ in range(2))
    standing = b.must("connections", peers=[a.place.ip])["connections"]
    assert {tuple(one) for one in standing} == {
        (b.place.ip, b.sink(), a.place.ip, one["local_port"]) for one in (first, second)
    }
    ports = {"local_port": b.sink(), "peer_port": first["local_port"]}
    words = {"direction": "both", "proto": "tcp", "packets": "open", "action": "reset"}
    b.filter("rst", {**words, **ports, "peers": [a.place.ip]})
    assert a.must("exchange", connection=first["connection"])["outcome"] == "reset"
    assert a.must("exchange", connection=second["connection"])["outcome"] == "answered"
    assert a.dials(b, 5) == "connected"


def test_packets_from_one_peer_are_late_and_those_from_another_are_not(crew: list[Agent]) -> None:
    a, b, c = crew
    did = a.must("delay", fault="late", peers=[b.place.ip], ms=80)
    assert did["by"] in ("queue", "netem")
    assert 75 < a.trip(b) < 400
    assert 75 < b.trip(a) < 400, "what asks is late too"
    until(lambda: max(a.trip(c), c.trip(a), b.trip(c)) < 40, "the others to be quick")
    assert a.packets("late") > 16
    a.must("clear", fault="late")
    until(lambda: a.trip(b) < 40, "it to be over")


def test_a_late_link_is_not_a_narrow_one(crew: list[Agent]) -> None:
    a, b, _ = crew
    b.must("delay", fault="late", peers=[a.place.ip], ms=40)
    assert a.kbit(b, 4_000_000) > 4000


RECEIVER = """
import json, socket, sys
taker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); taker.bind(("", 7007)); taker.settimeout(10)
print("ready", flush=True)
print(json.dumps([int(taker.recv(100)) for _ in range(300)]))
"""
SENDER = """
import socket, sys, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(300): out.sendto(b"%d" % n, (sys.argv[1], 7007)); time.sleep(0.001)
"""


def test_a_flow_with_jitter_keeps_its_order(crew: list[Agent], places: list[Place]) -> None:
    a, b, _ = places
    crew[1].must("delay", fault="shaky", peers=[a.ip], ms=30, jitter_ms=30)
    words = ["nsenter", "-t", str(b.pid), "-n", sys.executable, "-c", RECEIVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        a.run(sys.executable, "-c", SENDER, b.ip)
        assert json.loads(receiver.communicate(timeout=30)[0]) == list(range(300))


def test_traffic_flows_again_when_the_holder_of_packets_dies(crew: list[Agent]) -> None:
    a, b, _ = crew
    did = a.must("delay", fault="late", peers=[b.place.ip], ms=300)
    if did["by"] != "queue":
        pytest.skip("the kernel delays by itself here")
    assert a.trip(b) > 290
    os.kill(did["holder"], signal.SIGKILL)
    until(lambda: a.trip(b) < 100, "packets to pass")


def test_one_peer_gets_little_and_another_all(crew: list[Agent]) -> None:
    a, b, c = crew
    a.must("shape", fault="thin", peers=[b.place.ip], kbit=800)
    assert 300 < a.kbit(b, 100_000) < 1100
    assert a.kbit(c, 1_000_000) > 5000
    assert b.kbit(a, 1_000_000) > 5000
    assert a.packets("thin") > 10


def test_faults_on_one_network_do_not_disturb_each_other(crew: list[Agent]) -> None:
    a, b, c = crew
    a.must("shape", fault="thin1", peers=[b.place.ip], kbit=800)
    a.must("shape", fault="thin2", peers=[c.place.ip], kbit=4000)
    a.must("delay", fault="late1", peers=[b.place.ip], ms=60)
    assert a.trip(b) > 55
    assert 300 < a.kbit(b, 100_000) < 1100
    assert 1500 < a.kbit(c, 500_000) < 5500
    a.must("clear", fault="thin1")
    assert a.kbit(b, 500_000) > 1500
    assert 1500 < a.kbit(c, 500_000) < 5500
    assert a.must("left")["faults"] == ["late1", "thin2"]


def test_a_queueing_discipline_of_somebody_else_is_left_alone(crew: list[Agent], places: list[Place]) -> None:
    theirs = ["tbf", "rate", "1gbit", "burst", "1m", "latency", "10ms"]
    places[0].run("tc", "qdisc", "add", "dev", "eth0", "root", *theirs)
    try:
        before = places[0].rules()
        with pytest.raises(LabError, match="somebody's own"):
            crew[0].must("shape", fault="thin", peers=[places[1].ip], kbit=800)
        assert places[0].rules() == before
    finally:
        places[0].run("tc", "qdisc", "del", "dev", "eth0", "root")


# -- what it does to mounts


@pytest.fixture
def directory(places: list[Place], tmp_path: Path) -> str:
    """One that is a mount of the place alone, with a file."""
    path = tmp_path / "a state"
    path.mkdir()
    (path / "file").write_text("kept", encoding="utf-8")
    places[0].run("mount", "--bind", str(path), str(path))
    return str(path)


def test_a_directory_is_covered_for_one_node_alone(
    crew: list[Agent], places: list[Place], directory: str
) -> None:
    a = crew[0]
    did = a.must("cover", fault="gone", path=directory)
    assert (did["was"], did["depth"], did["kind"], did["source"]) == (1, 2, "tmpfs", "laila-gone")
    assert places[0].run("ls", directory) == ""
    with pytest.raises(AssertionError, match="Read-only file system"):
        places[0].run("touch", f"{directory}/new")
    assert Path(directory, "file").read_text(encoding="utf-8") == "kept", "nobody else sees it"
    assert a.must("uncover", path=directory, depth=1)["depth"] == 1
    assert places[0].run("cat", f"{directory}/file") == "kept"
    assert a.must("uncover", path=directory, depth=1)["depth"] == 1, "once more is no error"


def test_a_directory_is_read_only_until_it_is_cleared(
    crew: list[Agent], places: list[Place], directory: str
) -> None:
    a = crew[0]
    assert a.must("mounts", path=directory)["read_only"] is False
    did = a.must("remount", fault="ro", path=directory)
    assert (did["was"], did["depth"], did["read_only"]) == (1, 2, True)
    assert places[0].run("cat", f"{directory}/file") == "kept"
    with pytest.raises(AssertionError, match="Read-only file system"):
        places[0].run("touch", f"{directory}/new")
    a.must("clear", fault="ro")
    assert a.must("mounts", path=directory)["depth"] == 1
    places[0].run("touch", f"{directory}/new")


@pytest.mark.parametrize("act", ["cover", "remount"])
def test_what_is_mounted_goes_with_the_agent(
    crew: list[Agent], places: list[Place], directory: str, act: str
) -> None:
    crew[0].must(act, fault="m1", path=directory)
    crew[0].close()
    places[0].run("touch", f"{directory}/new")


def test_another_agent_clears_a_cover_that_a_killed_one_left(
    crew: list[Agent], places: list[Place], directory: str
) -> None:
    crew[0].must("cover", fault="m2", path=directory)
    crew[0].end(signal.SIGKILL)
    assert places[0].run("ls", directory) == ""
    second = Agent(places[0])
    assert second.must("clear", fault="m2") == {"found": True}
    second.close()
    assert places[0].run("cat", f"{directory}/file") == "kept"


# -- how it ends


def break_all(agent: Agent, peer: str) -> None:
    """Every kind of thing that it does to packets."""
    agent.filter("e1", {**DROP, "peers": [peer]})
    agent.must("shape", fault="e2", peers=[peer], kbit=500)
    agent.must("delay", fault="e3", peers=[peer], ms=50)
    assert agent.must("hello")["faults"] == ["e1", "e2", "e3"]


@pytest.mark.parametrize("how", ["end of input", "SIGTERM", "SIGHUP", "SIGINT", "lease"])
def test_everything_is_undone_at_its_end(places: list[Place], clean: list[str], how: str) -> None:
    agent = Agent(places[0], lease=1.5 if how == "lease" else 0.0)
    break_all(agent, places[1].ip)
    assert places[0].rules() != clean[0]
    if how.startswith("SIG"):
        os.kill(agent.pid, signal.Signals[how])
    if how == "end of input":
        agent.close()
    until(lambda: places[0].rules() == clean[0], "it to undo everything")
    agent.close()


def test_a_lease_that_is_renewed_does_not_run_out(places: list[Place], clean: list[str]) -> None:
    agent = Agent(places[0], lease=1.0)
    agent.filter("kept", {**DROP, "peers": [places[1].ip]})
    for _ in range(6):
        time.sleep(0.3)
        assert agent.must("lease", seconds=1.0)["seconds"] == 1.0
    assert "LAILA-kept" in places[0].rules()
    agent.must("lease", seconds=0.1)
    until(lambda: agent.gone, "it to end")
    agent.close()


def test_a_detached_agent_goes_on_until_its_time(places: list[Place], clean: list[str]) -> None:
    agent = Agent(places[0])
    break_all(agent, places[1].ip)
    agent.must("detach", seconds=4)
    began = time.monotonic()
    agent.close()
    assert time.monotonic() - began < 3, "whoever started it need not wait"
    assert "LAILA-e3" in places[0].rules()
    assert len(agents.living(RUN)) >= 1
    until(lambda: places[0].rules() == clean[0], "its time to be over")
    until(lambda: not agents.living(RUN), "it to end")


def test_a_detached_agent_ends_when_somebody_else_has_undone_it(
    places: list[Place], clean: list[str]
) -> None:
    agent = Agent(places[0])
    break_all(agent, places[1].ip)
    agent.must("detach", seconds=600)
    agent.close()
    second = Agent(places[0])
    for fault in second.must("left")["faults"]:
        second.must("clear", fault=fault)
    second.close()
    assert places[0].rules() == clean[0]
    until(lambda: not agents.living(RUN), "the first one to see it")


def test_another_agent_clears_what_a_killed_one_left(places: list[Place], clean: list[str]) -> None:
    agent = Agent(places[0])
    break_all(agent, places[1].ip)
    agent.end(signal.SIGKILL)
    assert places[0].rules() != clean[0], "nobody has undone it"
    second = Agent(places[0])
    assert second.must("left")["faults"] == ["e1", "e2", "e3"]
    for fault in ("e1", "e2", "e3"):
        assert second.must("clear", fault=fault) == {"found": True}
    assert places[0].rules() == clean[0]
    second.close()


def test_it_says_when_what_it_was_started_for_is_gone() -> None:
    place = Place(9)
    agent = Agent(place)
    place.end()
    assert agent.must("hello")["alive"] is False
    with pytest.raises(LabError, match="is gone"):
        agent.must("cover", fault="x", path="/tmp")  # noqa: S108  of a namespace that is gone
    agent.close()


def test_no_agent_where_there_is_no_such_process() -> None:
    place = Place(9)
    place.end()
    channel = agents.start_here(place.pid, RUN)
    assert list(channel.lines()) == []
    assert f"cannot enter the net namespace of process {place.pid}: No such file" in channel.stderr()
    assert channel.close() == 2


# -- bad input

BAD: tuple[Any, ...] = (
    {"op": "nope"},
    {"op": None},
    [],
    "text",
    7,
    {"op": "filter"},
    {"op": "filter", "fault": "UPPER", "rules": [{"peers": ["10.0.0.1"]}]},
    {"op": "filter", "fault": "a b; reboot", "rules": [{"peers": ["10.0.0.1"]}]},
    {"op": "filter", "fault": "ok", "rules": []},
    {"op": "filter", "fault": "ok", "rules": [7]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": []}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1\n-A INPUT -j DROP"]}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1"], "action": "explode"}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1"], "action": "reset"}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1"], "chance": 2}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1"], "chance": float("nan")}]},
    {"op": "filter", "fault": "ok", "rules": [{"peers": ["10.0.0.1"], "local_port": 80}]},
    {"op": "shape", "fault": "ok", "peers": ["10.0.0.1"], "kbit": True},
    {"op": "shape", "fault": "ok", "peers": ["10.0.0.1"]},
    {"op": "delay", "fault": "ok", "peers": ["10.0.0.1"], "ms": -1},
    {"op": "delay", "fault": "ok", "peers": "10.0.0.1", "ms": 5},
    {"op": "cover", "fault": "ok", "path": "relative"},
    {"op": "cover", "fault": "ok", "path": "/no/such/place"},
    {"op": "remount", "fault": "ok", "path": "/no\0such"},
    {"op": "uncover", "path": "/", "depth": -1},
    {"op": "probe", "host": "10.77.0.2", "port": 0},
    {"op": "exchange", "connection": 99},
    {"op": "exchange", "connection": [1]},
    {"op": "burst", "host": "10.77.0.2", "port": 9, "tag": "short"},
    {"op": "lease", "seconds": "soon"},
    {"op": "detach"},
)


def test_bad_requests_are_answered_and_change_nothing(places: list[Place], clean: list[str]) -> None:
    channel = agents.start_here(places[0].pid, RUN)
    lines = channel.lines()
    for request in BAD:
        channel.send(json.dumps(request).encode())
        answer = json.loads(next(lines))
        assert answer["ok"] is False, request
        assert answer["error"]["message"], request
        assert answer["error"]["code"] != "AgentError", (request, answer)
    for garbage in (b"\xff\xfe garbage", b"{", b"[" * 100_000, b"x" * 3_000_000, b""):
        channel.send(garbage)
        assert json.loads(next(lines))["ok"] is False
    assert places[0].rules() == clean[0]
    channel.send(b'{"id": 5, "op": "hello"}')
    assert json.loads(next(lines))["id"] == 5
    assert channel.close() == 0


def test_answers_are_told_apart_when_many_are_asked_at_once(crew: list[Agent]) -> None:
    a, b, _ = crew
    tags = ["".join(some) for some in itertools.islice(itertools.permutations("abcdefgh"), 40)]
    for tag in tags:
        b.must("counted", tag=tag)
    counted = [arrived(a, b, tag, 1 + number) for number, tag in enumerate(tags[:5])]
    assert counted == [1, 2, 3, 4, 5]


def test_the_trial_says_for_each_feature_whether_it_can_be_had() -> None:
    found = agents.trial()
    assert set(found) == {"drop", "reject", "chance", "delay", "shape"}
    assert found["drop"] == ""


def test_the_trial_names_the_right_that_is_missing() -> None:
    without = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--", sys.executable, "-I", str(agents.AGENT), "--try"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(without.stdout)
    assert all("no root rights" in why for why in said.values()), said


def test_the_trial_names_the_program_that_is_missing() -> None:
    place = Place(9)
    try:
        place.run("mount", "-t", "tmpfs", "none", "/usr/sbin")
        said = json.loads(place.run(sys.executable, "-I", str(agents.AGENT), "--try"))
        assert said["drop"] == "there is no iptables here; install iptables"
        assert said["shape"] == "there is no iptables here; install iptables"
    finally:
        place.end()
