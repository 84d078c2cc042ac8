"""Other processes that use a store: pieces of Python that run as `python -c`, and are talked to by lines."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Child:
    """A program with its own interpreter. `say` gives it a line on stdin, `hear` takes one from its stdout."""

    def __init__(self, code: str, *arguments: object, before: list[str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*(before or []), sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def hear(self) -> str:
        assert self.process.stdout is not None
        too_late = threading.Timer(3 * PATIENCE, self.process.kill)
        too_late.start()
        line = self.process.stdout.readline()
        too_late.cancel()
        if not line:
            self.process.wait(PATIENCE)
            assert self.process.stderr is not None
            raise AssertionError(f"it ended instead: {self.process.stderr.read()[-3000:]}")
        return line.strip()

    def say(self, line: str = "") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)


def run(code: str, *arguments: object, before: list[str] | None = None) -> str:
    """What it prints. Raises AssertionError with what it says when it fails."""
    done = subprocess.run(
        [*(before or []), sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
