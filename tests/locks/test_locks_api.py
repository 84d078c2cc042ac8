"""The public face of laila.locks: addresses, names, what a backend gets from the base."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import laila.locks
from laila.errors import BadConfig, BadValue, LockUnavailable
from laila.locks import Capabilities, FlockService, Holder, connect, record
from laila.locks.base import Wait
from laila.locks.directory import UNKNOWN, Directory
from laila.locks.lockfile import unavailable
from laila.locks.waiting import in_thread
from laila.locks.witness import find

SOON = 20.0


def test_public_names() -> None:
    """What `laila.locks` offers; each of it is there."""
    assert laila.locks.__all__ == [
        "Capabilities",
        "FlockService",
        "Hold",
        "Holder",
        "Lock",
        "LockService",
        "connect",
    ]
    assert all(getattr(laila.locks, name) for name in laila.locks.__all__)


def test_importing_is_light() -> None:
    """Neither asyncio nor a client of a lock service is loaded before it is needed."""
    code = (
        "import sys, laila.locks, laila.locks.flock\n"
        "heavy = {'asyncio', 'redis', 'psycopg', 'etcd3gw', 'kubernetes', 'requests', 'ssl', 'numpy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestConnect:
    """Addresses of lock services."""

    @pytest.mark.parametrize("prefix", ["", "flock:"])
    def test_a_directory(self, tmp_path: Path, prefix: str) -> None:
        """A path, bare or marked, is a directory of lock files; options go to the service."""
        with connect(f"{prefix}{tmp_path}/x", node="n1", suffix=".l") as service:
            assert isinstance(service, FlockService)
            assert (service.kind, service.node) == ("flock", "n1")
            service.lock("a").acquire(0).release()
        assert (tmp_path / "x" / "a.l").exists()

    def test_a_relative_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It stays where it was when the program moves on."""
        monkeypatch.chdir(tmp_path)
        with connect("locks") as service:
            monkeypatch.chdir("/")
            service.lock("a").acquire(0).release()
        assert (tmp_path / "locks" / "a.lock").exists()

    @pytest.mark.parametrize("url", ["ftp://x", "zookeeper://h:2181", "rediss2://x", ":x"])
    def test_an_unknown_scheme(self, url: str) -> None:
        """BadConfig says which there are."""
        with pytest.raises(BadConfig, match=r"redis:.*etcd:.*postgresql:.*kubernetes:"):
            connect(url)

    def test_an_unknown_option(self, tmp_path: Path) -> None:
        """BadConfig, not a TypeError from the depths."""
        with pytest.raises(BadConfig, match="colour"):
            connect(str(tmp_path), colour="red")

    @pytest.mark.parametrize("url", ["redis://u:hushhush@h/0", "mysql://u:hushhush@h", "etcd://u:hushhush@h"])
    def test_a_password_is_not_repeated(self, url: str) -> None:
        """An address that cannot be used may hold one."""
        with pytest.raises(BadConfig) as caught:
            connect(url, colour="red")
        assert "hushhush" not in str(caught.value)

    def test_the_node_is_named_by_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """LAILA_NAME, unless a name is given; else the host's."""
        monkeypatch.setenv("LAILA_NAME", "envious")
        assert connect(str(tmp_path)).node == "envious"
        assert connect(str(tmp_path), node="given").node == "given"
        monkeypatch.delenv("LAILA_NAME")
        assert connect(str(tmp_path)).node == os.uname().nodename


def test_flock_says_what_it_promises() -> None:
    """Shared holds, no lease; a stopped holder keeps its lock."""
    assert FlockService.capabilities == Capabilities(shared=True, leased=False, survives_holder_pause=True)


class TestHolder:
    """How a holder reads."""

    def test_in_full(self) -> None:
        """Process, host, node, since when and what for."""
        holder = Holder("n1", "web1", 12, time.time() - 3.2, "indexing", 7)
        assert str(holder) == "pid 12 on web1 (node n1), since 3 s, for indexing"

    def test_what_is_not_known_is_left_out(self) -> None:
        """No record, no process: no invented words."""
        assert str(Holder("", "web1", 12, 0.0, "", 0)) == "pid 12 on web1"
        assert str(Holder("", "", 0, 0.0, "", 0)) == "somebody who leaves no record"

    def test_a_clock_behind_shows_no_negative_age(self) -> None:
        """The other host's clock may be ahead of ours."""
        assert "since 0 s" in str(Holder("", "web1", 12, time.time() + 100, "", 1))


class TestRecord:
    """The bytes of a lock file's record."""

    def written(self, holder: Holder) -> bytes:
        template = record.Writer(holder).template(holder.purpose)
        return template % (holder.token, round(holder.since * 1e6), holder.token)

    @pytest.mark.parametrize(
        "holder",
        [
            Holder("n1", "web1", 12, 1763812345.25, "indexing", 1763812345250000),
            Holder("", "h", 1, 0.0, "", 1),
            Holder('"quoted"', "back\\slash", 2**22, 1e9, "100 % {of} it", 10**19),
            Holder("узел", "主机", 7, 1.5, "🔑", 2),
        ],
    )
    def test_what_is_written_is_read(self, holder: Holder) -> None:
        """Every field, in 512 bytes that end with a line break."""
        content = self.written(holder)
        assert len(content) == record.SIZE
        assert content.endswith(b"\n")
        assert record.read(content) == holder
        assert record.token(content) == holder.token

    def test_long_names_are_cut_and_still_fit(self) -> None:
        """Nothing can make a record longer than its place."""
        holder = Holder("🔑" * 300, "\\" * 300, 2**31, 1e9, "主" * 300, 2**63)
        read = record.read(self.written(holder))
        assert read is not None
        assert read.token == 2**63
        assert holder.host.startswith(read.host)

    def test_every_change_of_the_token_is_noticed(self) -> None:
        """Any byte of either copy changed, or the record cut anywhere: it is no record."""
        content = self.written(Holder("n", "h", 1, 1e9, "", 1763812345250000))
        places = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
        for at in (*places[:16], *places[-16:]):
            changed = content[:at] + b"%d" % ((int(content[at : at + 1]) + 1) % 10) + content[at + 1 :]
            assert record.token(changed) == 0
            assert record.read(changed) is None
        for size in range(len(content)):
            assert record.token(content[:size]) == 0
            assert record.read(content[:size]) is None

    @pytest.mark.parametrize("at", range(0, record.SIZE, 7))
    def test_no_damage_raises(self, at: int) -> None:
        """Whatever stands there, reading says None or a holder."""
        content = bytearray(self.written(Holder("n", "h", 1, 1e9, "x", 5)))
        for byte in (0, 0x22, 0x7D, 0xFF):
            content[at] = byte
            found = record.read(bytes(content))
            assert found is None or found.token == 5


def test_the_kernels_list_is_read() -> None:
    """Exclusive and shared holders of one file; not waiters, other files or other kinds of lock."""
    lines = [
        "1: FLOCK  ADVISORY  WRITE 10 fe:00:77 0 EOF",
        "1: -> FLOCK  ADVISORY  WRITE 11 fe:00:77 0 EOF",
        "2: FLOCK  ADVISORY  READ  12 fe:00:78 0 EOF",
        "3: FLOCK  ADVISORY  READ  13 fe:00:78 0 EOF",
        "4: POSIX  ADVISORY  WRITE 14 fe:00:78 0 EOF",
        "5: FLOCK  ADVISORY  WRITE 15 08:00:78 0 EOF",
        "6: OFDLCK ADVISORY  WRITE -1 fe:00:78 0 EOF",
        "nonsense",
    ]
    device = os.makedev(0xFE, 0)
    assert (find(lines, device, 77).exclusive, find(lines, device, 77).shared) == (10, ())
    assert (find(lines, device, 78).exclusive, find(lines, device, 78).shared) == (None, (12, 13))
    assert find(lines, device, 79).exclusive is None


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EROFS, "read-only here"),
        (errno.EACCES, "read-only here"),
        (errno.ENOLCK, "redis://, etcd:// or postgresql://"),
        (errno.ENOSYS, "no flock"),
        (errno.EOPNOTSUPP, "no flock"),
        (errno.ENOENT, "not there"),
        (errno.ENOSPC, "full"),
        (errno.EDQUOT, "full"),
        (errno.ESTALE, "ESTALE"),
        (errno.EIO, "EIO"),
    ],
)
def test_what_the_system_says_is_put_in_words(number: int, says: str) -> None:
    """Every error of the system becomes LockUnavailable with its name and what to do."""
    error = unavailable("/mnt/x/a.lock", OSError(number, os.strerror(number)))
    assert isinstance(error, LockUnavailable)
    assert says in str(error)
    assert errno.errorcode[number] in str(error)
    assert "/mnt/x" in str(error)


class TestDirectory:
    """When a directory is known not to have changed."""

    def test_a_young_change_is_unknown(self, tmp_path: Path) -> None:
        """While a second change could bear the same time, nothing is claimed; later it is, until the next change."""
        watched = Directory(tmp_path)
        assert watched.changed() == UNKNOWN
        (tmp_path / "a").touch()
        watched.settled()  # opens it
        assert watched.settled() == UNKNOWN
        time.sleep(0.06)
        known = watched.settled()
        assert known == watched.changed() != UNKNOWN
        (tmp_path / "a").unlink()
        assert watched.changed() != known
        watched.close()

    def test_a_directory_that_was_replaced_is_opened_anew(self, tmp_path: Path) -> None:
        """What is watched is what the path leads to."""
        (tmp_path / "d").mkdir()
        watched = Directory(tmp_path / "d")
        watched.settled()
        time.sleep(0.06)
        assert watched.settled() != UNKNOWN
        (tmp_path / "d").rename(tmp_path / "e")
        (tmp_path / "d").mkdir()
        assert watched.settled() == UNKNOWN
        time.sleep(0.06)
        (tmp_path / "e" / "x").touch()
        known = watched.settled()
        assert known == watched.changed() != UNKNOWN
        watched.close()
        assert watched.changed() == UNKNOWN


class TestWait:
    """How long a caller waits."""

    @pytest.mark.parametrize("timeout", [-0.1, float("nan"), float("-inf")])
    def test_what_is_no_time_is_refused(self, timeout: float) -> None:
        with pytest.raises(BadValue, match="timeout"):
            Wait(timeout)

    def test_without_end(self) -> None:
        """None and infinity are never over, and a pause lasts as long as it says."""
        for timeout in (None, float("inf")):
            wait = Wait(timeout)
            assert not wait.over
            assert wait.endless
            assert wait.left(7.0) == 7.0
            assert wait.pause(0.001)

    def test_with_an_end(self) -> None:
        """A pause ends with the wait."""
        wait = Wait(0.05)
        assert 0 < wait.left(7.0) <= 0.05
        assert not wait.pause(60)
        assert wait.over
        assert wait.left(7.0) == 0.0
        assert Wait(0).over

    def test_given_up(self) -> None:
        """Another thread ends a pause; only a wait that was made for it."""
        wait = Wait(None, abandonable=True)
        threading.Timer(0.05, wait.give_up).start()
        assert not wait.pause(SOON)
        assert wait.over
        assert wait.given_up
        with pytest.raises(BadValue):
            Wait(None).give_up()


class TestInThread:
    """How a coroutine waits for what blocks."""

    def test_results_and_errors_come_back(self) -> None:
        """What the work returns or raises, the coroutine returns or raises."""

        async def main() -> None:
            assert await in_thread(lambda: 7) == 7
            with pytest.raises(ZeroDivisionError):
                await in_thread(lambda: 1 // 0)

        asyncio.run(main())

    @pytest.mark.parametrize("late", [False, True])
    def test_what_a_cancelled_task_obtained_is_given_back_once(self, late: bool) -> None:
        """Whether the result comes after the cancellation or just before it."""
        unwanted: list[int] = []
        gave_up: list[bool] = []
        started, go = threading.Event(), threading.Event()

        def work() -> int:
            started.set()
            assert go.wait(SOON)
            return 7

        async def main() -> None:
            task = asyncio.create_task(
                in_thread(work, give_up=lambda: gave_up.append(True), unwanted=unwanted.append)
            )
            while not started.is_set():
                await asyncio.sleep(0.001)
            if late:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                go.set()
            else:
                go.set()
                time.sleep(0.1)  # the result is there, while the loop, which is busy here, has not seen it
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

        asyncio.run(main())
        until = time.monotonic() + SOON
        while not unwanted:
            assert time.monotonic() < until
            time.sleep(0.005)
        time.sleep(0.05)
        assert unwanted == [7]
        assert gave_up == [True]

    def test_a_loop_that_was_closed_takes_nothing(self) -> None:
        """The result of work that outlived its loop is given back as well."""
        unwanted: list[int] = []
        go = threading.Event()

        def work() -> int:
            assert go.wait(SOON)
            return 7

        async def main() -> None:
            asyncio.create_task(in_thread(work, unwanted=unwanted.append))  # noqa: RUF006  # cancelled by run()
            await asyncio.sleep(0.01)

        asyncio.run(main())
        go.set()
        until = time.monotonic() + SOON
        while unwanted != [7]:
            assert time.monotonic() < until
            time.sleep(0.005)
