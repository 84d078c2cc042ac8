"""What the harness needs to know of a contender, as data, so that the harness runs with the standard library alone."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """Where a contender's class is, its row heading, its environment, and the works it takes part in."""

    module: str
    name: str
    title: str
    encrypted: bool = False
    environment: str = "peers"
    works: tuple[str, ...] | None = None  # None: all of its group
    checkout: bool = False  # it is this checkout that is measured

    def does(self, work: str) -> bool:
        """Whether it takes part in `work`."""
        return self.works is None or work in self.works

    def load(self) -> Any:
        """The class, in a process of the contender's environment."""
        return getattr(importlib.import_module(f"benchmarks.{self.module}"), self.name)
