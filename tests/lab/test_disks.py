"""Disks of nodes: what was fsynced stays when the power goes, what was not is gone; and nothing is left of them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab_support import lab, processes_of, until

from laila.errors import BadConfig, LabError
from laila.lab import registry
from laila.lab.drivers import disks, mounts
from laila.lab.drivers.disks import Disks

pytestmark = pytest.mark.skipif(
    bool(disks.hindrance()) and not os.environ.get("CI"), reason=disks.hindrance()
)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """The directory of a run, of which no loop device and no mount may be left."""
    place = tmp_path / "with a space"
    place.mkdir()
    yield place
    assert Disks(place / "disks", 16).remove() == []
    assert str(place) not in Path("/proc/self/mounts").read_text().replace("\\040", " ")
    assert str(place) not in attached()


@pytest.fixture
def made(run: Path) -> Disks:
    """Two disks that nobody mounted yet."""
    them = Disks(run / "disks", 16)
    assert them.make(("a", "b"), os.getuid(), os.getgid(), 0o700) == ""
    return them


def attached() -> str:
    """All loop devices of this machine, with their files."""
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout


def put(path: Path, data: bytes, *, fsync: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        if fsync:
            os.fsync(file.fileno())


def mounted(them: Disks, name: str) -> Path:
    place = them.below.parent / name
    place.mkdir(exist_ok=True)
    them.mount(name, place)
    assert them.holds(name, place)
    return place


def power_fails(them: Disks, name: str, place: Path) -> None:
    them.cut(place)
    them.unmount(name)


def test_what_was_not_fsynced_is_gone_and_the_rest_is_there(made: Disks) -> None:
    place = mounted(made, "a")
    put(place / "over", b"before" * 1000, fsync=True)
    put(place / "renamed.new", b"x" * 5000, fsync=False)
    (place / "renamed.new").rename(place / "over-renamed")
    with (place / "over").open("r+b") as file:
        file.write(b"after!" * 1000)
    put(place / "unsynced", b"u" * 100_000, fsync=False)
    put(place / "synced", b"s" * 100_000, fsync=True)
    put(place / "later", b"l" * 100_000, fsync=False)
    power_fails(made, "a", place)
    assert list(place.iterdir()) == []
    made.mount("a", place)
    assert (place / "synced").read_bytes() == b"s" * 100_000
    assert (place / "over").read_bytes() == b"before" * 1000
    left = {path.name: path.stat().st_size for path in place.iterdir()}
    assert left.get("unsynced", 0) == left.get("later", 0) == left.get("over-renamed", 0) == 0


def test_whoever_is_still_there_gets_an_error_and_no_promise(made: Disks) -> None:
    place = mounted(made, "a")
    with (place / "open").open("wb", buffering=0) as file:
        file.write(b"1")
        made.cut(place)
        with pytest.raises(OSError, match="Input/output") as refused:
            os.fsync(file.fileno())
        assert refused.value.errno == errno.EIO
        held = (
            rf"the disk of a \(/dev/loop\d+\) .* held by process {os.getpid()} \(.*\) with files open there"
        )
        with pytest.raises(LabError, match=held):
            impatient(made)
    made.unmount("a")


def test_who_holds_it_in_a_namespace_of_his_own_is_named_and_stops_no_removal(made: Disks) -> None:
    mounted(made, "a")
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", "echo here; exec sleep 60"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(LabError, match=rf"process {other.pid} \(sleep\) in a mount namespace of its own"):
            impatient(made)
        assert made.remove() == []
        assert made.remains() == []
        other.kill()
    below = str(made.below)
    until(lambda: below not in attached(), "the device to go")


def impatient(them: Disks) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disks, "_WITHIN", 0.3)
        them.unmount("a")


def test_a_disk_that_lost_power_again_and_again_is_whole(made: Disks) -> None:
    """Ten failures at any moment of busy writing; the file system is right each time, by its own checker."""
    place = mounted(made, "a")
    writing = (
        "import os, sys\n"
        "for n in range(10**9):\n"
        "    name = f'{sys.argv[1]}/{n % 50}'\n"
        "    with open(name + '.new', 'wb') as file:\n"
        "        file.write(b'%d ' % n * 500)\n"
        "        file.flush()\n"
        "        os.fsync(file.fileno())\n"
        "    os.rename(name + '.new', name)\n"
        "    print(n, flush=True)\n"
    )
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", writing, str(place)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                writer.stdout.readline()
            made.cut(place)
            writer.kill()
        made.unmount("a")
        made.mount("a", place)
        for path in place.iterdir():
            if not path.name.endswith(".new"):
                words = path.read_text().split()
                assert len(set(words)) == 1, f"{path.name} is torn"
                assert len(words) == 500, f"{path.name} was fsynced, and is not whole"
        made.unmount("a")
        checked = subprocess.run(
            [str(mounts.program("e2fsck")), "-fn", made.device("a")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
        made.mount("a", place)


def test_only_the_one_disk_loses_power(made: Disks) -> None:
    first, second = mounted(made, "a"), mounted(made, "b")
    put(second / "other", b"o" * 5000, fsync=False)
    power_fails(made, "a", first)
    put(second / "more", b"m", fsync=True)
    assert (second / "other").read_bytes() == b"o" * 5000


def test_it_is_as_large_as_was_said_and_then_full(made: Disks) -> None:
    place = mounted(made, "a")
    with pytest.raises(OSError, match="No space") as full:
        (place / "file").write_bytes(b"x" * (16 << 20))
    assert full.value.errno == errno.ENOSPC


def test_it_belongs_to_whom_it_is_made_for_and_is_empty(run: Path) -> None:
    them = Disks(run / "disks", 16)
    assert them.make(("c",), 10001, 0, 0o770) == ""
    with them.opened("c") as place:
        status = place.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (10001, 0, 0o770)
        assert list(place.iterdir()) == []


def test_as_many_as_a_lab_has_nodes_and_a_stranger(run: Path) -> None:
    names = tuple(f"node{number}" for number in range(33))
    them = Disks(run / "disks", 16)
    assert them.make(names, 0, 0, 0o700) == ""
    assert len({them.attach(name) for name in names}) == 33
    began = time.monotonic()
    assert them.remove() == []
    assert time.monotonic() - began < 15


def test_removal_takes_what_is_mounted_and_what_another_process_made(run: Path) -> None:
    """A controller that was killed with its disks in every state there is."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from laila.lab.drivers.disks import Disks\n"
        "run = Path(sys.argv[1])\n"
        "them = Disks(run / 'disks', 16)\n"
        "assert them.make(('made', 'mounted', 'cut'), 0, 0, 0o700) == ''\n"
        "them._format('bare')\n"
        "for name in ('mounted', 'cut'):\n"
        "    (run / name).mkdir()\n"
        "    them.mount(name, run / name)\n"
        "them.cut(run / 'cut')\n"
        "(them.below / 'made.opened').mkdir(exist_ok=True)\n"
        "them.mount('made', them.below / 'made.opened')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    them = Disks(run / "disks", 16)
    assert len([what for what in them.remains() if what.startswith("loop device")]) == 3
    for name in ("mounted", "cut"):
        assert mounts.undo(run / name) == []
    assert them.remove() == []
    assert them.remains() == []
    assert them.remove() == [], "twice is once"


def test_a_file_that_is_gone_already_does_not_hide_its_device(made: Disks) -> None:
    made.attach("a")
    (made.below / "a.ext4").unlink()
    assert any(what.startswith("loop device") for what in made.remains())
    assert made.remove() == []


def test_gc_removes_the_disks_of_a_killed_run(lab_home: Path, tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from dataclasses import replace\n"
        "from laila.lab import drivers, registry\n"
        "from laila.lab.procid import ProcessId\n"
        "from laila.lab.topology import replicated\n"
        "shape = replace(replicated(2), state_mib=16)\n"
        "run = registry.Run(registry.new_run_id(), 'process', shape.to_dict(), 'check', ProcessId.of(os.getpid()))\n"
        "run.save()\n"
        "driver = drivers.make(run, shape)\n"
        "driver.prepare()\n"
        "driver.start('node1')\n"
        "print(run.run_id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    assert run_id in attached()
    until(lambda: processes_of(run_id), "the node to run")
    collected = lab("gc")
    assert run_id in collected.stdout + collected.stderr
    assert processes_of(run_id) == []
    assert registry.runs() == []
    assert run_id not in attached()
    assert run_id not in Path("/proc/self/mounts").read_text()


@contextmanager
def nobody() -> Iterator[None]:
    """This process without the rights of root."""
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_who_is_not_root_is_told_and_gets_directories(run: Path) -> None:
    place = run / "state"
    place.mkdir(mode=0o777)
    with nobody():
        assert disks.hindrance().endswith("only root may mount: run the lab as root")
        told = Disks(run / "disks", 16).place({"a": place})
    assert told["kind"] == disks.DIRECTORY
    assert "only root may mount" in told["why"]
    assert mounts.mounted(place) == []


@pytest.mark.parametrize("size", [1, 15])
def test_a_disk_on_which_no_node_can_live_is_refused(run: Path, size: int) -> None:
    with pytest.raises(BadConfig, match=f"state_mib must be 16 or more, not {size}"):
        Disks(run / "disks", size).make(("a",), 0, 0, 0o700)


def test_what_is_no_disk_cannot_lose_power(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot lose power"):
        Disks.cut(Path("/proc"))
