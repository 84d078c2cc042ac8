"""A process that locks on command: one JSON array per line in, one answer per line out.

Run as `python locker.py URL NODE`. Other processes are the point of a lock, so the suites use real ones.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

PATIENCE = 20.0
"""Seconds after which an answer of another process is overdue."""
ROOT = Path(__file__).resolve().parents[2]


class Locker:
    """Another process with a lock service of its own on the same place."""

    def __init__(self, url: str, node: str = "other") -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, url, node],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._pending = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, command: str, *arguments: Any) -> None:
        """Ask, without waiting for the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, patience: float = PATIENCE) -> Any:
        """The next answer; fails when it does not come in time."""
        assert self.process.stdout is not None
        until = time.monotonic() + patience
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"pid {self.pid} did not answer within {patience} s"
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            assert chunk, f"pid {self.pid} ended with {self.process.wait(5)}"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return json.loads(line)

    def __call__(self, command: str, *arguments: Any) -> Any:
        self.send(command, *arguments)
        return self.answer()

    def stop(self) -> None:
        """SIGSTOP: no thread of it does anything any more, and its locks stay."""
        os.kill(self.pid, signal.SIGSTOP)
        until = time.monotonic() + PATIENCE
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            while stat.read_text().rsplit(")", 1)[1].split()[0] not in "Tt":
                assert time.monotonic() < until
                time.sleep(0.005)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def main(url: str, node: str) -> None:
    from laila.locks import connect

    with connect(url, node=node) as service:
        worker = Worker(service)
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            print(json.dumps(getattr(worker, command)(*arguments)), flush=True)


class Worker:
    """The commands. Locks and holds are kept by name."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.locks: dict[str, Any] = {}
        self.holds: dict[str, Any] = {}

    def lock(self, name: str) -> Any:
        if name not in self.locks:
            self.locks[name] = self.service.lock(name)
        return self.locks[name]

    def acquire(self, name: str, timeout: float | None, shared: bool = False, purpose: str = "") -> Any:
        """The token, or why there is none."""
        from laila.errors import LockError

        try:
            self.holds[name] = self.lock(name).acquire(timeout, shared=shared, purpose=purpose)
        except LockError as error:
            return f"{type(error).__name__}: {error}"
        return self.holds[name].token

    def release(self, name: str) -> str:
        self.holds.pop(name).release()
        return "released"

    def loss(self, name: str) -> str:
        """Why the hold is lost; "" while it stands."""
        return self.holds[name].loss

    def hammer(self, name: str, turns: int, held: float, share: float = 0.0) -> list[list[Any]]:
        """[from, to, token, shared] of so many holds; every `share`-th part of them shared."""
        lock, intervals, debt = self.lock(name), [], 0.0
        for _ in range(turns):
            debt += share
            shared = debt >= 1
            debt -= shared
            with lock.hold(60, shared=shared) as hold:
                start = time.monotonic()
                time.sleep(held)
                intervals.append([start, time.monotonic(), hold.token, shared])
        return intervals

    def fork(self, name: str) -> dict[str, Any]:
        """Hold, fork, and let the child release what it has; what child and parent saw of it."""
        lock = self.lock(name)
        hold = lock.acquire(10)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                seen = {"lost": hold.lost, "held": lock.held is not None}
                hold.release()
                got = lock.try_acquire()
                seen["acquired"] = got is not None
                os.write(writing, json.dumps(seen).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        report = json.loads(os.read(reading, 4096) or b"{}")
        os.close(reading)
        os.close(writing)
        self.holds[name] = hold
        return {"child": report, "parent lost": hold.lost}


if __name__ == "__main__":
    main(*sys.argv[1:])
