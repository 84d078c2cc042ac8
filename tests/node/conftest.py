"""Real nodes for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Nodes


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Nodes that share a secret; all are gone when the test ends."""
    found = Nodes(tmp_path)
    yield found
    found.close()
