"""A Redis server in a container and a client of 31 lines: the lab works on them, and knows nothing of laila there."""

from __future__ import annotations

import json
import os
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from compose_support import FOREIGN, ROOT, need_engine, new_run, redis_image
from lab_support import until

from laila.errors import BadConfig, LabError
from laila.lab import drivers, faults, remote, workloads
from laila.lab.drivers import local_client
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.drivers.compose import ComposeDriver
from laila.lab.faults import FaultSpec, Scene, ledger
from laila.lab.remote import Outcome, RemoteClient
from laila.lab.topology import BESIDE, HERE, ClientSpec, load, replicated
from laila.lab.trials.invoking import answer
from laila.lab.workloads import protocol
from laila.lab.workloads.base import Invocation

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("lab")]
REDIS = "redis"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run of this module is registered."""
    return tmp_path_factory.mktemp("module-home")


@pytest.fixture(scope="module")
def lab(home: Path) -> Iterator[Driver]:
    """A Redis server that runs."""
    need_engine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_IMAGE", redis_image())
        patch.setenv("LAILA_LAB_HOME", str(home))
        shape = replace(load(str(FOREIGN / "redis.toml")), state_mib=32, clocks=True)
        assert drivers.choose("auto", shape).name == "compose"
        made = drivers.make(new_run(shape), shape)
        try:
            made.prepare()
            made.start(REDIS)
            yield made
        finally:
            patch.setenv("LAILA_LAB_HOME", str(home))
            left = made.remove()
            made.close()
    assert left == []


@pytest.fixture
def driver(lab: Driver, home: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """The same, and it works."""
    monkeypatch.setenv("LAILA_LAB_HOME", str(home))
    if lab.state(REDIS) is NodeState.PAUSED:
        lab.resume(REDIS)
    lab.rejoin(REDIS)
    if lab.state(REDIS) is not NodeState.RUNNING:
        lab.start(REDIS)
    lab.wait_ready(REDIS)
    return lab


def elsewhere(driver: Driver, **changes: object) -> Driver:
    """The same nodes with another client."""
    client = driver.topology.client
    assert client is not None
    return drivers.make(driver.run, replace(driver.topology, client=replace(client, **changes)))  # type: ignore[arg-type]  # fields of ClientSpec


@pytest.fixture(params=[HERE, BESIDE])
def client(request: pytest.FixtureRequest, driver: Driver) -> Iterator[RemoteClient]:
    """The client on this machine, and in the server's container, into which it is copied."""
    if request.param == HERE:
        opened = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
        yield opened
        opened.close()
        return
    beside = elsewhere(
        driver, where=BESIDE, argv=("python3", "{files}/client.py", "{address}"), files=("client.py",)
    )
    opened = RemoteClient(local_client.open_client(beside, REDIS), REDIS)
    yield opened
    opened.close()
    beside.close()


def ask(client: RemoteClient, op: str, key: str, value: object = None, timeout: float = 5.0) -> Outcome:
    """As a trial asks."""
    return client.call(op, timeout=timeout, **protocol.request(Invocation(op, key, value)))


def told(op: str, outcome: Outcome) -> tuple[str, object]:
    """As a trial understands it."""
    found = answer(Invocation(op, ""), outcome)
    return found.outcome, found.result


def test_operations_go_through(client: RemoteClient, request: pytest.FixtureRequest) -> None:
    key = request.node.name
    said = [
        told(op, ask(client, op, key, value))
        for op, value in [
            ("read", None),
            ("cas", (None, {"n": 1})),
            ("cas", (None, 2)),
            ("write", 'Ü "\\'),
            ("read", None),
            ("cas", ('Ü "\\', [1, None])),
            ("read", None),
        ]
    ]
    assert said == [
        ("ok", None),
        ("ok", True),
        ("ok", False),
        ("ok", None),
        ("ok", 'Ü "\\'),
        ("ok", True),
        ("ok", [1, None]),
    ]


def test_an_operation_that_it_does_not_have_is_refused(client: RemoteClient) -> None:
    assert told("acquire", ask(client, "acquire", "x")) == ("fail", None)


def test_what_was_acknowledged_outlives_a_kill(driver: Driver, client: RemoteClient) -> None:
    """The client dies with its node, wherever it runs; another one finds what was written."""
    assert told("write", ask(client, "write", "kept", 7)) == ("ok", None)
    driver.kill(REDIS)
    until(lambda: client.gone, "the client to end")
    outcome = ask(client, "read", "kept")
    assert (outcome.error, told("read", outcome)[0]) == ("ClientGone", "unknown")
    with pytest.raises(LabError, match="cannot start a client of redis: it is exited, not running"):
        local_client.open_client(driver, REDIS)
    driver.start(REDIS)
    driver.wait_ready(REDIS)
    again = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert told("read", ask(again, "read", "kept")) == ("ok", 7)
    again.close()


def test_a_restart_keeps_it_too(driver: Driver) -> None:
    client = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert ask(client, "write", "again", 8).ok
    driver.restart(REDIS)
    driver.wait_ready(REDIS)
    client.close()
    client = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert told("read", ask(client, "read", "again")) == ("ok", 8)
    client.close()


def test_of_what_a_paused_server_was_asked_nobody_knows(driver: Driver) -> None:
    client = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert ask(client, "write", "paused", 1).ok
    driver.pause(REDIS)
    outcome = ask(client, "write", "paused", 2, timeout=0.5)
    assert (outcome.executed, told("write", outcome)) == ("maybe", ("unknown", None))
    driver.resume(REDIS)
    value = told("read", ask(client, "read", "paused"))
    assert value in (("ok", 1), ("ok", 2))
    client.close()


def test_a_server_that_is_cut_off_is_out_of_reach_from_here_and_works_beside(driver: Driver) -> None:
    here = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    there = elsewhere(
        driver, where=BESIDE, argv=("python3", "{files}/client.py", "{address}"), files=("client.py",)
    )
    beside = RemoteClient(local_client.open_client(there, REDIS), REDIS)
    assert ask(here, "write", "cut", 1).ok
    driver.cut(REDIS)
    assert told("write", ask(here, "write", "cut", 2, timeout=0.5)) == ("fail", None)
    assert told("read", ask(beside, "read", "cut")) == ("ok", 1)
    driver.rejoin(REDIS)
    here.close()
    here = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert told("read", ask(here, "read", "cut")) == ("ok", 1)
    for client in (here, beside):
        client.close()
    there.close()


@pytest.mark.parametrize("spec", ["pause", "power-loss", "disk-full", "clock"])
def test_faults_bite_and_heal_and_lose_nothing(driver: Driver, spec: str) -> None:
    """Its state lies on a disk that can lose power, its programs are started with clocks that can be bent."""
    client = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert ask(client, "write", spec, "acknowledged").ok
    chance = random.Random(7)  # noqa: S311  repeatable on purpose
    scene = Scene(driver, (REDIS,), chance, ready=driver.wait_ready)
    fault = faults.make(scene, FaultSpec.parse(spec))
    if why := type(fault).hindrance(driver):
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    entry = ledger.inject(fault)
    try:
        fault.prove()
    finally:
        ledger.heal(fault, entry)
    fault.prove_healed()
    driver.wait_ready(REDIS)
    again = RemoteClient(local_client.open_client(driver, REDIS), REDIS)
    assert told("read", ask(again, "read", spec)) == ("ok", "acknowledged")
    for one in (client, again, *scene.agents.values()):
        one.close()


# -- the program


def test_a_client_is_told_where_its_node_is(driver: Driver, tmp_path: Path) -> None:
    """In its arguments and in its environment; other braces are its own business."""
    told = "[sys.argv[1:], os.environ['LAB_NODE'], os.environ['LAB_ADDRESS']]"
    program = f"import json, os, sys; print(json.dumps({told}))"
    argv = ("python3", "-c", program, "{node}", "{number}", "{address}", "{files}", "{x} {}")
    for where, address, files in [
        (HERE, str(driver.address(REDIS)), str(tmp_path)),
        (BESIDE, "127.0.0.1:6379", local_client.FILES_DIR),
    ]:
        other = elsewhere(driver, where=where, argv=argv, directory=str(tmp_path))
        channel = local_client.open_client(other, REDIS, 3)
        assert json.loads(next(iter(channel.lines()))) == [
            ["redis", "3", address, files, "{x} {}"],
            "redis",
            address,
        ]
        channel.close()
        other.close()


def test_a_client_on_this_machine_runs_beside_the_topology_file(driver: Driver, tmp_path: Path) -> None:
    other = elsewhere(driver, argv=("pwd",), directory=str(tmp_path))
    channel = local_client.open_client(other, REDIS)
    assert list(channel.lines()) == [str(tmp_path).encode()]
    channel.close()
    other.close()


def test_clients_end_with_the_run(driver: Driver) -> None:
    other = elsewhere(driver, argv=("sleep", "100"))
    assert isinstance(other, ComposeDriver)
    channel = local_client.open_client(other, REDIS)
    ended = threading.Thread(target=lambda: list(channel.lines()))
    ended.start()
    other.local.end_all()
    ended.join(10)
    assert not ended.is_alive()
    channel.close()
    other.close()


def test_a_program_that_is_not_there(driver: Driver) -> None:
    for where, words in ((HERE, "cannot run 'no-such' on this machine"), (BESIDE, "no-such")):
        other = elsewhere(driver, where=where, argv=("no-such",))
        if where == HERE:
            with pytest.raises(LabError, match=words):
                local_client.open_client(other, REDIS)
        else:
            channel = local_client.open_client(other, REDIS)
            said = b"".join(channel.lines()) + channel.stderr().encode()
            assert b"no-such" in said
            channel.close()
        other.close()


def test_a_file_that_is_not_there(driver: Driver) -> None:
    other = elsewhere(driver, where=BESIDE, files=("no-such.py",))
    with pytest.raises(
        BadConfig, match=f"the client's file {FOREIGN}/no-such.py cannot be read: No such file"
    ):
        local_client.open_client(other, REDIS)
    other.close()


def test_laila_is_not_looked_for(driver: Driver) -> None:
    """No stranger, no secret, no environment of laila's."""
    assert driver.state("stranger") is NodeState.ABSENT
    with pytest.raises(LabError, match="stranger"):
        driver.start("stranger")
    with pytest.raises(BadConfig, match="redis is no node of laila's"):
        driver.inside(REDIS)
    assert b"LAILA_NAME" not in driver.exec(REDIS, ["env"]).stdout
    assert driver.door(REDIS) == "redis:6379"
    assert driver.describe()["image"] == "laila-lab-redis:dev"


def test_files_of_its_state_keep_their_owner(driver: Driver) -> None:
    """They are read and written below the only volume that it mounts."""
    assert driver.state_path(REDIS) == "/data"
    owner = ["sh", "-c", "echo old > /data/x; chown 42:43 /data/x; chmod 640 /data/x"]
    assert driver.exec(REDIS, owner).code == 0
    driver.write(REDIS, "x", b"new")
    driver.write(REDIS, "y", b"other")
    shown = driver.exec(REDIS, ["stat", "-c", "%n %u %g %a", "/data/x", "/data/y"]).stdout.decode()
    assert shown == "/data/x 42 43 640\n/data/y 0 0 644\n"
    assert (driver.read(REDIS, "x"), driver.read(REDIS, "y")) == (b"new", b"other")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import sys; sys.exit('no such server')", "ClientGone"),
        ("input(); print('{')", "ClientGone"),
        ("input(); print([1])", "ClientGone"),
        ("input(); print('{\"id\": [1]}'); input()", "ClientGone"),
        ('input(); print(\'{"id": 1, "ok": true, "result": 5}\'); input()', "BadAnswer"),
        ('input(); print(\'{"id": 1, "error": 5}\'); input()', "BadAnswer"),
        ("input(); input()", "NoAnswer"),
    ],
)
def test_a_client_that_is_none_says_nothing(
    driver: Driver, program: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies, prints rubbish, or hangs: nobody knows what it did, and the run goes on."""
    monkeypatch.setattr(remote, "MARGIN", 0.3)
    other = elsewhere(driver, argv=("python3", "-c", program))
    client = RemoteClient(local_client.open_client(other, REDIS), REDIS)
    outcome = ask(client, "read", "x", timeout=5.0 if error != "NoAnswer" else 0.2)
    assert (outcome.error, told("read", outcome)[0]) == (error, "unknown")
    if "no such server" in program:
        assert client.complaints() == " (no such server)"
    client.close(0.2)
    other.close()


# -- what others read


def test_the_page_for_other_people_shows_these_files() -> None:
    page = (ROOT / "docs" / "lab-clients.md").read_text()
    blocks = dict(re.findall(r"```(\w+)[^\n]*\n(.*?)```", page, re.DOTALL)[:3])
    assert blocks["python"] == (FOREIGN / "client.py").read_text()
    for language, name in (("yaml", "compose.yaml"), ("toml", "redis.toml")):
        lines = [line for line in blocks[language].splitlines() if line and not line.startswith("#")]
        assert set(lines) <= set((FOREIGN / name).read_text().splitlines())


def test_the_page_names_every_operation_and_workload() -> None:
    page = (ROOT / "docs" / "lab-clients.md").read_text()
    named = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert set(protocol.OPS) <= named
    assert {name for name in workloads.WORKLOADS if f"`{name}`" not in page} == set()


# -- without an engine


def test_only_a_topology_with_a_client_has_one() -> None:
    class Fake:
        topology = replicated()

    with pytest.raises(BadConfig, match=r"the topology 'replicated' has no \[client\]"):
        local_client.open_client(Fake(), "node1")  # type: ignore[arg-type]  # it only has a topology


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_text("")
    spec = ClientSpec(("x",), files=("a/x", "b/x"), directory=str(tmp_path))
    with pytest.raises(BadConfig, match="two of the client's files are named x"):
        local_client.read_files(spec)
