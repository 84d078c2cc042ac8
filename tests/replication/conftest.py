"""Keys and trust for the tests of replicas. Every test has a state directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from laila.artifacts import TrustSet
from tests.replication.versions import (
    ANOTHER,
    ME,
    NEW_SECRET,
    OLD_SECRET,
    STRANGER,
    Author,
    signer_of,
    trust_of,
)

pytest.register_assert_rewrite("tests.replication.replica_conformance")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's identity and memory are."""
    directory = tmp_path / "state"
    monkeypatch.setenv("LAILA_STATE_DIR", str(directory))
    monkeypatch.delenv("LAILA_SECRET_FILE", raising=False)
    return directory


@pytest.fixture
def trust() -> TrustSet:
    """Believes `author` and `another`, and whom the cluster vouches for."""
    return TrustSet([signer_of(ME), signer_of(ANOTHER)], secret=NEW_SECRET, also_accept=[OLD_SECRET])


@pytest.fixture
def author(trust: TrustSet) -> Author:
    return Author(ME, trust)


@pytest.fixture
def another(trust: TrustSet) -> Author:
    """A second writer who is trusted."""
    return Author(ANOTHER, trust)


@pytest.fixture
def stranger() -> Author:
    """A writer whom nobody but himself trusts."""
    return Author(STRANGER, trust_of(STRANGER))
