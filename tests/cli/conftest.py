"""The harness of tests/node serves here too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "node"))

from running import Nodes  # found through the line above


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Nodes that share a secret; all are gone when the module's tests end."""
    found = Nodes(tmp_path_factory.mktemp("nodes"))
    yield found
    found.close()
