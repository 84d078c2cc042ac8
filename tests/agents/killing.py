"""Agents that are killed with SIGKILL at every line of their code and at random moments, and what they leave.

    python -m tests.agents.killing lines|moments SHARED KILLS

Runs in a process of its own, because it forks. Each child registers, registers again and publishes, as a new process
would, and says in a pipe what was acknowledged. After each kill a new reader and the seed's read the directory; one
JSON object per kill goes to stdout.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from laila.agents import DistributedAgent
from laila.maif import load_maif
from tests.agents.support import seed_class

_LIVES = 6
OUR_CODE = f"{Path(__file__).parents[2]}/laila/"


def kill_me_at(line: int) -> list[int]:
    """Kill this process before the so many-th line of ours that it runs; the list's item counts them."""
    count = [0]

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            count[0] += 1
            if count[0] == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def begin(frame: FrameType, event: str, argument: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(OUR_CODE) else None

    sys.settrace(begin)
    return count


def work(shared: str, number: int, pipe: int) -> None:
    """What one agent does; each acknowledgement is written at once."""
    agent = DistributedAgent(f"agent-{number}", shared)
    for done, call in (
        ("registered", agent.register),
        ("again", agent.register),
        ("published", lambda: agent.publish_result(f"task-{number}", {"n": number})),
    ):
        call()
        os.write(pipe, f"{done}\n".encode())


def in_child(shared: str, number: int, line: int | None) -> tuple[int, int]:
    """Its pid, and the end of a pipe to read from what it says."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        count = [0] if line is None else kill_me_at(line)
        work(shared, number, writing)
        sys.settrace(None)
        os.write(writing, f"{count[0]}\n".encode())
        os._exit(0)
    except BaseException as error:
        os.write(2, f"agent: {error!r}\n".encode())
        os._exit(1)


def ended(pid: int, pipe: int) -> tuple[list[str], bool]:
    """What it said, and whether it was killed. Raises when it failed by itself."""
    said = b""
    while piece := os.read(pipe, 65536):
        said += piece
    os.close(pipe)
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("an agent failed by itself")
    return said.decode().split(), os.WIFSIGNALED(status)


def judged(shared: str, said: dict[int, list[str]], killed: bool) -> dict[str, Any]:
    """Everything that was acknowledged so far is there, and nothing is torn."""
    missing, torn = [], []
    with DistributedAgent("reader", shared) as reader:
        known = {one["agent_id"]: one["status"] for one in reader.agents()}
        results = {one["task_id"]: one["status"] for one in reader.results()}
    seen = {one["agent_id"] for one in seed_class()("reader", shared).get_active_agents()}
    for number, words in said.items():
        name = f"agent-{number}"
        missing += [name] if "registered" in words and known.get(name) not in ("active", "expired") else []
        missing += [f"{name} for the seed"] if "registered" in words and name not in seen else []
        missing += (
            [f"task-{number}"] if "published" in words and results.get(f"task-{number}") != "ok" else []
        )
    torn += [
        name for name, status in {**known, **results}.items() if status not in ("active", "expired", "ok")
    ]
    torn += [
        str(path)
        for path in [Path(shared) / "agent_states.maif"]
        if path.exists() and not load_maif(path).verify()
    ]
    return {"killed": killed, "acknowledged": sum(map(len, said.values())), "missing": missing, "torn": torn}


def at_lines(shared: str, kills: int) -> Iterator[dict[str, Any]]:
    """Kills spread evenly over all lines of one agent's work. Now and then one lives, and tells how many those are."""
    said: dict[int, list[str]] = {}
    lines = 0
    for number in range(kills):
        lives = number % _LIVES == 0
        line = 0 if lives else 1 + number * lines // kills
        words, killed = ended(*in_child(shared, number, line))
        if lives:
            lines = int(words.pop())
        said[number] = words
        yield {"line": line, **judged(shared, said, killed)}


def at_moments(shared: str, kills: int) -> Iterator[dict[str, Any]]:
    """Kills at random moments of two agents that fight for the lock with a third, which lives."""
    chance = random.Random(3)  # noqa: S311  # not for secrets
    said: dict[int, list[str]] = {}
    begin = time.monotonic()
    ended(*in_child(shared, kills, None))
    whole = time.monotonic() - begin
    for first in range(0, kills, 3):
        children = [(number, in_child(shared, number, None)) for number in (first, first + 1, first + 2)]
        time.sleep(chance.uniform(0, whole))
        for _, (pid, _) in children[:2]:
            os.kill(pid, signal.SIGKILL)
        ends = {number: ended(pid, pipe) for number, (pid, pipe) in children}
        said |= {number: words for number, (words, _) in ends.items()}
        yield judged(shared, said, ends[first][1])


if __name__ == "__main__":
    how, directory, count = sys.argv[1:]
    for found in (at_lines if how == "lines" else at_moments)(directory, int(count)):
        print(json.dumps(found), flush=True)
