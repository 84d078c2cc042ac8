"""A program of this machine that does what it likes: whoever talks with it comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_support import until

from laila.errors import LabError
from laila.lab.drivers import process_channel
from laila.lab.drivers.process_channel import ProcessChannel
from laila.lab.remote import RemoteClient

Open = Callable[[str], ProcessChannel]


@pytest.fixture
def opened() -> Iterator[Open]:
    made: list[tuple[ProcessChannel, subprocess.Popen[bytes]]] = []

    def start(program: str) -> ProcessChannel:
        complaints = tempfile.TemporaryFile()  # noqa: SIM115  the channel closes it
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": complaints}
        process = subprocess.Popen([sys.executable, "-uc", program], **pipes, start_new_session=True)  # type: ignore[call-overload]  # by name
        made.append((ProcessChannel(process, complaints), process))
        return made[-1][0]

    yield start
    for channel, _ in made:
        channel.close(0.1)


def test_lines_go_both_ways_whole(opened: Open) -> None:
    channel = opened("import sys\nfor line in sys.stdin: print(line[:-1][::-1])\nprint('end', end='')")
    lines = channel.lines()
    channel.send(b"abc")
    assert next(lines) == b"cba"
    channel.send(b"x" * 500_000)
    assert next(lines) == b"x" * 500_000
    assert channel.close() == 0


def test_a_program_that_ended_is_gone_though_its_child_has_its_output(opened: Open) -> None:
    channel = opened("import os, time\nif os.fork() == 0: time.sleep(30)\nprint('last')")
    began = time.monotonic()
    assert list(channel.lines()) == [b"last"]
    assert channel.close() == 0
    assert time.monotonic() - began < 10


def test_who_is_ended_has_no_child_left(opened: Open) -> None:
    channel = opened(
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid); child.wait()"
    )
    child = int(next(channel.lines()))
    began = time.monotonic()
    channel.close(0.1)
    assert time.monotonic() - began < 10
    until(lambda: not _lives(child), "the end of the child")


def test_a_program_that_does_not_read_is_given_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_channel, "DEAF", 0.5)
    client = RemoteClient(opened("import time; time.sleep(60)"), "east")
    outcome = client.call("write", timeout=1.0, value="x" * 500_000)
    assert (outcome.error, client.gone) == ("ClientGone", True)
    assert "did not read" in outcome.message
    with pytest.raises(LabError, match="gone"):
        client._channel.send(b"more")
    client.close(0.1)


def test_complaints_do_not_fill_the_disk(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_channel, "KEPT", 1 << 20)
    channel = opened(
        "import sys, time\nfor turn in range(4):\n"
        "  sys.stderr.write('z' * (1 << 20)); print(turn); sys.stdin.readline()\n"
        "time.sleep(0.5); sys.stderr.write('last words')"
    )
    for turn, line in enumerate(channel.lines()):
        assert line == b"%d" % turn
        channel.send(b"go on")
    assert os.fstat(channel._complaints.fileno()).st_size < 3 << 20
    assert channel.stderr().endswith("zlast words")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_who_asks_for_complaints_while_it_is_closed_gets_them_or_nothing() -> None:
    """And not those of another file, which soon has the number of one that was closed."""
    asked, closed = threading.Event(), threading.Event()

    class Watched:
        """A file whose number is asked for just before somebody closes it."""

        def __init__(self) -> None:
            self.file = tempfile.TemporaryFile()  # noqa: SIM115  closed below

        @property
        def closed(self) -> bool:
            return self.file.closed

        def fileno(self) -> int:
            number = self.file.fileno()
            asked.set()
            closed.wait(0.5)
            return number

        def close(self) -> None:
            self.file.close()
            closed.set()

    complaints: Any = Watched()
    complaints.file.write(b"oh dear")
    complaints.file.flush()
    process = subprocess.Popen(
        ["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    channel = ProcessChannel(process, complaints)
    said: list[str] = []

    def ask() -> None:
        said.append(channel.stderr())

    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(10)
    channel.close(5.0)
    asking.join(10)
    assert said == ["oh dear"]
    assert channel.stderr() == ""
