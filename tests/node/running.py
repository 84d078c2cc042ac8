"""Real `laila node` processes for tests: started, asked over their status port, and always taken down."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from laila.cli.fetch import Answer, get
from laila.errors import LailaError
from laila.node.addresses import Address
from laila.secret import new_secret

LAILA = (sys.executable, "-m", "laila.cli.main")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without LAILA_ settings, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAILA_")}
    return {**kept, **(extra or {})}


def laila(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: bytes | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        [*LAILA, *arguments],
        env=environment(env),
        input=stdin,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def until(true: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `true()`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"within {seconds} s there was not: {what}"
        time.sleep(0.02)
    return value


class Running:
    """One node process. Ports are fixed before it starts, so that peers can be told."""

    def __init__(self, folder: Path, name: str, secret_file: Path, *flags: str) -> None:
        self.name = name
        self.port, self.status_port = free_port(), free_port()
        self.log = folder / f"{name}.log"
        self.state = folder / f"{name}-state"
        self.secret_file = secret_file
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, *flags: str, env: Mapping[str, str] | None = None) -> Running:
        """Start the process; does not wait for anything."""
        command = [
            *LAILA, "node", "--name", self.name, "--listen", self.address,
            "--status", f"127.0.0.1:{self.status_port}", "--secret-file", str(self.secret_file),
            "--state-dir", str(self.state), *self.flags, *flags,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment(env))
        return self

    def ready(self) -> Running:
        """Wait until /readyz says so."""
        until(self.is_ready, f"{self.name} ready; its log: {self.log_text()[-2000:]}")
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} has ended: {self.log_text()[-2000:]}"
        try:
            return self.get("/readyz").status == 200
        except LailaError:
            return False

    def get(self, path: str, timeout: float = 5.0) -> Answer:
        return get(Address("127.0.0.1", self.status_port), path, timeout=timeout)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/status.json").json()
        return document

    def links(self, state: str = "up") -> dict[str, dict[str, Any]]:
        """Links in that state, by the peer's name."""
        return {link["peer_name"]: link for link in self.status()["peers"] if link["state"] == state}

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def events(self) -> list[dict[str, Any]]:
        """The log, parsed: every line must be a JSON object."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = 20.0) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(20)


class Nodes:
    """The nodes of one test, which share a secret."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secret = new_secret()
        self.secret_file = self.file("secret", self.secret)
        self._all: list[Running] = []

    def file(self, name: str, content: str | bytes, mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def node(self, name: str, *flags: str) -> Running:
        """A node that is not started yet."""
        self._all.append(Running(self.folder, name, self.secret_file, *flags))
        return self._all[-1]

    def close(self) -> None:
        for node in self._all:
            node.kill()
