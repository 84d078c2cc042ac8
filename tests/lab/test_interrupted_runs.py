"""Runs that are interrupted in the middle, by Ctrl-C, SIGTERM and kill -9, leave nothing: no process, no mount, no
disk, no control group, no record. Every other one is interrupted while a fault is open, the others at random moments.
LAILA_INTERRUPTED_RUNS says how many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab_support import command

from laila.lab.drivers import cgroups, disks

RUNS = int(os.environ.get("LAILA_INTERRUPTED_RUNS", "12"))
AT_ONCE = 3
LONGEST = 10.0
"""Seconds after which a run is interrupted at the latest that does not wait for a fault."""
FAULTS = (
    ("replicated", "kill,pause"),
    ("replicated", "partition,latency"),
    ("shared-volume", "pids,oom"),
    ("shared-volume", "clock,isolate"),
    ("replicated", "power-loss,disk-full"),
    ("replicated", "flip:files=*,nofile"),
    ("replicated", "slow-fsync,read-only"),
    ("replicated", "oom,pids"),
    ("shared-volume", "restart,one-way"),
)
"""Of which the first strikes soon."""
HOW = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that was interrupted: how it was then, how it ended, and what is left of it."""

    number: int
    code: int | None
    """None: it had ended by itself before."""
    open: tuple[str, ...]
    """Faults that were in its ledger in that moment."""
    had: tuple[str, ...]
    """Mounts, loop devices and control groups that it had then."""
    said: str
    left: tuple[str, ...]

    @property
    def how(self) -> signal.Signals:
        return HOW[self.number % len(HOW)]

    @property
    def wrong(self) -> str:
        """Empty when it was interrupted in flight, ended of that, and left nothing."""
        if self.code is None:
            return f"it ended before it was interrupted: {self.said}"
        if self.left:
            return f"left: {self.left}"
        if self.how is signal.SIGKILL:
            return "" if self.code == -signal.SIGKILL else f"-9 and it ended with {self.code}"
        if self.open and not (self.code == 2 and f"interrupted by {self.how.name}" in self.said):
            return f"it ended with {self.code}, not of {self.how.name}: {self.said}"
        return "" if self.code else f"it ended as if nothing had been: {self.said}"


def interrupted_run(number: int, home: Path) -> Ended:
    chance = random.Random(number)  # noqa: S311  repeatable on purpose
    topology, faults = FAULTS[number % len(FAULTS)]
    how = HOW[number % len(HOW)]
    words = ["check", topology, "--driver", "process", "--faults", faults, "--time", "60"]
    environment = {**os.environ, "LAILA_LAB_HOME": str(home)}
    output = home.parent / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command(*words, "--seed", str(number), "--out", str(home.parent / "runs")),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    if number % 2:
        time.sleep(chance.uniform(0.0, LONGEST))
        process.send_signal(signal.SIGSTOP)
    else:
        stop_with_a_fault(process, home, chance, limits="pids" in faults)
    alive, opened = process.poll() is None, open_faults(home)
    ids = [path.name for path in home.iterdir()]
    had = (*lines(home), *groups(ids))
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)
    process.wait(GRACE)
    if how is signal.SIGKILL:
        subprocess.run(command("gc"), capture_output=True, env=environment, timeout=GRACE, check=False)
    code = process.returncode if alive else None
    said = output.read_text(errors="replace")
    return Ended(number, code, opened, had, said, tuple(remains(home, ids)))


def stop_with_a_fault(
    process: subprocess.Popen[bytes], home: Path, chance: random.Random, *, limits: bool
) -> None:
    """Let it stand still in a moment in which a fault is open: while it is done, proven, held or undone. Of `limits`
    there is a control group then.
    """
    deadline, seen = time.monotonic() + GRACE, False
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGSTOP)
        opened = bool(open_faults(home))
        if limits and opened:
            opened = bool(groups([path.name for path in home.iterdir()]))
        if opened and seen:
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(chance.uniform(0.1, 2.0) if opened else 0.1)
        seen = seen or opened


def open_faults(home: Path) -> tuple[str, ...]:
    """What is in the ledgers of its runs, and was begun: what undoing it needs is written down."""
    entries = []
    for path in home.glob("*/faults/*.json"):
        with suppress(FileNotFoundError):  # it is healed just now
            entries.append(json.loads(path.read_text(encoding="utf-8")))
    return tuple(entry["kind"] for entry in entries if entry["facts"])


def remains(home: Path, ids: list[str]) -> list[str]:
    """Everything of this machine that has to do with that home and its runs; what is just ending is waited for."""
    deadline = time.monotonic() + GRACE
    while found := [*processes(home), *lines(home), *groups(ids), *(str(path) for path in home.iterdir())]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def processes(home: Path) -> list[str]:
    mark, found = f"LAILA_LAB_HOME={home}\0".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes() + b"\0":
                found.append(f"process {path.name} {(path / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


def lines(home: Path) -> list[str]:
    """Mounts, and the files of loop devices."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    loops = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            loops.append(f"{path} {path.read_text(encoding='utf-8').strip()}")
        except OSError:
            continue  # it was let go
    return [line for line in (*mounts, *loops) if str(home) in line]


def groups(ids: list[str]) -> list[str]:
    """Control groups of these runs, of whatever hierarchy."""
    found = [path for one in ids for path in Path("/sys/fs/cgroup").glob(f"**/*{one}*/")]
    return [f"control group {path}" for path in found]


@pytest.mark.skipif(
    bool(cgroups.hindrance() or disks.hindrance()) and not os.environ.get("CI"),
    reason=cgroups.hindrance() or disks.hindrance(),
)
def test_interrupted_runs_leave_nothing(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) / "home" for number in range(RUNS)]
    for home in homes:
        home.mkdir(parents=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = list(pool.map(interrupted_run, range(RUNS), homes))
    assert {one.number: one.wrong for one in ended if one.wrong} == {}
    struck = [one for one in ended if one.open]
    assert len(struck) >= RUNS // 2
    if len(HOW) * 2 <= RUNS:
        assert {one.how for one in struck} == set(HOW)
        assert any({"oom", "pids"} & {*one.open} for one in struck)
        for what in ("ext4", "/sys/block/loop", "control group"):
            assert any(what in line for one in struck for line in one.had), f"nobody had any {what}"
    print(
        "\n"
        + "\n".join(
            f"{one.number} {one.how.name}: {one.open}, {len(one.had)} mounts, disks, groups" for one in ended
        )
    )
