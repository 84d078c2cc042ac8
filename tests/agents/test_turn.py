"""A turn at replacing a file: over when the lock is lost, and when somebody with a later turn has been there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laila.agents.turn import Turns
from laila.artifacts import create_maif
from laila.errors import LockLost, LockTimeout
from laila.locks import FlockService


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FlockService]:
    with FlockService(tmp_path) as found:
        yield found


def version(path: Path, fence: int) -> None:
    artifact = create_maif("x")
    artifact.add_text("hello")
    artifact.name_as("x", sequence=1, fence=fence)
    artifact.save(path)


def test_a_file_of_a_later_turn(service: FlockService, tmp_path: Path) -> None:
    """Its fencing token is greater than this one's: nothing may be replaced any more."""
    path = tmp_path / "x.maif"
    with Turns(service.lock("x"), 5).take("a test") as turn:
        turn.guard(path)
        for fence in (0, turn.fence - 1, turn.fence):
            version(path, fence)
            turn.guard(path)
        version(path, turn.fence + 1)
        with pytest.raises(LockLost, match="do it again"):
            turn.guard(path)
        path.write_bytes(b"no artifact")
        turn.guard(path)


def test_a_lost_lock(service: FlockService, tmp_path: Path) -> None:
    """The lock's file was removed, so somebody else may hold the lock of that name by now."""
    with Turns(service.lock("x"), 5).take("a test") as turn:
        (tmp_path / "x.lock").unlink()
        with pytest.raises(LockLost):
            turn.guard(tmp_path / "x.maif")


def test_waiting_for_a_turn(service: FlockService, tmp_path: Path) -> None:
    """Ends after the timeout; `take_if_free` does not wait."""
    with FlockService(tmp_path) as other:
        with other.lock("x").hold(5):
            with pytest.raises(LockTimeout), Turns(service.lock("x"), 0.1).take("a test"):
                pass
            with Turns(service.lock("x"), 5).take_if_free("a test") as turn:
                assert turn is None
        with Turns(service.lock("x"), 5).take_if_free("a test") as turn:
            assert turn is not None
