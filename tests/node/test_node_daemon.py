"""The daemon as a process: bad configurations, readiness, links that form and heal, draining, secrecy."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import LAILA, Nodes, Running, environment, laila, until

from laila import constant
from laila.errors import LailaError
from laila.lab.drivers import clock_shift
from laila.lab.drivers.clock_shift import Shift
from laila.macros.defaults import DefaultPolicy
from laila.secret import new_secret

Make = Callable[[Nodes], list[str]]


def taken_port(nodes: Nodes) -> str:
    node = nodes.node("first").start().ready()
    return node.address


WRONG: dict[str, tuple[Make, str]] = {
    "no secret": (lambda n: [], "secret_file is not set; run `laila secret new"),
    "secret file missing": (
        lambda n: ["--secret-file", "/no/such/file"],
        "secret_file (--secret-file): /no/such/file cannot be read: No such file",
    ),
    "secret empty": (lambda n: ["--secret-file", str(n.file("s", "\n"))], "is empty; fill it with"),
    "secret short": (
        lambda n: ["--secret-file", str(n.file("s", "a1b2c3"))],
        "too weak: it has 6 characters",
    ),
    "secret chosen by a person": (
        lambda n: ["--secret-file", str(n.file("s", "correct-horse-battery-staple-42"))],
        "too weak: it contains a word that people choose; make one with `laila secret new`",
    ),
    "secret not text": (lambda n: ["--secret-file", str(n.file("s", b"\xff\xfe" * 20))], "is no text"),
    "secret a huge file": (
        lambda n: ["--secret-file", str(n.file("s", "a" * 9999))],
        "longer than 4096 bytes",
    ),
    "old secret missing": (
        lambda n: [*good(n), "--also-accept", "/no/old"],
        "also_accept (--also-accept): /no/old cannot be read",
    ),
    "old secret weak": (
        lambda n: [*good(n), "--also-accept", str(n.file("old", "short"))],
        "too weak: it has 5 characters",
    ),
    "port in use": (
        lambda n: [*good(n), "--listen", taken_port(n)],
        "listen (--listen): cannot listen on 127.0.0.1:",
    ),
    "status port in use": (
        lambda n: [*good(n), "--status", taken_port(n)],
        "status (--status): cannot listen on 127.0.0.1:",
    ),
    "listen name unknown": (
        lambda n: [*good(n), "--listen", "no-such-host.invalid:7400"],
        "listen (--listen): cannot listen on no-such-host.invalid:7400: the name does not resolve",
    ),
    "listen address elsewhere": (
        lambda n: [*good(n), "--listen", "203.0.113.7:7400"],
        "listen (--listen): cannot listen on 203.0.113.7:7400: this machine has no such address",
    ),
    "state dir is a file": (
        lambda n: [*good(n), "--state-dir", str(n.file("state", ""))],
        "state_dir (--state-dir): ",
    ),
    "state dir cannot be made": (
        lambda n: [*good(n), "--state-dir", "/proc/laila/state"],
        "state_dir (--state-dir): /proc/laila/state cannot be written: No such file or directory",
    ),
    "identity is rubbish": (
        lambda n: [*good(n), "--state-dir", str(n.file("identity.key", "rubbish").parent)],
        "state_dir (--state-dir): ",
    ),
    "pool is no database": (
        lambda n: [*good(n), "--pools", f"kept=sqlite:{n.file('kept.sqlite', 'no database' * 999)}"],
        "pools (--pools): pool 'kept' cannot be opened: ",
    ),
    "pool directory is a file": (
        lambda n: [*good(n), "--pools", f"kept=filesystem:{n.file('kept', '')}"],
        "pools (--pools): pool 'kept' cannot be opened: ",
    ),
    "access rule": (
        lambda n: [*good(n), "--access", "permit everybody"],
        "access (--access): access rule 'permit everybody' cannot be read; write `allow PEER",
    ),
    "unknown flag": (
        lambda n: ["--lissten", "a:1"],
        "'--lissten' is not understood; see `laila node --help`",
    ),
    "config file missing": (
        lambda n: ["--config", "/no/node.toml"],
        "config file /no/node.toml cannot be read",
    ),
    "config file wrong": (
        lambda n: ["--config", str(n.file("node.toml", "[node]\nname = 'x'"))],
        "node.toml:1): this key is not known; ",
    ),
}


def good(nodes: Nodes) -> list[str]:
    return ["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--secret-file", str(nodes.secret_file)]


@pytest.mark.parametrize("case", WRONG)
def test_bad_configuration_is_one_sentence(nodes: Nodes, case: str) -> None:
    """What cannot be run ends at once: exit code 2, one line that names the key, and no traceback."""
    make, sentence = WRONG[case]
    done = laila("node", *make(nodes), "--log-level", "error", timeout=20)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("laila: ")
    assert sentence in lines[0]
    assert (done.returncode, done.stdout) == (2, b"")
    as_json = laila("node", *make(nodes), "--log-level", "error", "--json", timeout=20)
    assert sentence in json.loads(as_json.stderr)["error"]["message"]


def test_ready_node_answers_on_every_page(nodes: Nodes) -> None:
    """The pages of a node that runs say what it is."""
    kept = nodes.folder / "kept.sqlite"
    node = nodes.node("n1", "--pools", f"kept=sqlite:{kept},scratch=memory").start().ready()
    assert (node.get("/healthz").status, node.get("/healthz").body) == (200, b"ok\n")
    assert node.get("/readyz").json() == {"ready": True, "reasons": []}
    status = node.status()
    assert {key: status[key] for key in ("name", "state", "ready", "reasons", "peers", "dialers")} == {
        "name": "n1",
        "state": "ready",
        "ready": True,
        "reasons": [],
        "peers": [],
        "dialers": [],
    }
    assert (status["listen"], status["advertise"]) == (node.address, node.address)
    assert abs(status["now"] - time.time()) < 5
    empty = {"count": 0, "bytes": 0, "error": None}
    assert status["pools"] == [
        {"name": "alpha", "kind": "memory", "durable": False, **empty},
        {"name": "kept", "kind": "sqlite", "durable": True, **empty},
        {"name": "scratch", "kind": "memory", "durable": False, **empty},
    ]
    page = node.get("/").body.decode()
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def samples(node: Running) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every metric of a node as the reference parser reads it: (name, label values by name) -> value."""
    families = text_string_to_metric_families(node.get("/metrics").body.decode())
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_count_what_happened(nodes: Nodes) -> None:
    """Requests, errors, latencies, pools, links and refusals are in /metrics, in the standard format."""
    node = nodes.node("n1").start().ready()
    with DefaultPolicy(name="client") as client:
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", node.port, nodes.secret)]
        for number in range(5):
            peer.memorize(constant(number, nickname=f"n{number}")).wait(10)
        peer.remember(nickname="n3").wait(10)
        with pytest.raises(LailaError):
            peer.remember(nickname="missing").wait(10)
        with pytest.raises(LailaError):
            client.communication.add_tcpip_peer("127.0.0.1", node.port, new_secret(), timeout=5)
        found = samples(node)
        links = found["laila_links", ("accepted", "up")]
    assert links == 1
    assert found["laila_requests_total", ("in", "memorize", "ok")] == 5
    assert found["laila_requests_total", ("in", "remember", "ok")] == 1
    assert found["laila_requests_total", ("in", "remember", "error")] == 1
    assert found["laila_errors_total", ("EntryNotFound",)] == 1
    assert found["laila_request_seconds_count", ("memorize",)] == 5
    assert found["laila_request_seconds_bucket", ("+Inf", "memorize")] == 5
    assert found["laila_pool_entries", ("memory", "alpha")] == 5
    assert found["laila_pool_bytes", ("memory", "alpha")] > 0
    assert found["laila_bytes_total", ("in",)] > 0
    assert found["laila_ready", ()] == 1
    assert sum(v for (name, _), v in found.items() if name == "laila_refused_handshakes_total") == 1
    assert found["process_resident_memory_bytes", ()] < 64 << 20


def test_readiness_names_the_pool_that_broke(nodes: Nodes) -> None:
    """When the disk under a pool goes away, /readyz says so with the pool's name, and the process stays alive."""
    files = nodes.folder / "files"
    node = nodes.node("n1", "--pools", f"files=filesystem:{files}").start().ready()
    shutil.rmtree(files)
    answer = node.get("/readyz")
    assert answer.status == 503
    assert answer.json()["ready"] is False
    assert answer.json()["reasons"][0].startswith("pool files: ")
    assert node.get("/healthz").status == 200
    assert samples(node)["laila_pool_usable", ("filesystem", "files")] == 0
    done = laila("health", "--status", f"127.0.0.1:{node.status_port}")
    assert (done.returncode, done.stderr.startswith(b"laila: pool files: ")) == (1, True)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["dialer first", "listener first"])
def test_nodes_peer_in_either_order_and_heal(nodes: Nodes, order: tuple[int, int]) -> None:
    """Whichever starts first, they list each other; killed with -9 and started again, the link is back by itself."""
    listener = nodes.node("listener")
    dialer = nodes.node("dialer", "--peers", listener.address)
    pair = [dialer, listener]
    pair[order[0]].start().ready()
    time.sleep(0.5)
    pair[order[1]].start().ready()
    until(lambda: "listener" in dialer.links(), "the dialer's link")
    until(lambda: "dialer" in listener.links(), "the listener's link")
    assert dialer.links()["listener"]["direction"] == "dialed"
    assert listener.links()["dialer"]["direction"] == "accepted"
    assert dialer.status()["dialers"][0]["state"] == "up"
    before = dialer.links()["listener"]["peer_id"]
    listener.kill()
    until(lambda: "listener" in dialer.links("lost"), "the loss")
    listener.start().ready()
    until(lambda: "listener" in dialer.links(), "the link again")
    assert dialer.links()["listener"]["peer_id"] == before
    told = ["link up", "link lost", "link up"]
    until(
        lambda: [e["event"] for e in dialer.events() if e["event"].startswith("link ")] == told,
        "all of it logged",
    )


def test_nodes_find_each_other_behind_one_name(nodes: Nodes) -> None:
    """`dns:` dials every address of a name; the node's own is among them and does no harm."""
    first, second = nodes.node("n1"), nodes.node("n2")
    everybody = f"dns:localhost:{first.port},dns:localhost:{second.port}"
    for node in (first, second):
        node.start("--peers", everybody, "--resolve-every", "0.2").ready()
    until(lambda: "n2" in first.links(), "n1's link")
    until(lambda: "n1" in second.links(), "n2's link")
    until(lambda: all(d["state"] == "up" for d in first.status()["dialers"]), "only dialers of others")
    assert set(first.links()) == {"n2"}


def test_name_that_does_not_resolve_yet_is_no_reason_to_stop(nodes: Nodes) -> None:
    """A node whose peers cannot be found is ready all the same, and says what it is waiting for."""
    node = (
        nodes.node("n1", "--peers", "dns:no-such-host.invalid:7400,no-such-host.invalid:7400").start().ready()
    )
    until(lambda: len(node.status()["dialers"]) == 2, "both peers shown")
    until(lambda: all(d["last_error"] for d in node.status()["dialers"]), "both reasons")
    assert {d["state"] for d in node.status()["dialers"]} <= {"unresolved", "waiting", "connecting"}


def test_a_node_that_awaits_names_is_not_ready_before_they_were_found(nodes: Nodes) -> None:
    """It says so in one line of its log, and on /readyz."""
    waits = nodes.node("n1", "--await-names", "yes", "--peers", "dns:no-such-host.invalid:7400").start()
    until(lambda: "no-such-host.invalid cannot be looked up" in waits.log_text(), "a word about the name")
    until(lambda: waits.get("/readyz").status == 503, "not ready")
    (reason,) = waits.get("/readyz").json()["reasons"]
    assert reason.startswith("no-such-host.invalid cannot be looked up: ")
    assert waits.get("/healthz").status == 200
    told = [one for one in waits.events() if "no-such-host.invalid" in one.get("reason", "")]
    assert len(told) == 1
    assert waits.stop() == 0
    nodes.node("n2", "--await-names", "yes", "--peers", "dns:localhost:1").start().ready()


def test_wrong_secret_is_named_and_harms_nobody(nodes: Nodes) -> None:
    """A peer with another secret is told so, is counted, is no peer, and is not ready until it has the right one."""
    node = nodes.node("n1").start().ready()
    stranger = nodes.node("stranger", "--peers", node.address)
    stranger.secret_file = nodes.file("other", new_secret())
    (reason,) = refused(stranger)
    assert (
        reason == f"no peer: {node.address} does not share this secret; give both nodes the same secret file"
    )
    assert stranger.status()["dialers"][0]["last_error"] in reason
    assert node.status()["peers"] == []
    until(lambda: any(event["event"] == "refused" for event in node.events()), "a refusal in the log")
    assert node.is_ready(), "nobody else's secret is its fault"
    assert stranger.stop() == 0
    stranger.secret_file = nodes.secret_file
    stranger.start().ready()


def test_a_clock_that_is_hours_off_is_named_and_mended_without_a_restart(nodes: Nodes) -> None:
    shift = nodes.file("shift", Shift(seconds=7200.0).pack())
    library = nodes.file("clockshift.so", clock_shift.library(), mode=0o755)
    node = nodes.node("n1").start().ready()
    early = nodes.node("early", "--peers", node.address)
    (reason,) = refused(early, clock_shift.environment(str(library), str(shift)))
    assert "compare the clocks of both nodes" in reason
    assert node.is_ready()
    nodes.file("shift", Shift().pack())
    early.ready()
    assert set(early.links()) == {"n1"}
    assert any(event["event"] == "ready again" for event in early.events())


def refused(node: Running, env: Mapping[str, str] | None = None) -> list[str]:
    """Why a node that is started is nobody's peer: as its status port says it, and once its log."""
    node.start(env=env)

    def reasons() -> list[str]:
        try:
            found: list[str] = node.status()["reasons"]
        except LailaError:
            return []
        return [reason for reason in found if reason.startswith("no peer: ")]

    found: list[str] = until(reasons, "a reason")
    assert not node.is_ready()
    told = [event for event in node.events() if event["event"] == "not ready"]
    assert [event["reasons"] for event in told] == [found]
    return found


def test_rotation_accepts_the_old_secret_for_a_while(nodes: Nodes) -> None:
    """With --also-accept, a node with the new secret and one with the old one are peers."""
    old, new = nodes.secret_file, nodes.file("new", new_secret())
    listener = nodes.node("new", "--also-accept", str(old))
    listener.secret_file = new
    listener.start().ready()
    dialer = nodes.node("old", "--peers", listener.address, "--also-accept", str(new)).start().ready()
    until(lambda: "new" in dialer.links(), "the link between the secrets")


def test_an_empty_file_of_a_further_secret_is_none(nodes: Nodes) -> None:
    """A secret store may keep the place of the next secret free; what is in there later is read at the next start."""
    free, new = nodes.file("next", "\n"), nodes.file("new", new_secret())
    node = nodes.node("node", "--also-accept", str(free)).start().ready()
    stranger = nodes.node("stranger", "--peers", node.address, "--also-accept", str(nodes.secret_file))
    stranger.secret_file = new
    refused(stranger)
    assert node.status()["peers"] == []
    assert node.stop() == 0
    free.write_text(new.read_text())
    node.start("--also-accept", str(free)).ready()
    until(lambda: "stranger" in node.links(), "the link, now that it is accepted")


def test_only_allowed_nodes_are_let_in(nodes: Nodes) -> None:
    """`allow_nodes` shuts out a node that knows the secret but is not on the list."""
    known = nodes.node("known").start().ready()
    guarded = nodes.node("guarded", "--allow-nodes", known.status()["id"]).start().ready()
    known.stop()
    known.start("--peers", guarded.address).ready()
    (reason,) = refused(nodes.node("stranger", "--peers", guarded.address))
    assert "not on the list" in reason
    until(lambda: "known" in guarded.links(), "the known node's link")
    assert set(guarded.links()) == {"known"}


def test_sigterm_lets_running_requests_finish(nodes: Nodes) -> None:
    """Requests under way when SIGTERM comes are answered, readiness goes, the exit code is 0."""
    kept = nodes.folder / "kept.sqlite"
    node = nodes.node("n1", "--pools", f"kept=sqlite:{kept}").start().ready()
    with DefaultPolicy(name="client") as client:
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", node.port, nodes.secret)]
        batches = [[constant(f"{batch}-{n}" * 20) for n in range(3000)] for batch in range(8)]
        futures = [peer.memorize(entries=entries, pool_nickname="kept") for entries in batches]
        until(
            lambda: samples(node).get(("laila_requests_total", ("in", "memorize", "ok")), 0) >= 1, "the first"
        )
        node.signal(signal.SIGTERM)
        for future in futures:
            future.wait(20)
    assert node.wait() == 0
    events = [event["event"] for event in node.events()]
    assert events[-1] == "stopped"
    assert "draining" in events
    node.start().ready()
    assert node.status()["pools"][1]["count"] == 8 * 3000


HOLD = """
import os, signal, sys, numpy
from laila import constant
from laila.macros.defaults import DefaultPolicy
client = DefaultPolicy(name="holder")
peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", int(sys.argv[1]), open(sys.argv[2]).read())]
peer.memorize(constant(numpy.zeros(32 << 20), nickname="big")).wait(30)
future = peer.remember(nickname="big")
print("asked", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_second_signal_exits_at_once(nodes: Nodes) -> None:
    """A client that stopped reading holds a drain up until the grace period ends, or the second signal comes."""
    node = nodes.node("n1", "--grace", "60").start().ready()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(node.port), str(nodes.secret_file)],
        stdout=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"asked\n"
        until(lambda: node.status()["peers"][0]["requests_in"] == 2, "a request that is under way")
        node.signal(signal.SIGTERM)
        until(lambda: node.get("/readyz").status == 503, "draining")
        assert node.get("/readyz").json() == {"ready": False, "reasons": ["the node is draining"]}
        assert node.get("/healthz").status == 200
        time.sleep(1)
        assert node.process is not None
        assert node.process.poll() is None
        node.signal(signal.SIGTERM)
        assert node.wait(2) == 128 + signal.SIGTERM
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_signal_during_start_ends_it(nodes: Nodes) -> None:
    """SIGTERM at any moment of the start ends the process with 0 or by the signal, and never with a traceback."""
    node = nodes.node("n1")
    for delay in (0.05, 0.15, 0.25, 0.35):
        node.start()
        time.sleep(delay)
        node.signal(signal.SIGTERM)
        assert node.wait() in (0, -signal.SIGTERM)
    assert "Traceback" not in node.log_text()


def test_secret_is_nowhere_to_be_seen(nodes: Nodes) -> None:
    """Not in the log at its loudest, the arguments, the environment, nor on any page."""
    node = nodes.node("n1", "--log-level", "debug", "--peers", "127.0.0.1:1").start().ready()
    other = nodes.node("n2", "--log-level", "debug", "--peers", node.address).start().ready()
    until(lambda: "n2" in node.links(), "a link")
    seen = [page.body for page in map(node.get, ("/", "/status.json", "/metrics", "/readyz"))]
    for running in (node, other):
        assert running.process is not None
        seen.append(Path(f"/proc/{running.process.pid}/cmdline").read_bytes())
        seen.append(Path(f"/proc/{running.process.pid}/environ").read_bytes())
        running.stop()
        seen.append(running.log.read_bytes())
    assert all(seen)
    assert [nodes.secret.encode() in text for text in seen] == [False] * len(seen)


def test_readable_secret_file_gives_a_warning(nodes: Nodes) -> None:
    """A secret file that every user can read is said in the log, with the command that mends it."""
    nodes.secret_file.chmod(0o644)
    node = nodes.node("n1").start().ready()
    warnings = [event["event"] for event in node.events() if event["level"] == "warning"]
    assert warnings == [
        f"every user of this machine can read {nodes.secret_file}; run: chmod 600 {nodes.secret_file}"
    ]


def test_dribbling_clients_do_not_hold_up_health(nodes: Nodes) -> None:
    """200 clients that send a byte now and then: /healthz answers at once all the while."""
    node = nodes.node("n1").start().ready()
    stop = threading.Event()

    def dribble() -> None:
        socks: list[socket.socket] = []
        while not stop.is_set():
            if len(socks) < 200:
                socks.append(socket.create_connection(("127.0.0.1", node.status_port), 5))
            for sock in list(socks):
                try:
                    sock.sendall(b"G")
                except OSError:
                    socks.remove(sock)
                    sock.close()
        for sock in socks:
            sock.close()

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        waits = []
        for _ in range(20):
            started = time.monotonic()
            assert node.get("/healthz").status == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    assert max(waits) < 1.0


def test_idle_node_is_small(nodes: Nodes) -> None:
    """An idle node with a link, pages and a scrape behind it stays below 45 MiB."""
    node = nodes.node("n1", "--pools", f"kept=sqlite:{nodes.folder / 'kept.sqlite'}").start().ready()
    other = nodes.node("n2", "--peers", node.address).start().ready()
    until(lambda: "n1" in other.links(), "a link")
    for path in ("/", "/status.json", "/metrics"):
        assert node.get(path).status == 200
    assert samples(node)["process_resident_memory_bytes", ()] <= 45 << 20


def test_text_log_is_for_people(nodes: Nodes) -> None:
    """--log-format text writes lines, not JSON."""
    node = nodes.node("n1", "--log-format", "text").start().ready()
    node.stop()
    lines = node.log_text().splitlines()
    assert lines[0].split()[1:3] == ["INFO", "ready"]
    assert lines[-1].split()[1:] == ["INFO", "stopped"]


def test_config_file_and_environment_run_a_node(nodes: Nodes) -> None:
    """The same node from a TOML file and variables, without a flag."""
    node = nodes.node("n1")
    file = nodes.file(
        "node.toml",
        f'name = "from-file"\nlisten = "{node.address}"\nsecret_file = "secret"\n[pools.kept]\nkind = "memory"\n',
    )
    env = {
        "LAILA_CONFIG": str(file),
        "LAILA_NAME": "from-env",
        "LAILA_STATUS": f"127.0.0.1:{node.status_port}",
    }
    with node.log.open("ab") as log:
        node.process = subprocess.Popen([*LAILA, "node"], stderr=log, env=environment(env))
    node.ready()
    status = node.status()
    assert (status["name"], status["listen"]) == ("from-env", node.address)
    assert [pool["name"] for pool in status["pools"]] == ["alpha", "kept"]
    assert not node.state.exists()
