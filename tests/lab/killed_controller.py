"""A command that breaks something and is killed with -9 just then, and its fault agents with it: what is broken stays
so until `laila lab gc`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fault_conformance import kill_agents_of
from lab_support import command, lab, until

from laila.lab import registry
from laila.lab.drivers.base import Driver
from laila.lab.faults import ledger

DIAL = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.7).close()
except TimeoutError:
    print("silence")
except ConnectionRefusedError:
    print("reached, and refused")
else:
    print("reached")
"""


def silent(driver: Driver, name: str, other: str, port: int = 7400) -> bool:
    """Whether nothing comes back when `name` dials `other`, as a program beside it sees it."""
    told = driver.exec(name, ["python3", "-c", DIAL, driver.ips(other)[0], str(port)])
    assert told.code == 0, told.stderr
    return told.stdout == b"silence\n"


@contextmanager
def breaking(*words: str) -> Iterator[subprocess.Popen[str]]:
    """`laila lab …`, which will not live to its end."""
    with subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as controller:
        try:
            yield controller
        finally:
            controller.kill()


def run_of(controller: subprocess.Popen[str]) -> registry.Run:
    """The run that it registers."""
    until(lambda: [one for one in registry.runs() if one.controller.pid == controller.pid], "its run", 60)
    return next(one for one in registry.runs() if one.controller.pid == controller.pid)


def kill_when(
    controller: subprocess.Popen[str], run: registry.Run, faults: int, broken: Callable[[], bool]
) -> None:
    """-9 in the very moment in which so many faults are in the ledger and all is `broken`: it stands still while that
    is looked at.
    """
    deadline = time.monotonic() + 120
    while True:
        if controller.poll() is not None:
            raise AssertionError(f"it ended by itself: {controller.communicate()[0]}")
        assert time.monotonic() < deadline, "it broke nothing"
        if len(ledger.open_entries(run)) >= faults:
            controller.send_signal(signal.SIGSTOP)
            if broken():
                break
            controller.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    kill_agents_of(run.run_id)
    controller.kill()
    controller.communicate()
    assert controller.returncode == -signal.SIGKILL
    assert len(ledger.open_entries(run)) >= faults
    assert broken(), "it was undone without gc"


def collected(*words: str) -> list[dict[str, object]]:
    """What `laila lab gc` says that it did."""
    done = lab("gc", "--json", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found
