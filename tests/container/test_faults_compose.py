"""Faults of services of a compose project: one of each sort that the driver does in its own way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
from compose_support import need_engine
from fault_conformance import FaultConformance

from laila.lab.topology import Topology, replicated

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


class TestFaultsOfServices(FaultConformance):
    driver_name = "compose"
    specs: ClassVar[tuple[str, ...]] = (
        "partition@node1/node2",
        "pause@node2",
        "kill@node1",
        "latency:ms=60@node2",
        "power-loss@node1",
    )
    turns: ClassVar[tuple[str, ...]] = ("partition@node1/node2",)
    heals_alone = True

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _compose(cls, engine: Any) -> None:
        """Before the lab is made."""
        need_engine()

    @classmethod
    def shape(cls) -> Topology:
        return replace(replicated(2), state_mib=32)
