"""Nodes that a scheduler places on machines: what it does to them, of its own accord or because somebody said so.

A pod that is replaced is another one afterwards, perhaps on another machine; what its node keeps stays.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pod:
    """What a node runs in, now."""

    uid: str
    machine: str
    """Empty while the scheduler has none for it."""

    def __str__(self) -> str:
        return f"{self.uid[:8]} on {self.machine or 'no machine'}"


class Placement(abc.ABC):
    """Of one run. What replaces a pod returns when the old one is gone; `Driver.start` waits for the other one."""

    @abc.abstractmethod
    def hindrance(self) -> str:
        """Why pods cannot be replaced here, and what to do about it; empty when they can."""

    @abc.abstractmethod
    def no_draining(self) -> str:
        """Why machines cannot be drained here; empty when they can."""

    @abc.abstractmethod
    def pod(self, name: str) -> Pod | None:
        """That of a node; None while it has none."""

    @abc.abstractmethod
    def roll(self, name: str) -> None:
        """As `kubectl rollout restart` does."""

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """As somebody does who thinks that it helps."""

    @abc.abstractmethod
    def evict(self, name: str, within: float = 60.0) -> None:
        """By the eviction API, which heeds the budget: asked again while that refuses. Raises LabError when it does so
        for `within` seconds.
        """

    @abc.abstractmethod
    def cordon(self, machine: str) -> None:
        """Let nothing new be placed there. Raises LabError for a machine that somebody else has closed."""

    @abc.abstractmethod
    def cordoned(self) -> tuple[str, ...]:
        """Machines that this run has closed."""

    @abc.abstractmethod
    def uncordon(self, machines: Sequence[str] | None = None) -> None:
        """Open what this run has closed: these of them, or all."""
