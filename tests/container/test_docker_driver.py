"""Containers keep every promise of a driver; and what is theirs alone: limits, walls, a network that leads nowhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from driver_conformance import DriverConformance

from laila.lab.drivers.base import Driver
from laila.lab.drivers.docker import DockerDriver

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


class TestDockerDriver(DriverConformance):
    driver_name = "docker"

    @pytest.fixture(autouse=True)
    def _needs_engine(self, engine: Any) -> None:
        """Before the lab is made."""

    def settings(self, driver: Driver, engine: Any, node: str) -> Any:
        assert isinstance(driver, DockerDriver)
        (container,) = engine.containers.list(
            filters={"label": [f"laila.lab.run={driver.run.run_id}", f"laila.lab.node={node}"]}
        )
        return container.attrs

    def test_a_node_runs_with_the_least_that_it_needs(self, driver: Driver, engine: Any, node: str) -> None:
        settings = self.settings(driver, engine, node)
        host = settings["HostConfig"]
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        limits = driver.topology.resources
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (
            limits.memory_mib << 20,
            limits.cpus * 1e9,
            limits.pids,
        )
        assert host["PortBindings"] in ({}, None)
        assert settings["Config"]["User"].split(":")[0] == "10001"

    def test_its_root_cannot_be_written(self, driver: Driver, node: str) -> None:
        output = driver.exec(node, ["sh", "-c", "echo x > /x"])
        assert output.code != 0
        assert b"ead-only" in output.stderr

    def test_its_network_leads_nowhere(self, driver: Driver, node: str) -> None:
        program = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
        output = driver.exec(node, ["python3", "-c", program])
        assert output.code == 1
        assert b"unreachable" in output.stderr.lower()

    def test_the_secret_is_not_in_what_the_engine_tells(self, driver: Driver, engine: Any, node: str) -> None:
        secret = driver.exec(node, ["cat", driver.inside(node).secret_file]).stdout.strip().decode()
        assert secret
        assert secret not in json.dumps(self.settings(driver, engine, node))
