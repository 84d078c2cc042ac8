"""Writers that are killed with SIGKILL, at every line of their code and at random moments, and what they leave.

    python -m tests.shared.killing lines|moments|naive SHARED KILLS

Runs in a process of its own, because it forks: each writer is a child that opens the store as a new process would.
After each kill the artifact is loaded; one JSON object per kill goes to stdout.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from laila.maif import load_maif
from laila.shared import SharedArtifactStore
from tests.shared.seed import naive_store

ROOT = str(Path(__file__).parents[2])
OUR_CODE = (f"{ROOT}/laila/",)
NAIVE_CODE = (f"{ROOT}/tests/seeds/shared_store.py", f"{ROOT}/tests/shared/seed.py")


def kill_me_at(line: int, code: tuple[str, ...]) -> list[int]:
    """Kill this process before the so many-th line that it runs of `code`; the list's item counts them."""
    count = [0]

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            count[0] += 1
            if count[0] == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def begin(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(code) else None

    sys.settrace(begin)
    return count


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run it in a fork; its pid and the end of a pipe to read from what it wrote to the other."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        work(writing)
        os._exit(0)
    except BaseException as error:  # a fork must never go on as its parent
        os.write(2, f"writer: {error!r}\n".encode())
        os._exit(1)


def read_all(pipe: int) -> bytes:
    found = b""
    while piece := os.read(pipe, 65536):
        found += piece
    os.close(pipe)
    return found


def killed(pid: int) -> bool:
    """Wait for the child's end. Raises when it failed by itself."""
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        raise RuntimeError("a writer failed by itself")
    return False


def text_of(number: int) -> str:
    """Content that says which one it is at both ends, and takes more than a page."""
    return f"{number} {'x' * 6000} {number}"


class Ours:
    """Writers of our store, and its reader."""

    code = OUR_CODE

    def __init__(self, shared: str) -> None:
        self.shared = shared
        self.reader = SharedArtifactStore(shared)
        self.reader.create("doc", text_of(0))

    def write(self, number: int) -> None:
        with SharedArtifactStore(self.shared) as store:
            store.create("doc", text_of(number))

    def look(self) -> dict[str, Any]:
        try:
            artifact = self.reader.load("doc")
            (item,) = artifact.get_content_list()
        except Exception as error:  # whatever it is, it is reported and judged
            return {"error": repr(error)}
        return {"text": item["text"][:20].split()[0], "whole": item["text"] == text_of(int(item["text"].split()[0])),
                "sequence": artifact.sequence}  # fmt: skip


class Naive(Ours):
    """Writers of the seed's store, whose artifacts are written in place."""

    code = NAIVE_CODE

    def __init__(self, shared: str) -> None:
        self.shared = shared
        self.write(0)

    def write(self, number: int) -> None:
        naive_store(in_place=True)(self.shared, f"{self.shared}-cache").create("doc", text_of(number))

    def look(self) -> dict[str, Any]:
        try:
            (item,) = load_maif(f"{self.shared}/doc.maif").get_content_list()
        except Exception as error:  # whatever it is, it is reported and judged
            return {"error": repr(error)}
        return {"text": item["text"].split()[0]}


def at_lines(writers: Ours, kills: int) -> Iterator[dict[str, Any]]:
    """Kills spread evenly over all lines of one write; when a writer got to its end, from the beginning once more.

    One write is not as long as another: the lock's tokens, for example, are looked after only now and then.
    """

    def count(pipe: int) -> None:
        lines = kill_me_at(0, writers.code)
        writers.write(-1)
        sys.settrace(None)
        os.write(pipe, str(lines[0]).encode())

    leftover = Path(writers.shared, ".doc.maif.000000000000.tmp")  # so that each writer has one to sweep
    leftover.touch()
    pid, pipe = in_child(count)
    total = int(read_all(pipe))
    killed(pid)
    step = max(1.0, total / (kills * 0.85))
    place = start = 1.0
    for number in range(1, kills + 1):
        line = int(place)
        leftover.touch()

        def write(pipe: int, line: int = line, number: int = number) -> None:
            kill_me_at(line, writers.code)
            writers.write(number)

        pid, pipe = in_child(write)
        done = killed(pid)
        os.close(pipe)
        yield {"number": number, "killed": done, "line": line, "of": total, **writers.look()}
        place += step
        if not done:
            start += step / 2
            place = start


def at_moments(writers: Ours, kills: int) -> Iterator[dict[str, Any]]:
    """Kills at random moments of a writer that writes again and again, and says so each time."""
    chance = random.Random(7)  # noqa: S311  # moments, no secrets
    for number in range(1, kills + 1):

        def write(pipe: int, number: int = number) -> None:
            with SharedArtifactStore(writers.shared) as store:
                for step in range(10_000):
                    store.create("doc", text_of(number * 10_000 + step))
                    os.write(pipe, b".")

        pid, pipe = in_child(write)
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        done = killed(pid)
        yield {"number": number, "killed": done, "acknowledged": len(read_all(pipe)), **writers.look()}


def main() -> None:
    how, shared, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    writers = Naive(shared) if how == "naive" else Ours(shared)
    for outcome in (at_moments if how == "moments" else at_lines)(writers, kills):
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
