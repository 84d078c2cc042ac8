"""Agents in temporary directories, with identities of their own: nobody's key is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.agents import DistributedAgent
from laila.artifacts import TrustSet
from laila.transport.identity import Identity


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's default identity is, also for its child processes."""
    directory = tmp_path / "state"
    monkeypatch.setenv("LAILA_STATE_DIR", str(directory))
    monkeypatch.delenv("LAILA_SECRET_FILE", raising=False)
    return directory


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The shared directory; the first agent makes it."""
    return tmp_path / "shared"


@pytest.fixture
def make(shared: Path) -> Iterator[Callable[..., DistributedAgent]]:
    """Makes agents in `shared`, or elsewhere; closes them in the end."""
    with contextlib.ExitStack() as stack:

        def make_one(agent_id: str, path: Path | None = None, **options: Any) -> DistributedAgent:
            return stack.enter_context(DistributedAgent(agent_id, path or shared, **options))

        yield make_one


class Nodes:
    """Identities that trust each other, and strangers."""

    def __init__(self, count: int) -> None:
        self.identities = [Identity.ephemeral() for _ in range(count)]
        self.trust = TrustSet(self.identities)

    def options(self, number: int) -> dict[str, Any]:
        """What makes an agent one of node `number`."""
        return {"identity": self.identities[number], "trust": self.trust}


@pytest.fixture
def nodes() -> Nodes:
    return Nodes(3)
