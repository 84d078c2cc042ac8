"""Services of compose projects keep every promise of a driver; and what is theirs alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from compose_support import IMAGE, ROOT, need_engine, new_run, project, running, write
from driver_conformance import DriverConformance
from lab_support import only, run_check, until

from laila.errors import BadConfig, LabError
from laila.lab import drivers, registry, standing
from laila.lab.drivers import engine
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.drivers.compose import ComposeDriver
from laila.lab.remote import RemoteClient
from laila.lab.topology import load, replicated, shared_volume

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("_engine")]
WELL = "healthcheck: {disable: true}"
ASLEEP = f'command: ["-c", "echo awake; exec sleep 1000"], entrypoint: [sh], {WELL}'
PLACE = "/tmp/laila-lab"  # noqa: S108  in a container
FOREIGN = '[client]\nargv = ["cat"]\n'


@pytest.fixture(scope="module")
def _engine() -> None:
    need_engine()


class TestComposeDriver(DriverConformance):
    """The shipped file of replicated."""

    driver_name: ClassVar[str] = "compose"

    @pytest.fixture(autouse=True)
    def _needs_engine(self, _engine: None) -> None:
        """Before the lab is made."""

    def test_a_node_is_what_the_file_says(self, driver: Driver, node: str) -> None:
        assert isinstance(driver, ComposeDriver)
        host = driver._container(node).attrs["HostConfig"]
        assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
        assert (host["Memory"], host["PidsLimit"]) == (512 << 20, 256)
        assert host["RestartPolicy"]["Name"] in ("", "no")
        assert driver.exec(node, ["sh", "-c", "echo x > /x"]).code != 0

    def test_a_node_is_ready_when_its_health_check_says_so(self, driver: Driver, node: str) -> None:
        driver.wait_ready(node, 30)
        driver.kill(node)
        with pytest.raises(
            LabError, match=r"node1 ended with 137 instead of getting ready; its last words: \{.*"
        ):
            driver.wait_ready(node, 5)


def test_the_same_check_as_everywhere(tmp_path: Path) -> None:
    """Nodes of the shipped file see each other, refuse the stranger, and leave nothing."""
    result, _ = run_check(replicated(2), "compose", tmp_path, steps=only("stranger"))
    assert not [step for step in result.steps if str(step.state) != "ok"]


def test_volumes_that_a_check_adds_are_mounted_in_the_services() -> None:
    """One of a given size, and one that nobody may write, beside the one that the file says."""
    from laila.lab.checks.outfit import READ_ONLY, SMALL, outfit

    shape = outfit(shared_volume(2))
    driver = drivers.make(new_run(shape), shape)
    try:
        driver.prepare()
        for name in shape.names:
            driver.start(name)
        at = driver.volume_path("node1", "shared")
        assert driver.exec("node1", ["sh", "-c", f"echo hello > {at}/note"]).code == 0
        again = driver.exec("node2", ["cat", f"{driver.volume_path('node2', READ_ONLY)}/note"])
        assert again.stdout == b"hello\n"
        refused = driver.exec("node2", ["sh", "-c", f"echo x > {driver.volume_path('node2', READ_ONLY)}/x"])
        assert b"ead-only" in refused.stderr
        small = driver.volume_path("node1", SMALL)
        full = driver.exec("node1", ["sh", "-c", f"head -c 20000000 /dev/zero > {small}/x"])
        assert b"No space left" in full.stderr
    finally:
        assert driver.remove() == []
        driver.close()


def test_network_volumes_are_for_the_docker_driver() -> None:
    with pytest.raises(
        BadConfig, match="the compose driver has no sshfs volume, because .*; use --driver docker"
    ):
        drivers.choose("compose", shared_volume(3, "sshfs"))


def test_nodes_of_laila_in_a_file_of_somebody(tmp_path: Path) -> None:
    """They are known by their settings, and the file stays as it is, but for the stranger that a check needs."""
    text = (ROOT / "compose" / "replicated.yaml").read_text().replace("7400", "7411")
    text = text.replace("services:\n", f"services:\n  proxy: {{image: '{IMAGE}', {ASLEEP}}}\n")
    shape = load(str(write(tmp_path, text)))
    assert (shape.names, shape.foreign) == (("node1", "node2", "node3"), False)
    driver = drivers.make(new_run(shape), shape)
    try:
        driver.prepare()
        for name in ("node1", "node2", "stranger"):
            driver.start(name)
        assert (driver.door("node1"), driver.inside("node1").peer) == ("node1:7411", "127.0.0.1:7411")
        client = RemoteClient(driver, "node1")
        until(
            lambda: [one["peer_name"] for one in up_peers(client)] == ["node2"],
            "node1 to see node2, and only it",
        )
        client.close()
        said = driver.exec("stranger", ["laila", "peers"]).stdout
        assert b"does not share this secret" in said
        assert b"node2:7411" in said
    finally:
        assert driver.remove() == []
        driver.close()


def up_peers(client: RemoteClient) -> list[dict[str, str]]:
    return [one for one in client.must("peers", timeout=30)["peers"] if one["state"] == "up"]


def test_services_of_somebody_are_somebodys() -> None:
    """The example for users of pytest has no client program: its test is the client."""
    shape = load(str(ROOT / "docs" / "examples" / "keyvalue" / "app.toml"))
    assert (shape.client, shape.foreign) == (None, True)


def test_more_nodes_than_the_file_has() -> None:
    with pytest.raises(BadConfig, match=r"replicated.yaml has no service node4; it has node1, node2, node3"):
        drivers.choose("compose", replicated(4))


# -- bad input


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("services: [", "compose does not take .*compose.yaml: yaml: line 1"),
        ("services: {web: {imag: x}}", "additional properties 'imag' not allowed"),
        ("services: {web: {image: x, depends_on: [db]}}", "depends on undefined service"),
        ("services: {}", "compose.yaml"),
    ],
)
def test_a_file_that_is_none_is_told_in_composes_own_words(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        load(str(write(tmp_path, text, FOREIGN)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path, "", FOREIGN)
    (tmp_path / "compose.yaml").unlink()
    with pytest.raises(BadConfig, match=f"there is no compose file {tmp_path}/compose.yaml"):
        load(str(file))


def test_a_service_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    file = write(
        tmp_path, "services: {web: {image: x}, db: {image: x}}", f'[[nodes]]\nname = "cache"\n{FOREIGN}'
    )
    with pytest.raises(BadConfig, match="compose.yaml has no service cache; it has db, web"):
        drivers.choose("auto", load(str(file)))


def test_an_image_that_nobody_has_is_told(tmp_path: Path) -> None:
    file = write(tmp_path, "services: {web: {image: 'laila-lab-nobody:none', pull_policy: never}}", FOREIGN)
    with pytest.raises(LabError, match=r"compose could not make the project laila-.*laila-lab-nobody:none"):
        with running(file):
            pass


# -- other people's projects

SHOP = f"""
services:
  web:
    image: {IMAGE}
    entrypoint: [sh]
    command: ["-c", "echo awake; exec sleep 1000"]
    {WELL}
    depends_on: {{db: {{condition: service_healthy}}, schema: {{condition: service_completed_successfully}}}}
    ports: ["80:80"]
    container_name: everybodys-web
  schema:
    image: {IMAGE}
    entrypoint: [sh]
    command: ["-c", "echo made"]
    {WELL}
    depends_on: [db]
  db:
    image: {IMAGE}
    entrypoint: [sh]
    command: ["-c", "sleep 0.5; touch /tmp/ready; exec sleep 1000"]
    healthcheck: {{test: "test -e /tmp/ready", interval: 1s, start_period: 5s, start_interval: 200ms}}
    volumes: ["data:/data"]
  front:
    image: {IMAGE}
    entrypoint: [sh]
    command: ["-c", "exec sleep 1000"]
    {WELL}
    depends_on: [web]
volumes:
  data: {{name: everybodys-data}}
"""


def up(driver: Driver, service: str) -> bool:
    assert isinstance(driver, ComposeDriver)
    return str(driver._of_service(service).status) == "running"


def test_services_that_are_no_nodes_are_started_when_their_time_comes(tmp_path: Path) -> None:
    """What a node needs before it, in its condition; what needs the node after it."""
    file = write(tmp_path, SHOP, f'[[nodes]]\nname = "web"\n{FOREIGN}')
    with running(file) as driver:
        assert (up(driver, "db"), up(driver, "front"), driver.state("web")) == (True, False, NodeState.ABSENT)
        driver.start("web")
        assert up(driver, "front")
        driver.wait_ready("web")
        driver.kill("web")
        driver.start("web")
        until(lambda: driver.logs("web").count(b"awake") == 2, "its words of both starts")


def test_a_node_waits_for_nodes_that_it_needs(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP, FOREIGN)
    shape = load(str(file))
    assert shape.names == ("db", "schema", "web", "front"), "in the order in which they can be started"
    with running(file) as driver:
        with pytest.raises(LabError, match="schema depends on db, which was not started; start db before it"):
            driver.start("schema")
        for name in shape.names:
            driver.start(name)
        assert driver.state("schema") is NodeState.EXITED
        assert driver.state_path("db") == "/data"
        with pytest.raises(
            BadConfig, match=r"where the state of web lies is not known: it mounts no volume; say `state`"
        ):
            driver.state_path("web")


def test_two_runs_of_one_file_never_meet(tmp_path: Path) -> None:
    """It fixes a host port, a container's name and a volume's name."""
    file = write(tmp_path, SHOP, f'[[nodes]]\nname = "web"\n{FOREIGN}')
    with running(file) as first, running(file) as second:
        for driver in (first, second):
            driver.start("web")
        assert first.ips("web") != second.ips("web")
        assert {one.partition(" ")[2] for one in first.remains()}.isdisjoint(
            one.partition(" ")[2] for one in second.remains()
        )


def test_a_node_that_does_not_get_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    ill = ASLEEP.replace(WELL, 'healthcheck: {test: "echo no heart; exit 1", interval: 200ms}')
    text = f"""services:
  ill: {{image: "{IMAGE}", {ill}}}
  dead: {{image: "{IMAGE}", entrypoint: [sh], command: ["-c", "echo cannot go on; exit 7"]}}
"""
    with running(write(tmp_path, text, FOREIGN)) as driver:
        driver.start("ill")
        driver.start("dead")
        assert isinstance(driver, ComposeDriver)
        until(lambda: driver._container("ill").attrs["State"]["Health"]["Log"], "its first health check")
        waited = "waited 0.5 s for ill to be ready: it is running and (starting|unhealthy)"
        with pytest.raises(
            LabError, match=f"{waited}; its health check said: no heart; its last words: awake"
        ):
            driver.wait_ready("ill", 0.5)
        until(lambda: driver.state("dead") is NodeState.EXITED, "its end")
        with pytest.raises(
            LabError, match="dead ended with 7 instead of getting ready; its last words: cannot go on"
        ):
            driver.wait_ready("dead", 5)


def test_files_go_also_where_the_root_is_read_only(tmp_path: Path) -> None:
    """A place in memory is written by a program in the container, as the engine cannot reach it."""
    text = f"""services:
  plain: {{image: "{IMAGE}", {ASLEEP}, user: "0"}}
  walled: {{image: "{IMAGE}", {ASLEEP}, read_only: true, tmpfs: ["/tmp"]}}
  sealed: {{image: "{IMAGE}", {ASLEEP}, read_only: true}}
"""
    data = bytes(range(256)) * 1000
    with running(write(tmp_path, text, FOREIGN)) as driver:
        assert isinstance(driver, ComposeDriver)
        for name in driver.topology.names:
            driver.start(name)
        for name in ("plain", "walled"):
            driver.carry(name, PLACE, {"a file": data, "b": b""})
            assert driver.exec(name, ["cat", f"{PLACE}/a file"]).stdout == data
            assert driver.exec(name, ["cat", f"{PLACE}/b"]).code == 0
        with pytest.raises(
            LabError, match="cannot copy b to /tmp/laila-lab of .*give it a writable tmpfs at /tmp"
        ):
            driver.carry("sealed", PLACE, {"b": b"x"})


def test_what_a_killed_controller_left_is_collected(tmp_path: Path) -> None:
    """By its record, and by its labels where that is lost too."""
    file = write(tmp_path, SHOP, FOREIGN)
    program = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1]); import compose_support as support\n"
        "from pathlib import Path\n"
        "with support.running(Path(sys.argv[2])) as driver:\n"
        "    driver.start('db'); print(driver.run.run_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", program, str(Path(__file__).parent), str(file)]
    ids = []
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == -9, done.stderr
        ids.append(done.stdout.strip())
    registry.load(ids[1]).forget()
    collected = {one.run_id: one.left for one in standing.collect()}
    assert {run_id: collected.get(run_id) for run_id in ids} == {ids[0]: (), ids[1]: ()}
    client = engine.connect()
    try:
        left = [run_id for run_id, _, _ in engine.labelled_runs(client) if run_id in ids]
    finally:
        client.close()
    assert left == []


# -- projects that run already


def test_a_project_that_runs_already_is_left_as_it_was(tmp_path: Path) -> None:
    text = f"""services:
  a: {{image: "{IMAGE}", {ASLEEP}, networks: {{default: {{aliases: [other-name]}}}}}}
  b: {{image: "{IMAGE}", {ASLEEP}}}
  c: {{image: "{IMAGE}", {ASLEEP}}}
"""
    file = tmp_path / "compose.yaml"
    file.write_text(text)
    with project(file) as name:
        topology = tmp_path / "mine.toml"
        topology.write_text(f'attach = "{name}"\n{FOREIGN}')
        shape = load(str(topology))
        assert (shape.names, drivers.choose("auto", shape).name) == (("a", "b", "c"), "compose")
        driver = drivers.make(new_run(shape), shape)
        driver.prepare()
        ids = {node: driver.exec(node, ["cat", "/etc/hostname"]).stdout for node in shape.names}
        driver.start("a")  # as a check begins; it runs already
        driver.cut("a")
        assert driver.exec("b", ["getent", "hosts", "other-name"]).code != 0
        driver.pause("b")
        driver.kill("c")
        with standing.attached(driver.run) as another:  # as gc has it
            assert another.remove() == []
        assert {node: driver.state(node) for node in shape.names} == dict.fromkeys(
            shape.names, NodeState.RUNNING
        )
        assert {node: driver.exec(node, ["cat", "/etc/hostname"]).stdout for node in shape.names} == ids
        assert driver.exec("b", ["getent", "hosts", "other-name"]).code == 0
        driver.close()


def test_a_project_that_does_not_run_is_answered_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'attach = "nobodys"\n{FOREIGN}')
    with pytest.raises(BadConfig, match="no compose project 'nobodys' is here; there are: "):
        load(str(tmp_path / "mine.toml"))
