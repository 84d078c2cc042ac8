"""Signers that live as long as a test."""

from __future__ import annotations

import pytest

from laila.artifacts import Signer, TrustSet
from laila.transport.identity import Identity


@pytest.fixture
def me() -> Identity:
    return Identity.ephemeral()


@pytest.fixture
def stranger() -> Identity:
    return Identity.ephemeral()


@pytest.fixture
def trust(me: Identity) -> TrustSet:
    return TrustSet([me])


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's real identity signs in tests."""
    monkeypatch.delenv("LAILA_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def signer(me: Identity) -> Signer:
    return Signer(me)
