"""The node image: small, nothing to build with, any user, and its PID 1 ends when told to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import laila
from laila.lab.topology import replicated

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]
IMAGE = replicated().image
MB = 10**6


@contextmanager
def running(engine: Any, secret: Path, **options: Any) -> Iterator[Any]:
    """A single node without a network, as strictly walled in as the compose files do it."""
    secret.chmod(0o444)
    container = engine.containers.run(
        IMAGE,
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        volumes={str(secret): {"bind": "/run/secrets/laila_secret", "mode": "ro"}},
        tmpfs={"/tmp": "size=16m", "/var/lib/laila": "size=64m,mode=1777"},  # noqa: S108  inside the container
        labels={"laila.test": "image"},
        **options,
    )
    try:
        yield container
    finally:
        container.remove(force=True)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(laila.new_secret())
    tmp_path.chmod(0o755)
    return path


def healthy(container: Any, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if container.exec_run(["laila", "health"]).exit_code == 0:
            return True
        time.sleep(0.2)
    return False


def test_it_adds_less_than_120_mb_to_its_base(engine: Any) -> None:
    image = engine.images.get(IMAGE)
    base = image.labels["org.opencontainers.image.base.name"]
    assert image.attrs["Size"] - engine.images.get(base).attrs["Size"] < 120 * MB


def test_its_settings(engine: Any) -> None:
    config = engine.images.get(IMAGE).attrs["Config"]
    assert config["User"].split(":")[0] == "10001"
    assert (config["Entrypoint"], config["Cmd"]) == (["laila"], ["node"])
    assert config["Healthcheck"]["Test"] == ["CMD", "laila", "health"]
    assert config.get("StopSignal") == "SIGTERM"
    assert "org.opencontainers.image.title" in config["Labels"]


def test_nothing_to_build_with_is_left(engine: Any) -> None:
    program = (
        "import importlib.util, shutil; print("
        "[m for m in ('pip', 'ensurepip', 'setuptools', 'wheel') if importlib.util.find_spec(m)],"
        "[p for p in ('gcc', 'cc', 'make', 'pip', 'pip3', 'curl', 'git') if shutil.which(p)])"
    )
    output = engine.containers.run(
        IMAGE, entrypoint=["/opt/laila/bin/python", "-c", program], remove=True, network_mode="none"
    )
    assert output.decode().split() == ["[]", "[]"]


@pytest.mark.parametrize("user", [None, "4242:0"], ids=["its own user", "any user"])
def test_a_node_lives_and_ends_in_order(engine: Any, secret: Path, user: str | None) -> None:
    """Healthy on a read-only root as whatever user; SIGTERM ends it with code 0 within its grace period."""
    with running(engine, secret, user=user) as container:
        assert healthy(container), container.logs().decode()
        assert container.exec_run(["sh", "-c", "echo x > /opt/laila/x"]).exit_code != 0
        started = time.monotonic()
        container.stop(timeout=20)
        assert time.monotonic() - started < 15
        assert container.wait()["StatusCode"] == 0


def test_a_bad_configuration_is_one_sentence(engine: Any, secret: Path) -> None:
    secret.write_text("password")
    with running(engine, secret) as container:
        assert container.wait(timeout=30)["StatusCode"] == 2
        log = container.logs().decode()
        assert "too weak" in log
        assert "Traceback" not in log
        assert len(log.strip().splitlines()) == 1
