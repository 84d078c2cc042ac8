"""Every test of the lab has a home of its own, so that none meets another's runs or a person's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def lab_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("lab-home")
    monkeypatch.setenv("LAILA_LAB_HOME", str(home))
    return home
