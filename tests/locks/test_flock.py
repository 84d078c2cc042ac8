"""flock locks keep the conformance suite, and say what becomes of their files."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lock_conformance import SOON, LockConformance

from laila.errors import BadConfig, LockLost, LockTimeout, LockUnavailable
from laila.locks import FlockService, LockService, connect
from tests.locks.locker import ROOT, Locker


class TestFlock(LockConformance):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"flock:{tmp_path}/locks"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def service(place: Path) -> Iterator[FlockService]:
    with FlockService(place, node="here") as service:
        yield service


@pytest.fixture
def another(place: Path) -> Iterator[LockService]:
    with connect(str(place), node="another") as service:
        yield service


@contextmanager
def naive(path: Path, mode: int = fcntl.LOCK_EX) -> Iterator[None]:
    """What programs without laila do, such as the store this library replaces: truncate, then lock."""
    with path.open("w") as file:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
        yield


class TestRecord:
    """What the lock file says."""

    def test_a_person_can_read_it(self, service: FlockService, place: Path) -> None:
        """Token, process, node and purpose stand in the file as text."""
        with service.lock("a").acquire(0, purpose="indexing") as hold:
            text = (place / "a.lock").read_text()
        head, body, *_, end = text.splitlines()
        assert head == f"laila lock, last taken with token {hold.token:20d} by"
        assert end == f"end of token {hold.token:20d}"
        told = json.loads(body)
        assert (told["pid"], told["node"], told["purpose"]) == (os.getpid(), "here", "indexing")

    @pytest.mark.parametrize("damage", [b"", b"\0" * 512, b"garbage\n", None])
    def test_tokens_rise_over_a_damaged_record(
        self, service: FlockService, another: LockService, place: Path, damage: bytes | None
    ) -> None:
        """Truncated, zeroed, overwritten or with one wrong digit: the next token is greater than all before."""
        with another.lock("a").acquire(0) as hold:
            before = hold.token
        content = (place / "a.lock").read_bytes()
        at = content.rindex(str(before).encode())
        (place / "a.lock").write_bytes(content[:at] + b"9" + content[at + 1 :] if damage is None else damage)
        with service.lock("a").acquire(0) as hold:
            assert before < hold.token < before + 10**9
        with another.lock("a").acquire(0) as later:
            assert later.token > hold.token

    def test_tokens_rise_where_the_other_clock_is_ahead(self, service: FlockService, place: Path) -> None:
        """A truncated file does not lower tokens, though they were given by a node whose clock is an hour ahead."""
        code = (
            "import sys, time; ahead = time.time() + 3600; time.time = lambda: ahead\n"
            "from laila.locks import connect\n"
            "with connect(sys.argv[1]) as service, service.lock('a').acquire(0) as hold: print(hold.token)"
        )
        far = int(run(code, place))
        assert far > (time.time() + 3000) * 1e6
        (place / "a.lock").write_bytes(b"")
        with service.lock("a").acquire(0) as hold:
            assert hold.token > far
        (place / "a.lock").unlink()
        with service.lock("a").acquire(0) as later:
            assert later.token > hold.token

    def test_tokens_rise_over_an_older_record(self, service: FlockService, place: Path) -> None:
        """A lock file that was restored from a copy does not take a service back that saw a later one."""
        ahead = int(time.time() * 1e6) + 10**10
        lock = service.lock("a")
        lock.acquire(0).release()
        older = (place / "a.lock").read_bytes()
        digits = older[-21:-1]
        (place / "a.lock").write_bytes(older.replace(digits, b"%20d" % ahead))
        with lock.acquire(0) as hold:
            assert hold.token == ahead + 1
        (place / "a.lock").write_bytes(older)
        with lock.acquire(0) as hold:
            assert hold.token == ahead + 2

    def test_a_shared_hold_changes_nothing(self, service: FlockService, place: Path) -> None:
        """Readers do not write; before any exclusive hold their token is 0."""
        with service.lock("a").shared() as hold:
            assert hold.token == 0
        assert (place / "a.lock").read_bytes() == b""


class TestLoss:
    """What a holder is told when the file is no longer what it locked."""

    def test_a_removed_file(self, service: FlockService, another: LockService, place: Path) -> None:
        """The hold is lost and stays so; others lock a new file; releasing is silent."""
        hold = service.lock("a").acquire(0)
        (place / "a.lock").unlink()
        assert hold.lost
        with pytest.raises(LockLost, match="removed"):
            hold.check()
        with another.lock("a").acquire(0) as later:
            assert later.token > hold.token
            hold.release()
            assert service.lock("a").try_acquire() is None
            assert not later.lost

    def test_a_replaced_file(self, service: FlockService, place: Path) -> None:
        """Also for a shared hold; putting the old file back does not make it whole again."""
        for shared in (False, True):
            with service.lock("a").acquire(0, shared=shared) as hold:
                assert not hold.lost
                (place / "a.lock").rename(place / "away")
                (place / "a.lock").touch()
                assert hold.lost
                (place / "away").replace(place / "a.lock")
                with pytest.raises(LockLost, match="replaced"):
                    hold.check()

    def test_an_overtaken_holder(self, service: FlockService, another: LockService, place: Path) -> None:
        """A greater token in the file: somebody was let in, as a file server does after a lease ran out."""
        with another.lock("b").acquire(0) as greater, service.lock("a").acquire(0) as hold:
            record = (place / "b.lock").read_bytes().replace(b"%d" % greater.token, b"%d" % (hold.token + 1))
            (place / "a.lock").write_bytes(record)
            with pytest.raises(LockLost, match=r"overtaken by pid \d+ on .*another"):
                hold.check()
            assert hold.lost

    def test_a_descriptor_that_fails(self, service: FlockService, another: LockService) -> None:
        """EBADF, ESTALE, ENOTCONN and EIO all come out of reading: the hold is lost, releasing is silent."""
        hold = service.lock("a").acquire(0)
        useless = os.open("/", os.O_PATH)
        os.dup2(useless, hold.file.fd, inheritable=False)  # type: ignore[attr-defined]  # a FlockHold
        os.close(useless)
        assert hold.lost
        with pytest.raises(LockLost, match="EBADF"):
            hold.check()
        hold.release()
        another.lock("a").acquire(SOON).release()

    def test_a_truncated_file_is_no_loss(self, service: FlockService, place: Path) -> None:
        """The naive program truncates before it waits: the lock stands nevertheless, and tokens rise behind it."""
        with service.lock("a").acquire(0) as hold:
            with pytest.raises(BlockingIOError):
                with naive(place / "a.lock"):
                    pass
            assert (place / "a.lock").read_bytes() == b""
            assert not hold.lost
            hold.check()
        with service.lock("a").acquire(0) as later:
            assert later.token > hold.token

    @pytest.mark.parametrize("how", ["removed", "replaced", "directory moved"])
    def test_a_file_that_changed_between_holds(
        self, service: FlockService, another: LockService, place: Path, how: str
    ) -> None:
        """The next acquisition, however soon, locks what the path leads to now, and so excludes everybody else."""
        lock = service.lock("a")
        for _ in range(20):
            lock.acquire(0).release()
        if how == "removed":
            (place / "a.lock").unlink()
        elif how == "replaced":
            (place / "new").touch()
            (place / "new").replace(place / "a.lock")
        else:
            place.rename(place.with_name("moved"))
            place.mkdir()
        with lock.acquire(0) as hold:
            assert another.lock("a").try_acquire() is None
            assert not hold.lost

    def test_a_waiter_at_a_replaced_file(
        self, service: FlockService, another: LockService, place: Path
    ) -> None:
        """Who waits for a file that was replaced gets the new one, though the old is held for ever."""
        hold = service.lock("a").acquire(0)
        got: list[Any] = []
        waiter = threading.Thread(target=lambda: got.append(another.lock("a").acquire(SOON)))
        waiter.start()
        time.sleep(0.1)
        (place / "a.lock").unlink()
        waiter.join(SOON)
        assert hold.lost
        assert not got[0].lost
        got[0].release()
        hold.release()


class TestNaive:
    """Programs that lock the same file without laila."""

    def test_both_sides_exclude(self, service: FlockService, place: Path) -> None:
        """They keep us out, we keep them out, and readers go with readers."""
        lock = service.lock("a")
        lock.acquire(0).release()
        with naive(place / "a.lock"):
            assert lock.try_acquire() is None
            assert lock.try_acquire(shared=True) is None
        with naive(place / "a.lock", fcntl.LOCK_SH):
            assert lock.try_acquire() is None
            lock.acquire(0, shared=True).release()
        for shared in (False, True):
            with lock.acquire(0, shared=shared), pytest.raises(BlockingIOError):
                with naive(place / "a.lock"):
                    pass

    def test_its_holder_is_named(self, service: FlockService, another: LockService, place: Path) -> None:
        """Who leaves no record is known by the kernel's list, and not taken for the last one that left one."""
        with another.lock("a").acquire(0):
            pass
        code = (
            "import fcntl, sys\nfile = open(sys.argv[1] + '/a.lock')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True); sys.stdin.read()"
        )
        with python(code, place) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            holder = service.lock("a").holder()
            assert holder is not None
            if seen_by_kernel(place / "a.lock"):
                assert (holder.pid, holder.token, holder.purpose) == (process.pid, 0, "")
            with pytest.raises(LockTimeout):
                service.lock("a").acquire(0.05)
        until = time.monotonic() + SOON
        while service.lock("a").holder() is not None:  # the thread that waited for us has it for a moment
            assert time.monotonic() < until
            time.sleep(0.005)

    def test_shared_holders_are_named_in_a_timeout(
        self, service: FlockService, another: LockService, place: Path
    ) -> None:
        """A writer that waits for readers learns their process ids."""
        with another.lock("a").shared():
            if not seen_by_kernel(place / "a.lock"):
                pytest.skip("this kernel's list shows nothing of this file system")
            with pytest.raises(LockTimeout, match=f"shared.* pid {os.getpid()}"):
                service.lock("a").acquire(0)


class TestQueue:
    """Who waits, and who is not held up by it."""

    def test_a_stopped_waiter_holds_nobody_up(self, service: FlockService, place: Path) -> None:
        """SIGSTOP in the middle of waiting, exclusive and shared: others acquire as before, and it goes on later."""
        with Locker(str(place)) as writer, Locker(str(place)) as reader:
            with service.lock("a").acquire(SOON) as hold:
                writer.send("acquire", "a", SOON)
                reader.send("acquire", "a", SOON, True)
                time.sleep(0.5)
                for each in (writer, reader):
                    each.stop()
            for shared in (False, True) * 10:
                with service.lock("a").acquire(SOON, shared=shared) as later:
                    assert later.token >= hold.token
            reader.go_on()
            assert reader.answer() >= hold.token
            reader("release", "a")
            writer.go_on()
            assert writer.answer() > hold.token

    def test_a_waiter_that_is_killed_is_forgotten(self, service: FlockService, place: Path) -> None:
        """It neither gets the lock nor keeps others from it."""
        with Locker(str(place)) as other:
            hold = service.lock("a").acquire(SOON)
            other.send("acquire", "a", SOON)
            time.sleep(0.5)
            other.kill()
            hold.release()
            for _ in range(3):
                service.lock("a").acquire(SOON).release()

    def test_a_writer_gets_in_between_readers(self, service: FlockService, place: Path) -> None:
        """Readers that relieve each other all the time do not keep a writer out."""
        readers = [Locker(str(place)) for _ in range(4)]
        try:
            for each in readers:
                each("acquire", "a", SOON, True)
                each("release", "a")
            for each in readers:
                each.send("hammer", "a", 40, 0.06, 1.0)
                time.sleep(0.015)  # out of step, so that one of them always reads
            time.sleep(0.2)
            with service.lock("a").acquire(SOON):
                end = time.monotonic()
            intervals = [interval for each in readers for interval in each.answer()]
            assert max(start for start, *_ in intervals) > end, (
                "the readers were done before the writer got in"
            )
        finally:
            for each in readers:
                each.__exit__()

    def test_a_killed_holder_never_lowers_a_token(self, service: FlockService, place: Path) -> None:
        """kill -9 at any moment of a busy holder: the lock is free, and the next token is greater than all before."""
        last = 0
        for turn in range(12):
            with Locker(str(place)) as other:
                other("acquire", "a", SOON)
                other("release", "a")
                other.send("hammer", "a", 10**6, 0.0)
                time.sleep(0.01 + turn * 0.003)
                other.kill()
            with service.lock("a").acquire(SOON) as hold:
                assert hold.token > last
                last = hold.token

    @pytest.mark.parametrize("timeout", [None, 60])
    def test_ctrl_c_ends_a_wait(self, service: FlockService, place: Path, timeout: float | None) -> None:
        """The waiting main thread is interrupted, holds nothing, and can lock afterwards."""
        code = (
            "import sys\nfrom laila.locks import connect\n"
            "lock = connect(sys.argv[1]).lock('a')\n"
            "print('waiting', flush=True)\n"
            f"try: lock.acquire({timeout})\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)\n"
            "sys.stdin.readline(); print(lock.acquire(20).token, flush=True); sys.stdin.readline()"
        )
        hold = service.lock("a").acquire(0)
        with python(code, place) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"waiting\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == b"interrupted\n"
            hold.release()
            service.lock("a").acquire(SOON).release()
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert int(process.stdout.readline()) > hold.token

    def test_a_child_does_not_keep_its_dead_parents_lock(self, service: FlockService, place: Path) -> None:
        """A forked child has the parent's descriptors no longer, so the kernel frees the lock with the parent."""
        code = (
            "import os, sys, time\nfrom laila.locks import connect\n"
            "service = connect(sys.argv[1]); hold = service.lock('a').acquire(0)\n"
            "child = os.fork()\n"
            "if child == 0: time.sleep(20); os._exit(0)\n"
            "print(child, flush=True); sys.stdin.read()"
        )
        with python(code, place) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            try:
                assert service.lock("a").try_acquire() is None
                process.kill()
                process.wait(SOON)
                service.lock("a").acquire(SOON).release()
                assert Path(f"/proc/{child}").exists(), "the child ended too early to prove anything"
            finally:
                os.kill(child, 9)

    def test_many_threads_read_at_once(self, service: FlockService) -> None:
        """Each shared hold has a description of its own; what is not needed later is closed."""
        lock = service.lock("a")
        barrier = threading.Barrier(20)
        failed: list[BaseException] = []

        def read() -> None:
            try:
                with lock.shared(SOON):
                    barrier.wait(SOON)
            except BaseException as error:
                failed.append(error)

        before = len(list(Path("/proc/self/fd").iterdir()))
        threads = [threading.Thread(target=read) for _ in range(20)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(SOON)
        assert not failed
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 6
        lock.acquire(0).release()


class TestPlaces:
    """Where locks cannot live, and what is said about it."""

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        """Made when it can be, also with its parents; else acquiring says that it is missing."""
        with FlockService(tmp_path / "x" / "y") as service:
            service.lock("a").acquire(0).release()
        with FlockService(tmp_path / "z", create=False) as service:
            with pytest.raises(LockUnavailable, match="is not there"):
                service.lock("a").acquire(0)
            assert service.lock("a").holder() is None
            (tmp_path / "z").mkdir()
            service.lock("a").acquire(0).release()
        (tmp_path / "file").touch()
        with (
            FlockService(tmp_path / "file" / "sub") as service,
            pytest.raises(LockUnavailable, match="not there"),
        ):
            service.lock("a").acquire(0)

    def test_a_directory_that_goes_away(self, service: FlockService, place: Path) -> None:
        """The hold is lost, acquiring is an error, and when it is back all is well."""
        lock = service.lock("a")
        with lock.acquire(0) as hold:
            place.rename(place.with_name("away"))
            assert hold.lost
        with pytest.raises(LockUnavailable, match="not there"):
            lock.acquire(0)
        place.with_name("away").rename(place)
        lock.acquire(0).release()

    def test_without_permission_to_write(self, service: FlockService, place: Path) -> None:
        """Shared holds work on a lock file that exists; exclusive ones, and new files, are refused as read-only."""
        for name in ("a", "b"):
            service.lock(name).acquire(0).release()
        for directory in (place, *place.parents):
            if not directory.stat().st_mode & 0o001:  # pytest's own are closed to strangers
                directory.chmod(0o755)
        report = json.loads(run(AS_STRANGER, place, strange=True))
        assert report["readable_only"] is True
        assert report["shared"] == "held, not lost"
        assert "read-only here (EACCES)" in report["exclusive"]
        assert "read-only here (EACCES)" in report["new"]
        assert service.readable_only is False

    def test_on_a_read_only_mount(
        self, service: FlockService, place: Path, read_only_view: Callable[[Path], Path]
    ) -> None:
        """The same with EROFS; a reader there excludes writers elsewhere, and is excluded by them."""
        service.lock("a").acquire(0).release()
        with FlockService(read_only_view(place)) as there:
            assert there.readable_only
            with there.lock("a").shared(0) as hold:
                assert not hold.lost
                assert service.lock("a").try_acquire() is None
            with service.lock("a").acquire(0):
                assert there.lock("a").try_acquire(shared=True) is None
                assert there.lock("a").holder() is not None
            with pytest.raises(LockUnavailable, match=r"read-only here \(EROFS\)"):
                there.lock("a").acquire(0)
            with pytest.raises(LockUnavailable, match=r"read-only here \(EROFS\)"):
                there.lock("new").acquire(0, shared=True)
            (place / "naive.lock").touch()
            with there.lock("naive").shared(0) as hold:
                assert hold.token == 0

    def test_on_a_full_volume(self, small_disk: Path) -> None:
        """No room for a token, no lock; it works again when there is room."""
        with FlockService(small_disk / "locks") as service:
            filler = small_disk / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(LockUnavailable, match="full"):
                service.lock("a").acquire(0)
            filler.unlink()
            service.lock("a").acquire(0).release()

    @pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
    def test_what_is_no_regular_file(
        self, service: FlockService, place: Path, tmp_path: Path, kind: str
    ) -> None:
        """It is refused, at once, and left as it is."""
        path = place / "a.lock"
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises(LockUnavailable):
            service.lock("a").acquire(SOON)
        assert not (tmp_path / "elsewhere").exists()

    def test_the_suffix_is_ours_to_choose(self, place: Path) -> None:
        """`<name><suffix>` in the directory; a suffix that is a path is refused."""
        with FlockService(place, suffix=".held") as service, service.lock("a").acquire(0):
            assert (place / "a.held").exists()
        for suffix in ("", "/x", "../y"):
            with pytest.raises(BadConfig):
                FlockService(place, suffix=suffix)

    def test_many_names_do_not_hold_many_files(self, service: FlockService) -> None:
        """A service keeps the files of the last names open, not of all it ever had."""
        for number in range(400):
            service.lock(f"n{number}").acquire(0).release()
        assert len(list(Path("/proc/self/fd").iterdir())) < 350
        service.lock("n0").acquire(0).release()


AS_STRANGER = """
import json, os, sys
from laila.errors import LockUnavailable
from laila.locks import connect, FlockService
os.setgid(65534); os.setuid(65534)  # now, as the interpreter's own files may be closed to strangers
service = connect(sys.argv[1])
report = {"readable_only": service.readable_only}
for what, name, shared in (("shared", "a", True), ("exclusive", "b", False), ("new", "c", True)):
    try:
        with service.lock(name).acquire(0, shared=shared) as hold:
            report[what] = "held, lost" if hold.lost else "held, not lost"
    except LockUnavailable as error:
        report[what] = str(error)
print(json.dumps(report))
"""


def run(code: str, place: Path, *, strange: bool = False) -> str:
    """What a program prints that is given the place of the locks."""
    if strange and os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def python(code: str, place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block is left."""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def seen_by_kernel(path: Path) -> bool:
    """Whether /proc/locks shows this held file; on some file systems its device has another number there."""
    return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()
