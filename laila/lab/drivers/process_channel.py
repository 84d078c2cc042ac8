"""A program that this process has started, and talks with in lines over pipes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import IO

from laila.errors import LabError
from laila.lab.drivers.base import MAX_LINE, Channel


class ProcessChannel(Channel):
    """A program with pipes; its complaints go to a file without a name."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._process = process
        self._complaints = complaints

    def send(self, line: bytes) -> None:
        stdin = self._process.stdin
        try:
            if stdin is None or stdin.closed:
                raise BrokenPipeError
            stdin.write(line + b"\n")
            stdin.flush()
        except (OSError, ValueError) as error:
            raise LabError("the program beside the node is gone") from error

    def lines(self) -> Iterator[bytes]:
        stdout = self._process.stdout
        while stdout is not None and (line := stdout.readline(MAX_LINE + 1)):
            if len(line) > MAX_LINE:
                raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
            yield line.rstrip(b"\n")

    def stderr(self) -> str:
        if self._complaints.closed:
            return ""
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), 65536, max(0, size - 65536)).decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it ended first
                self._process.stdin.close()
        code = _end(self._process, timeout)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._complaints.close()
        return code


def _end(process: subprocess.Popen[bytes], timeout: float) -> int:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
