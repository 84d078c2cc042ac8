"""Container tests need an engine with the node image. In CI a missing one is a failure, elsewhere a skip."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))  # the conformance suite and what supports it

from laila.lab.drivers import agents
from laila.lab.drivers import engine as docker_engine
from laila.lab.topology import replicated


def _need(image: str) -> None:
    why_not = docker_engine.hindrance(image)
    if why_not is not None:
        if os.environ.get("CI"):
            pytest.fail(f"container tests must run in CI, but {why_not}")
        pytest.skip(why_not)


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    """A client of the engine, which has the node image."""
    _need(replicated().image)
    client = docker_engine.connect()
    yield client
    client.close()


@pytest.fixture(scope="session")
def volumes_image(engine: Any) -> str:
    """The name of the image for network volumes, which the engine has."""
    image = replicated().volumes_image
    _need(image)
    return image


@pytest.fixture(scope="session")
def faults_image(engine: Any) -> str:
    """The name of the image for side containers of fault agents, which the engine has."""
    _need(agents.IMAGE)
    return agents.IMAGE


@pytest.fixture(autouse=True)
def lab_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("lab-home")
    monkeypatch.setenv("LAILA_LAB_HOME", str(home))
    return home
