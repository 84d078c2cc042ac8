"""The program that carries links, with plain sockets instead of nodes: what each rule does to real connections."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab_support import until

from laila.errors import BadConfig, LabError
from laila.lab.drivers import carrier
from laila.lab.drivers.link_control import CONTROL, LinkControl

NAMES = ("a", "b", "c")
BOTH = [("a", "b"), ("b", "a")]
RESET = struct.pack("ii", 1, 0)


class Carried:
    """The program in a directory of its own, a control of it, and a listening socket for each node."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.process, found = carrier.start(place, NAMES, os.environ)
        self.ports: dict[str, list[int]] = found["ports"]
        self.doors: dict[str, dict[str, int]] = found["doors"]
        self.control = LinkControl(place / CONTROL, self.doors)
        self.nodes: dict[str, socket.socket] = {}
        self.rules: list[str] = []
        self.open: list[socket.socket] = []

    def listen(self, name: str) -> socket.socket:
        """Be that node: who dials it is let in when it is open."""
        node = socket.socket()
        node.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        node.bind(("127.0.0.1", self.ports[name][0]))
        node.listen(16)
        node.settimeout(10)
        self.nodes[name] = node
        for source in ("", *NAMES):
            if source != name:
                until(lambda: self.refusal(source, name) is None, f"the door of {name} for {source}")  # noqa: B023  asked at once
        return node

    def refusal(self, source: str, target: str, timeout: float = 5.0) -> type[OSError] | None:
        """How dialing fails; whoever is let in is let go by the node."""
        try:
            with self.dial(source, target, timeout):
                with contextlib.suppress(TimeoutError):
                    self.nodes[target].accept()[0].close()
        except OSError as error:
            return type(error)
        return None

    def dial(self, source: str, target: str, timeout: float = 5.0) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(timeout)
        try:
            sock.connect(("127.0.0.1", self.doors[target][source]))
        except BaseException:
            sock.close()
            raise
        self.open.append(sock)
        return sock

    def pair(self, source: str = "a", target: str = "b") -> tuple[socket.socket, socket.socket]:
        """A connection that `source` has dialed: its end, and that of the node."""
        near = self.dial(source, target)
        far, _ = self.nodes[target].accept()
        far.settimeout(10)
        near.settimeout(10)
        self.open.append(far)
        return near, far

    def rule(self, name: str, pairs: list[tuple[str, str]], **words: object) -> None:
        self.rules.append(name)
        self.control.rule(name, pairs, **words)  # type: ignore[arg-type]  # words of a rule

    def idle(self) -> bool:
        """Whether no connection is left, by what a new rule says that it concerns."""
        self.control.close()
        self.control.rule("idle", [(a, b) for a in NAMES for b in NAMES if a != b])
        connections = self.control.counters("idle")["connections"]
        self.control.clear("idle")
        return connections == 0

    def tidy(self) -> None:
        for sock in self.open:
            sock.close()
        self.open.clear()
        for name in self.rules:
            self.control.clear(name)
        self.rules.clear()
        until(self.idle, "the program to have let go of every connection")
        self.control.close()
        self.control = LinkControl(self.place / CONTROL, self.doors)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carried]:
    carried = Carried(tmp_path_factory.mktemp("links") / "links")
    for name in NAMES:
        carried.listen(name)
    yield carried
    carried.control.close()
    for node in carried.nodes.values():
        node.close()
    carried.process.terminate()
    carried.process.wait(10)


@pytest.fixture
def links(program: Carried) -> Iterator[Carried]:
    yield program
    program.tidy()
    assert program.process.poll() is None, (program.place / "log").read_text()


def silent(sock: socket.socket, seconds: float = 0.4) -> bool:
    """Nothing comes, and the connection does not end either."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(10)
    return False


def taken(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count and (data := sock.recv(1 << 20)):
        got += data
    return bytes(got)


def noise(count: int) -> bytes:
    return random.Random(count).randbytes(count)  # noqa: S311  repeatable on purpose


def ended(sock: socket.socket) -> bool:
    """Whether the other side has closed it in an orderly way."""
    return sock.recv(1) == b""


# -- nothing is done to it


def test_bytes_go_both_ways_whole_and_each_way_ends_by_itself(links: Carried) -> None:
    near, far = links.pair()
    there, back = noise(9_000_000), noise(5_000_000)
    sent = [
        threading.Thread(target=lambda: (near.sendall(there), near.shutdown(socket.SHUT_WR))),
        threading.Thread(target=lambda: far.sendall(back)),
    ]
    got: dict[str, bytes] = {}
    sent.append(threading.Thread(target=lambda: got.update(back=taken(near, len(back)))))
    for thread in sent:
        thread.start()
    assert taken(far, len(there)) == there
    assert ended(far)
    for thread in sent:
        thread.join(10)
    assert got["back"] == back
    far.sendall(b"still open this way")
    assert taken(near, 19) == b"still open this way"
    far.close()
    assert ended(near)


def test_a_reset_arrives_as_a_reset_on_either_side(links: Carried) -> None:
    for dying, other in ((0, 1), (1, 0)):
        ends = links.pair()
        ends[dying].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        ends[dying].close()
        with pytest.raises(ConnectionResetError):
            ends[other].recv(1)


def test_a_reset_that_sending_has_met_is_still_a_reset_when_it_arrives(links: Carried) -> None:
    """The system tells a socket's error once, and this one is told while nothing may travel back."""
    near, far = links.pair()
    links.rule("one way", [("b", "a")], drop=True)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    far.close()
    near.sendall(b"into the void")
    assert silent(near)
    links.control.clear("one way")
    with pytest.raises(ConnectionResetError):
        near.recv(1)


def test_a_node_that_went_away_refuses_and_one_that_is_back_does_not(links: Carried) -> None:
    near, far = links.pair("b", "c")
    links.nodes["c"].close()
    far.close()
    assert ended(near)
    until(lambda: links.refusal("a", "c") is ConnectionRefusedError, "c to refuse a")
    assert links.refusal("b", "c") is ConnectionRefusedError
    assert links.refusal("a", "b") is None
    links.listen("c")
    links.pair("a", "c")


def test_a_slow_reader_stops_the_sender_and_not_the_others(links: Carried) -> None:
    """What is on the way is bounded, here and in the program."""
    near, far = links.pair()
    before = resident(links.process.pid)
    stopped = sent_until_it_stops(near)
    assert stopped < 40 << 20
    assert resident(links.process.pid) - before < 8 << 20
    assert links.control.probe("a", "b")["connected"]
    assert len(taken(far, stopped)) == stopped


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def sent_until_it_stops(sock: socket.socket, most: int = 200 << 20) -> int:
    chunk, sent = bytes(1 << 20), 0
    sock.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
        while sent < most:
            sent += sock.send(chunk)
    sock.settimeout(10)
    return sent


# -- drop


def test_what_is_dropped_waits_and_comes_in_order_when_it_is_over(links: Carried) -> None:
    near, far = links.pair()
    other_near, other_far = links.pair("a", "c")
    near.sendall(b"before ")
    assert taken(far, 7) == b"before "
    links.rule("cut", BOTH, drop=True)
    near.sendall(b"during ")
    far.sendall(b"as well")
    assert silent(far)
    assert silent(near)
    assert links.control.counters("cut")["held_bytes"] == 14
    other_near.sendall(b"undisturbed")
    assert taken(other_far, 11) == b"undisturbed"
    near.sendall(b"and later")
    links.control.clear("cut")
    assert taken(far, 16) == b"during and later"
    assert taken(near, 7) == b"as well"


def test_the_end_of_a_connection_is_dropped_too(links: Carried) -> None:
    """Whoever is cut off hears neither a farewell nor a reset."""
    near, far = links.pair()
    near_2, far_2 = links.pair()
    links.rule("cut", BOTH, drop=True)
    near.sendall(b"last words")
    near.close()
    far_2.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    far_2.close()
    assert silent(far)
    assert silent(near_2)
    links.control.clear("cut")
    assert taken(far, 11) == b"last words"
    with pytest.raises(ConnectionResetError):
        near_2.recv(1)


def test_no_connection_is_made_while_either_direction_is_dropped(links: Carried) -> None:
    """Dialing takes until it is over, as in a network where packets vanish; nobody is let in or refused meanwhile."""
    for dropped in (BOTH[:1], BOTH[1:]):
        links.rule("cut", dropped, drop=True)
        began = time.monotonic()
        for _ in range(3):
            assert links.refusal("a", "b", 0.2) is TimeoutError
        assert time.monotonic() - began >= 0.6
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", links.doors["b"]["a"]))
        links.open.append(waiting)
        with pytest.raises(OSError, match="not connected"):
            waiting.getpeername()
        links.control.clear("cut")
        far, _ = links.nodes["b"].accept()
        waiting.settimeout(10)
        far.sendall(b"hello")
        assert taken(waiting, 5) == b"hello"
        far.close()


def test_one_direction_is_dropped_and_the_other_is_not(links: Carried) -> None:
    links.rule("one way", [("a", "b")], drop=True)
    assert links.control.flow("a", "b", timeout=0.4)["error"] == "silent"
    for _ in range(3):
        assert links.control.flow("b", "a")["arrived"]
    assert not links.control.flow("a", "b", timeout=0.4)["arrived"]
    links.control.clear("one way")
    assert links.control.flow("a", "b")["arrived"]


def test_who_is_acknowledged_by_nobody_is_heard_for_a_moment_only(links: Carried) -> None:
    """A connection whose one direction is dropped falls silent in the other too, as TCP does."""
    near, far = links.pair()
    links.rule("one way", [("a", "b")], drop=True)
    far.sendall(b"first")
    assert taken(near, 5) == b"first"
    time.sleep(0.5)
    far.sendall(b"second")
    assert silent(near)
    links.control.clear("one way")
    assert taken(near, 6) == b"second"


def test_who_sends_into_a_cut_link_is_stopped_and_memory_is_bounded(links: Carried) -> None:
    near, far = links.pair()
    before = resident(links.process.pid)
    links.rule("cut", BOTH, drop=True)
    stopped = sent_until_it_stops(near)
    assert 1 << 16 < stopped < 40 << 20
    assert resident(links.process.pid) - before < 8 << 20
    links.control.clear("cut")
    assert len(taken(far, stopped)) == stopped


# -- slow


def test_a_delay_is_for_each_byte_and_each_direction_and_is_over_afterwards(links: Carried) -> None:
    assert links.control.probe("a", "b")["seconds"] < 0.18
    links.rule("slow", BOTH, delay_ms=200)
    assert 0.4 <= links.control.probe("a", "b")["seconds"] < 1
    near, far = links.pair()
    began = time.monotonic()
    for number in range(20):
        near.send(bytes([number]))
        time.sleep(0.005)
    assert taken(far, 20) == bytes(range(20))
    assert 0.29 < time.monotonic() - began < 1, "they travel beside each other, not one after another"
    links.rule("slow", BOTH[:1], delay_ms=200)
    assert 0.2 <= links.control.probe("a", "b")["seconds"] < 0.38
    assert 0.2 <= links.control.probe("b", "a")["seconds"] < 0.38
    assert links.control.probe("a", "c")["seconds"] < 0.18
    links.control.clear("slow")
    assert links.control.probe("a", "b")["seconds"] < 0.18


def test_jitter_never_changes_the_order(links: Carried) -> None:
    links.rule("unsteady", BOTH, delay_ms=20, jitter_ms=20)
    near, far = links.pair()
    data = noise(40_000)
    times = []

    def send() -> None:
        for place in range(0, len(data), 400):
            near.sendall(data[place : place + 400])
            time.sleep(0.004)

    sending = threading.Thread(target=send)
    sending.start()
    got = b""
    while len(got) < len(data):
        got += far.recv(400)
        times.append(time.monotonic())
    sending.join()
    assert got == data
    seconds = [links.control.probe("a", "b")["seconds"] for _ in range(12)]
    assert max(seconds) - min(seconds) > 0.01
    assert max(seconds) < 1


def test_bandwidth_is_of_the_link_and_not_of_a_connection(links: Carried) -> None:
    size = 60_000
    links.rule("narrow", BOTH[:1], kbit=800)  # 100,000 bytes in a second
    assert 0.5 < links.control.probe("a", "b", nbytes=size, timeout=5)["seconds"] < 2
    assert links.control.probe("b", "a", nbytes=size)["seconds"] < 0.4
    pairs = [links.pair(), links.pair()]
    began = time.monotonic()
    for near, _ in pairs:
        near.sendall(bytes(size))
    for _, far in pairs:
        assert len(taken(far, size)) == size
    assert 1.0 < time.monotonic() - began < 4.0
    links.control.clear("narrow")
    assert links.control.probe("a", "b", nbytes=size)["seconds"] < 0.4


def test_what_a_delay_keeps_is_bounded(links: Carried) -> None:
    links.rule("slow", [("b", "c")], delay_ms=2000)
    near, _ = links.pair("b", "c")
    before = resident(links.process.pid)
    assert sent_until_it_stops(near) < 40 << 20
    assert resident(links.process.pid) - before < 16 << 20


# -- no


def test_connections_are_reset_now_and_as_long_as_it_lasts(links: Carried) -> None:
    near, far = links.pair()
    back_near, back_far = links.pair("b", "a")
    other_near, other_far = links.pair("a", "c")
    links.rule("reset", BOTH[:1], reset=True)
    for sock in (near, far, back_near, back_far):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert links.control.counters("reset") == {"held_bytes": 0, "connections": 2, "refused": 0, "reset": 2}
    for source, target in BOTH:
        assert links.control.probe(source, target)["error"] == "reset"
        with pytest.raises(ConnectionResetError):
            links.dial(source, target).recv(1)
    assert links.control.counters("reset")["reset"] == 6, "and each one that was tried"
    other_near.sendall(b"undisturbed")
    assert taken(other_far, 11) == b"undisturbed"
    links.control.clear("reset")
    assert links.control.probe("a", "b")["connected"]


def test_new_connections_are_refused_and_old_ones_go_on(links: Carried) -> None:
    near, far = links.pair()
    links.rule("closed", BOTH[:1], refuse=True)
    assert links.refusal("a", "b") is ConnectionRefusedError
    assert links.control.probe("a", "b")["error"] == "refused"
    assert links.control.counters("closed")["refused"] == 2, "the door for a, and that for anybody"
    near.sendall(b"goes on")
    assert taken(far, 7) == b"goes on"
    for source, target in (("b", "a"), ("c", "b"), ("a", "c")):
        assert links.refusal(source, target) is None
    port = links.doors["b"]["a"]
    links.control.clear("closed")
    assert links.control.probe("a", "b")["connected"]
    assert links.control.hello()["doors"]["b"]["a"] == port


def test_who_may_be_anybody_meets_every_rule_about_the_node(links: Carried) -> None:
    """The advertised door is no way around a cut."""
    near, far = links.pair("", "b")
    links.rule("cut", BOTH, drop=True)
    near.sendall(b"is anybody there")
    assert silent(far)
    assert links.refusal("", "b", 0.2) is TimeoutError
    assert links.refusal("", "c", 0.2) is None
    links.control.clear("cut")
    assert taken(far, 16) == b"is anybody there"


# -- rules


def test_rules_add_up_and_one_that_ends_leaves_the_others(links: Carried) -> None:
    links.rule("one", BOTH, delay_ms=100)
    links.rule("two", BOTH, delay_ms=100)
    assert links.control.probe("a", "b")["seconds"] >= 0.4
    links.control.clear("one")
    assert 0.2 <= links.control.probe("a", "b")["seconds"] < 0.38
    links.rule("cut", BOTH, drop=True)
    links.rule("cut too", BOTH, drop=True)
    links.control.clear("cut")
    assert not links.control.probe("a", "b", timeout=0.3)["connected"]
    links.control.clear("cut too")
    links.control.clear("two")
    links.control.clear("two")
    assert links.control.probe("a", "b")["seconds"] < 0.18
    with pytest.raises(LabError, match="no rule 'two'"):
        links.control.counters("two")


def test_a_rule_with_a_time_ends_by_itself_and_outlives_who_made_it(links: Carried) -> None:
    maker = LinkControl(links.place / CONTROL, links.doors)
    maker.rule("for a while", BOTH, refuse=True, until=time.time() + 1.5)
    began = time.monotonic()
    maker.close()
    assert links.control.probe("a", "b")["error"] == "refused"
    until(lambda: links.control.probe("a", "b")["connected"], "the rule to end", 5)
    assert 1.0 < time.monotonic() - began < 3.0


def test_the_rules_of_a_controller_end_when_it_is_closed_and_anybody_may_end_them(links: Carried) -> None:
    maker = LinkControl(links.place / CONTROL, links.doors)
    maker.rule("mine", BOTH, refuse=True)
    maker.rule("another", [("a", "c")], refuse=True)
    links.control.clear("mine")
    assert links.control.probe("a", "b")["connected"]
    assert links.control.probe("a", "c")["error"] == "refused"
    maker.close()
    until(lambda: links.control.probe("a", "c")["connected"], "the rule to end", 2)


MAKER = """
import json, sys, time
from pathlib import Path
from laila.lab.drivers.link_control import LinkControl
control = LinkControl(Path(sys.argv[1]), json.loads(sys.argv[2]))
control.rule("of one who dies", [("a", "b"), ("b", "a")], drop=True)
print("made", flush=True)
time.sleep(60)
"""


def test_the_rules_of_a_controller_end_when_it_is_killed(links: Carried) -> None:
    import json

    words = [sys.executable, "-c", MAKER, str(links.place / CONTROL), json.dumps(links.doors)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"made\n"
        assert not links.control.probe("a", "b", timeout=0.3)["connected"]
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    killed = time.monotonic()
    until(lambda: links.control.probe("a", "b", timeout=0.3)["connected"], "the rule to end", 5)
    assert time.monotonic() - killed < 2


@pytest.mark.parametrize("pairs", [[("a", "nope")], [("a", "a")], [("a", "")]])
def test_links_that_there_are_not_are_answered_with_what_exists(
    links: Carried, pairs: list[tuple[str, str]]
) -> None:
    asks: list[Callable[[], object]] = [
        lambda: links.control.rule("x", pairs, drop=True),
        lambda: links.control.probe(*pairs[0]),
        lambda: links.control.flow(*pairs[0]),
    ]
    for ask in asks:
        with pytest.raises(BadConfig, match="there are a, b, c|no link to itself"):
            ask()


def test_rubbish_on_the_control_socket_is_answered_and_hurts_nobody(links: Carried) -> None:
    for line in (
        b"rubbish\n",
        b"[1]\n",
        b'{"op": "nope"}\n',
        b'{"op": "rule"}\n',
        b'{"op": "rule", "rule": "x", "pairs": 7}\n',
    ):
        with socket.socket(socket.AF_UNIX) as guest:
            guest.connect(str(links.place / CONTROL))
            guest.sendall(line)
            assert b'"ok":false' in guest.recv(65536)
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(links.place / CONTROL))
        guest.settimeout(10)
        with contextlib.suppress(OSError):
            guest.sendall(b"x" * (3 << 20))
        with contextlib.suppress(ConnectionResetError):
            assert guest.recv(1) == b""
    assert links.control.probe("a", "b")["connected"]


# -- the program


def test_it_ends_when_its_directory_is_gone(tmp_path: Path) -> None:
    """Also in a directory whose name is too long for the address of a socket."""
    deep = tmp_path / ("x" * 100) / "links"
    deep.parent.mkdir()
    carried = Carried(deep)
    carried.control.close()
    (deep / CONTROL).unlink()
    assert carried.process.wait(10) == 0


def test_its_end_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    carried = Carried(tmp_path / "links")
    carried.process.kill()
    carried.process.wait()
    (tmp_path / "links" / "log").write_text("first\nmemory is full\n")
    with pytest.raises(LabError, match=r"carries the links does not answer.*\(memory is full\)"):
        carried.control.rule("x", [("a", "b")], refuse=True)
    carried.control.close()
