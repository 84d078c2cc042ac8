"""The folder that a run leaves: report, history, result, environment, and a log for each node."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from laila.errors import BadConfig
from laila.lab.drivers.base import Driver


@dataclass(frozen=True, slots=True)
class Folder:
    """`<out>/<run-id>/`. Made at once, filled while the run goes on."""

    path: Path

    @classmethod
    def make(cls, out: str, run_id: str) -> Folder:
        path = Path(out) / run_id
        try:
            (path / "logs").mkdir(parents=True)
        except OSError as error:
            raise BadConfig(
                f"cannot write the run's folder {path}: {error.strerror}; choose another with --out"
            ) from error
        return cls(path)

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def write_environment(self, facts: dict[str, Any]) -> None:
        (self.path / "environment.json").write_text(
            json.dumps(facts, indent=1, default=str) + "\n", encoding="utf-8"
        )

    def save_logs(self, driver: Driver) -> None:
        """Every node's log, also of one that never got far; a driver that cannot give one says so in its
        place.
        """
        for node in (*driver.topology.nodes, driver.topology.stranger):
            try:
                text = driver.logs(node.name)
            except Exception as error:
                text = f"no log: {error}\n".encode()
            (self.path / "logs" / f"{node.name}.log").write_bytes(text)


def environment(driver: Driver, seed: int, command: str) -> dict[str, Any]:
    """Where and how a run was made."""
    return {
        "laila": _version("laila-kit"),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "ci": bool(os.environ.get("CI")),
        "driver": {"name": driver.name, **driver.describe()},
        "not shown by this driver": driver.capabilities.lines(),
        "packages": {name: _version(name) for name in ("docker", "cryptography", "msgpack", "numpy", "rich")},
        "topology": driver.topology.to_dict(),
        "seed": seed,
        "command": command,
        "executable": sys.executable,
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
