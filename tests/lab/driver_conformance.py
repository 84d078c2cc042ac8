"""What must hold for every driver. A driver's test file subclasses DriverConformance and says how to choose it.

One lab of two nodes serves all tests of a class; each test asks for nodes in the state that it needs.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from lab_support import until

from laila.errors import BadConfig, DeadlineExceeded, LabError
from laila.lab import drivers, registry, standing
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.procid import ProcessId
from laila.lab.remote import RemoteClient
from laila.lab.topology import replicated


class DriverConformance:
    """`driver_name` is the driver's name."""

    driver_name: ClassVar[str]

    @classmethod
    def make(cls) -> Driver:
        """A new run, registered, nothing made yet."""
        shape = replicated(2)
        controller = ProcessId.of(os.getpid())
        run = registry.Run(registry.new_run_id(), cls.driver_name, shape.to_dict(), "check", controller)
        run.save()
        return drivers.make(run, shape)

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("class-home")

    @pytest.fixture(autouse=True)
    def _same_home(self, home: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAILA_LAB_HOME", str(home))

    @pytest.fixture(scope="class")
    @classmethod
    def driver(cls, home: Path) -> Iterator[Driver]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAILA_LAB_HOME", str(home))
            made = cls.make()
            made.prepare()
        yield made
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAILA_LAB_HOME", str(home))
            assert made.remove() == []
            made.close()

    @pytest.fixture
    def node(self, driver: Driver) -> str:
        """node1, healthy."""
        return self.healthy(driver, "node1")

    def healthy(self, driver: Driver, name: str) -> str:
        state = driver.state(name)
        if state is NodeState.PAUSED:
            driver.resume(name)
        elif state is not NodeState.RUNNING:
            driver.start(name)
        until(lambda: driver.exec(name, ["laila", "health"]).code == 0, f"{name} to be healthy")
        return name

    # -- a node that is not there

    def test_a_node_that_was_never_started_is_absent(self, driver: Driver) -> None:
        assert driver.state("stranger") is NodeState.ABSENT
        assert driver.logs("stranger") == b""
        for act in (driver.kill, driver.stop, driver.pause, driver.resume):
            with pytest.raises(LabError, match="stranger"):
                act("stranger")
        with pytest.raises(LabError, match="it is absent, not running"):
            driver.exec("stranger", ["true"])

    def test_an_unknown_node_is_answered_with_those_that_exist(self, driver: Driver) -> None:
        for act in (
            driver.state,
            driver.start,
            driver.kill,
            driver.logs,
            driver.address,
            driver.inside,
            driver.door,
        ):
            with pytest.raises(BadConfig, match="it has node1, node2"):
                act("nope")

    # -- programs beside a node

    def test_a_program_beside_a_node_leaves_code_and_outputs(self, driver: Driver, node: str) -> None:
        output = driver.exec(node, ["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (output.code, output.stdout, output.stderr) == (3, b"out\n", b"err\n")

    def test_large_output_is_whole(self, driver: Driver, node: str) -> None:
        output = driver.exec(node, ["sh", "-c", "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2"])
        assert (len(output.stdout), len(output.stderr)) == (3_000_000, 1_000_000)

    def test_laila_is_on_its_path_and_knows_the_node(self, driver: Driver, node: str) -> None:
        assert b"0." in driver.exec(node, ["laila", "version"]).stdout
        status = json.loads(driver.exec(node, ["laila", "status", "--json"]).stdout)
        assert status["name"] == node

    def test_a_program_that_does_not_end_is_given_up(self, driver: Driver, node: str) -> None:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"waited 0.5 s for `sleep 20` beside node1"):
            driver.exec(node, ["sleep", "20"], timeout=0.5)
        assert time.monotonic() - started < 5

    def test_a_program_that_does_not_exist_is_an_error(self, driver: Driver, node: str) -> None:
        with pytest.raises(LabError, match="no-such-program"):
            driver.exec(node, ["no-such-program"])

    def test_a_conversation_in_lines(self, driver: Driver, node: str) -> None:
        channel = driver.open(
            node, ["sh", "-c", 'while read line; do echo "got $line"; echo "saw $line" >&2; done']
        )
        lines = channel.lines()
        for word in (b"one", b"x" * 100_000, b"three"):
            channel.send(word)
            assert next(lines) == b"got " + word
        end = threading.Thread(target=lambda: list(lines))
        end.start()
        until(lambda: channel.stderr().endswith("saw three\n"), "its complaint")
        assert channel.close() == 0
        end.join(5)
        assert not end.is_alive()
        with pytest.raises(LabError, match="gone"):
            channel.send(b"too late")

    def test_a_program_that_ignores_the_end_of_its_input_is_ended(self, driver: Driver, node: str) -> None:
        channel = driver.open(node, ["sleep", "30"])
        started = time.monotonic()
        channel.close(timeout=0.3)
        assert time.monotonic() - started < 5

    # -- life and death

    def test_a_running_node_is_not_started_again(self, driver: Driver, node: str) -> None:
        with pytest.raises(LabError, match="it is running"):
            driver.start(node)

    def test_a_killed_node_keeps_its_state_and_takes_programs_with_it(
        self, driver: Driver, node: str
    ) -> None:
        driver.write(node, "kept", b"bytes\0of it")
        identity = self.identity(driver, node)
        channel = driver.open(node, ["sh", "-c", "while read line; do echo $line; done"])
        ended = threading.Thread(target=lambda: list(channel.lines()))
        ended.start()
        driver.kill(node)
        assert driver.state(node) is NodeState.EXITED
        ended.join(5)
        assert not ended.is_alive()
        channel.close()
        self.healthy(driver, node)
        assert driver.read(node, "kept") == b"bytes\0of it"
        assert self.identity(driver, node) == identity

    def test_a_stopped_node_ends_by_itself(self, driver: Driver, node: str) -> None:
        assert driver.stop(node, grace=15) == 0
        assert driver.state(node) is NodeState.EXITED
        with pytest.raises(LabError, match="exited"):
            driver.stop(node)

    def test_logs_are_of_all_starts(self, driver: Driver, node: str) -> None:
        before = driver.logs(node).count(b'"ready"')
        driver.restart(node)
        self.healthy(driver, node)
        until(lambda: driver.logs(node).count(b'"ready"') == before + 1, "another ready in its log")

    def test_a_paused_node_does_nothing_until_it_is_resumed(self, driver: Driver, node: str) -> None:
        client = RemoteClient(driver, node)
        assert client.call("hello", timeout=30).ok
        driver.pause(node)
        assert driver.state(node) is NodeState.PAUSED
        with pytest.raises(LabError, match="it is paused, not running"):
            driver.exec(node, ["true"])
        found = []
        asking = threading.Thread(target=lambda: found.append(client.call("peers", timeout=20)))
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()
        driver.resume(node)
        asking.join(20)
        assert found[0].ok
        assert driver.state(node) is NodeState.RUNNING
        client.close()

    def test_a_paused_node_can_be_killed(self, driver: Driver, node: str) -> None:
        driver.pause(node)
        driver.kill(node)
        assert driver.state(node) is NodeState.EXITED

    def test_a_node_that_is_cut_off_is_alone_until_it_rejoins(self, driver: Driver, node: str) -> None:
        """The others lose it and it loses them, while it is still spoken with."""
        if not driver.capabilities.cut:
            with pytest.raises(BadConfig, match=f"the {driver.name} driver cannot cut node1 off"):
                driver.cut(node)
            return
        other = self.healthy(driver, "node2")
        clients = {name: RemoteClient(driver, name) for name in (node, other)}
        for name, peer in ((node, other), (other, node)):
            until(lambda: [i["peer_name"] for i in self.up(clients[name])] == [peer], f"{name} to see {peer}")  # noqa: B023  asked at once
        driver.cut(node)
        for name in clients:
            until(lambda: self.up(clients[name]) == [], f"{name} to be alone")  # noqa: B023  asked at once
        assert driver.exec(node, ["laila", "health"]).code == 0
        driver.rejoin(node)
        for name, peer in ((node, other), (other, node)):
            until(lambda: [i["peer_name"] for i in self.up(clients[name])] == [peer], f"{name} to see {peer}")  # noqa: B023  asked at once
        for client in clients.values():
            client.close()

    # -- files, places, secrets

    @pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
    def test_files_outside_the_state_directory_are_out_of_reach(
        self, driver: Driver, node: str, path: str
    ) -> None:
        with pytest.raises(LabError, match="not inside the state directory"):
            driver.write(node, path, b"")
        with pytest.raises(LabError, match="not inside the state directory"):
            driver.read(node, path)

    def test_a_file_that_is_not_there_is_an_error(self, driver: Driver, node: str) -> None:
        with pytest.raises(LabError, match="missing"):
            driver.read(node, "missing")

    def test_programs_beside_a_node_find_its_state_where_the_driver_says(
        self, driver: Driver, node: str
    ) -> None:
        driver.write(node, "found", b"here")
        assert driver.exec(node, ["cat", f"{driver.state_path(node)}/found"]).stdout == b"here"

    def test_the_secret_is_a_file_and_nowhere_else(self, driver: Driver, node: str) -> None:
        secret = driver.exec(node, ["cat", driver.inside(node).secret_file]).stdout.strip()
        assert len(secret) > 20
        assert secret not in driver.exec(node, ["env"]).stdout
        assert secret not in driver.logs(node)
        assert secret not in json.dumps(driver.describe()).encode()

    def test_nodes_reach_each_other_at_their_doors(self, driver: Driver, node: str) -> None:
        other = self.healthy(driver, "node2")
        client = RemoteClient(driver, node)
        until(lambda: [item["peer_name"] for item in self.up(client)] == [other], "node1 to list node2")
        client.close()

    def test_another_command_finds_the_same_nodes(self, driver: Driver, node: str) -> None:
        with standing.attached(registry.load(driver.run.run_id)) as again:
            assert again.state(node) is NodeState.RUNNING
            assert again.address(node) == driver.address(node)
            assert again.exec(node, ["laila", "health"]).code == 0

    # -- removal

    def test_removal_takes_all_of_this_run_and_nothing_of_another(self, driver: Driver, node: str) -> None:
        with self.make() as second:
            second.prepare()
            second.start("node1")
            channel = second.open("node1", ["sleep", "30"])
            assert len(second.remains()) > 3
            before = driver.remains()
            assert second.remove() == []
            assert second.remains() == []
            assert driver.remains() == before
            assert driver.state(node) is NodeState.RUNNING
            assert second.remove() == [], "removing twice is removing once"
            channel.close(0.1)

    def identity(self, driver: Driver, name: str) -> str:
        return str(json.loads(driver.exec(name, ["laila", "status", "--json"]).stdout)["id"])

    def up(self, client: RemoteClient) -> list[dict[str, str]]:
        return [item for item in client.must("peers", timeout=30)["peers"] if item["state"] == "up"]
