"""Plain processes keep every promise of a driver; and what is theirs alone."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from driver_conformance import DriverConformance

from laila.lab.drivers.base import Driver
from laila.lab.drivers.process import ProcessDriver


class TestProcessDriver(DriverConformance):
    driver_name = "process"

    def test_ports_stay_ours_while_a_node_is_down(self, driver: Driver, node: str) -> None:
        port = driver.address(node).port
        driver.kill(node)
        with socket.socket() as other:
            try:
                other.bind(("127.0.0.1", port))
            except OSError:
                taken = True
            else:
                taken = False
        assert taken
        self.healthy(driver, node)
        assert driver.address(node).port == port

    def test_secrets_and_state_are_for_their_owner_only(self, driver: Driver, node: str) -> None:
        assert isinstance(driver, ProcessDriver)
        assert stat.S_IMODE(Path(driver.inside(node).secret_file).stat().st_mode) == 0o600
        assert stat.S_IMODE(driver.run.path.stat().st_mode) == 0o700
