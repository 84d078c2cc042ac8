"""What other drivers promise of faults holds for pods too: files are damaged, nodes die and stand still."""

from __future__ import annotations

from typing import ClassVar

from test_fault_damage import DamageFaults
from test_fault_life import LifeFaults


class TestDamageToPods(DamageFaults):
    driver_name = "kubernetes"


class TestLifeOfPods(LifeFaults):
    driver_name = "kubernetes"
    specs: ClassVar[tuple[str, ...]] = (*LifeFaults.specs, "nofile@node1")
