"""Runs that are interrupted at random moments, by Ctrl-C, SIGTERM and kill -9, leave nothing: no process, no mount, no
disk, no record. LAILA_INTERRUPTED_RUNS says how many.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab_support import command

RUNS = int(os.environ.get("LAILA_INTERRUPTED_RUNS", "12"))
AT_ONCE = 3
LONGEST = 14.0
"""Seconds after which a run is interrupted at the latest: by then it has faults under way."""
FAULTS = (
    "kill,pause",
    "partition,latency",
    "power-loss,disk-full",
    "clock,isolate",
    "slow-fsync,read-only",
    "flip,nofile",
)
GRACE = 60.0


def interrupted_run(number: int, home: Path) -> list[str]:
    """What is left of it."""
    chance = random.Random(number)  # noqa: S311  repeatable on purpose
    topology = chance.choice(["replicated", "shared-volume"])
    how = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)[number % 3]
    words = [
        "check",
        topology,
        "--driver",
        "process",
        "--faults",
        FAULTS[number % len(FAULTS)],
        "--time",
        "60",
    ]
    environment = {**os.environ, "LAILA_LAB_HOME": str(home)}
    process = subprocess.Popen(
        command(*words, "--seed", str(number), "--out", str(home.parent / "runs")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    time.sleep(chance.uniform(0.0, LONGEST))
    process.send_signal(how)
    process.wait(GRACE)
    if how is signal.SIGKILL:
        subprocess.run(command("gc"), capture_output=True, env=environment, timeout=GRACE, check=False)
    return remains(home)


def remains(home: Path) -> list[str]:
    """Everything of this machine that has to do with that home; what is just ending is waited for."""
    deadline = time.monotonic() + GRACE
    while found := [*processes(home), *lines(home), *(str(path) for path in home.iterdir())]:
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
    """Mounts and loop devices."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in (*mounts, *loops) if str(home) in line]


def test_interrupted_runs_leave_nothing(tmp_path: Path) -> None:
    homes = [tmp_path / str(number) / "home" for number in range(RUNS)]
    for home in homes:
        home.mkdir(parents=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = list(pool.map(interrupted_run, range(RUNS), homes))
    assert [(number, found) for number, found in enumerate(left) if found] == []
