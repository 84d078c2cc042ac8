"""One lock name in one directory, for all threads of a service: its descriptors, its queue and its tokens.

How the lock is come by, in this order:
1. A place may take it again and again for a TURN by asking the kernel at once. After that who comes back quickly, and
   who wants to read, looks at the gate first: whoever comes while others wait joins them, and lets them go first.
2. Who must wait is seen at the gate meanwhile, and blocks in the kernel: without a timeout by itself, else through a
   stand-in (`standin.py`). All requests are in the kernel's own queue, so that a process that was stopped there, or
   died, is in nobody's way.
3. With a timeout a waiter tries for itself every PATIENCE: file systems exist that wake blocked requests late.
4. A reader also waits, though only for COURTESY, while a writer is waiting and others read: else readers that
   relieve each other would keep a writer out for ever.
After that the path must still lead to the locked file; if that was replaced, the new one is locked instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from time import monotonic

from laila.errors import LockUnavailable

from . import record
from .directory import UNKNOWN, Directory
from .gate import Gate
from .holder import Holder, host_name
from .lockfile import LockFile, unavailable
from .standin import StandIn
from .waiting import Wait
from .witness import Witnessed, witnessed

TURN = 0.002
"""Seconds for which a place may take the lock again and again before it looks whether others wait."""
YIELD = 0.00005
"""Seconds that those who were just woken get to go first: about what waking up takes."""
SURE = 0.1
"""Seconds for which an unchanged directory means an unchanged path: something further up may have been moved."""
PATIENCE = 0.25
"""Seconds after which a waiter tries for itself, looks whether its caller went away, or its service was closed."""
COURTESY = 1.0
"""Seconds that a reader waits at most for a writer who came before."""
OFFENDED = 30.0
"""Seconds without courtesy, after it was in vain: who waits there may have been stopped."""
_EXCLUSIVE_NOW = LOCK_EX | LOCK_NB
_SHARED_NOW = LOCK_SH | LOCK_NB
_REPLACED = 100  # attempts at a lock file that was removed or replaced each time we got it
_KEPT = 4  # idle descriptors of one name; more are open only while more threads hold it shared at once


class Place:
    """A lock file and its gate. Safe under threads; the tokens are guarded by the lock itself."""

    def __init__(self, name: str, path: str, gate: str, directory: Directory, writer: record.Writer) -> None:
        self.name = name
        self.closed = False
        self._directory = directory
        self._path = path
        self._gate = Gate(gate)
        self._writer = writer
        self._idle: list[LockFile] = []
        self._standin = StandIn(name, self.block, self.release)
        # The path's file when it was last looked up, and how its directory was then.
        self._sure_inode = self._sure_change = 0
        self._sure_until = self._turn_ends = self._released_at = self._courteous_from = 0.0
        self._last_content: bytes | None = None  # what this place wrote last, and its token
        self._last_token = 0
        self._template = b""
        self._purpose: str | None = None

    # --- coming by it

    def take_now(self, shared: bool) -> LockFile | None:
        """The lock file, locked, if nobody is in the way or waits; else None. Raises LockUnavailable."""
        now = monotonic()
        if now >= self._turn_ends:
            if (shared or now - self._released_at < TURN) and self._gate.occupied():
                return None
            self._turn_ends = now + TURN
        file = self._try(shared)
        if file is None:
            return None
        return file if self._verified(file, now) else None

    def take(self, wait: Wait, shared: bool) -> LockFile | None:
        """The same after waiting, which comes after `take_now`; None when the wait is over."""
        for _ in range(_REPLACED):
            file = self._in_line(wait, shared)
            if file is None or self._verified(file, monotonic()):
                return file
        raise LockUnavailable(f"{self._path} is replaced all the time; find out who does that, and stop it")

    def _verified(self, file: LockFile, now: float) -> bool:
        """Whether it is still the path's file. If not it is closed: others meet at the one that replaced it."""
        sure = now < self._sure_until and file.inode == self._sure_inode
        if sure and self._directory.changed() == self._sure_change:
            return True
        change = self._directory.settled()
        try:
            same = self._leads_to(file)
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise self._failed(file, error) from error
        if same:
            self._sure_inode = file.inode if change != UNKNOWN else 0
            self._sure_change = change
            self._sure_until = now + SURE
            return True
        self._leave_gate(file)
        file.close()
        self.close_idle()
        return False

    def _leave_gate(self, file: LockFile) -> None:
        if file.at_gate:
            file.at_gate = False
            self._gate.leave()

    def _leads_to(self, file: LockFile) -> bool:
        status = os.lstat(self._path)
        return status.st_ino == file.inode and status.st_dev == file.device

    def _try(self, shared: bool) -> LockFile | None:
        try:
            file = self._idle.pop()
        except IndexError:
            file = self._descriptor(shared)
        else:
            if file.refused:
                self._idle.append(file)
                file = self._descriptor(shared)
        try:
            flock(file.fd, _SHARED_NOW if shared else _EXCLUSIVE_NOW)
        except BlockingIOError:
            self._put_back(file)
            return None
        except OSError as error:
            raise self._failed(file, error) from error
        return file

    def _in_line(self, wait: Wait, shared: bool) -> LockFile | None:
        if monotonic() - self._released_at < 2 * YIELD:
            time.sleep(YIELD)
        if wait.timeout == 0:
            return self._try(shared)
        if shared:
            self._let_a_writer_go_first(wait)
        file = None
        self._gate.enter()
        try:
            file = self.block(shared) if wait.endless else self._wait(wait, shared)
        finally:
            if file is None or shared:
                self._gate.leave()
            else:
                file.at_gate = True  # left after the release: until then others have to wait anyway
        self._turn_ends = monotonic() + TURN
        return file

    def _wait(self, wait: Wait, shared: bool) -> LockFile | None:
        file = self._try(shared)
        if file is not None:
            return file
        ticket = self._standin.ask(shared)
        answered = False
        try:
            while not (answered := ticket.bell.acquire(timeout=wait.left(PATIENCE))):
                if self.closed or wait.over:
                    return None
                self.close_idle()  # so that a file that replaced the one we are blocked at is seen
                file = self._try(shared)
                if file is not None:
                    return file
            return ticket.take()
        finally:
            unused = None if answered else self._standin.withdraw(ticket)
            if unused is not None:
                self.release(unused)

    def _let_a_writer_go_first(self, wait: Wait) -> None:
        """Hold back while others read and somebody waits for them to end.

        Until one was served, or nobody waits, or it takes too long: then whoever is at the gate may be stopped.
        """
        file = self._try(shared=True)
        if file is None:
            return  # a writer is in: the kernel's queue decides who is next
        self.release(file)
        now = monotonic()
        before = self._last_token_by_file()
        until, pause = now + COURTESY, 0.0002
        while now >= self._courteous_from and self._gate.occupied() and self._last_token_by_file() == before:
            if self.closed or not wait.pause(pause):
                return
            if monotonic() >= until:
                self._courteous_from = until + OFFENDED
                return
            pause = min(2 * pause, 0.005)

    def block(self, shared: bool) -> LockFile:
        """The file, locked, however long that takes. Raises LockUnavailable."""
        file = self._descriptor(shared)
        try:
            flock(file.fd, LOCK_SH if shared else LOCK_EX)
        except OSError as error:
            raise self._failed(file, error) from error
        return file

    # --- while it is held

    def stamp(self, file: LockFile, since: float, purpose: str) -> int:
        """The next token, written into the exclusively locked file. Raises LockUnavailable, and lets go then."""
        try:
            last = self._last(file)
            now_us = int(since * 1_000_000)
            token = now_us if now_us > last else last + 1
            if token > self._gate.ceiling:
                self._gate.raise_ceiling(token)
            if purpose != self._purpose:
                self._template = self._writer.template(purpose)
                self._purpose = purpose
            content = self._template % (token, now_us, token)
            if os.pwrite(file.fd, content, 0) != record.SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._failed(file, error) from error
        except LockUnavailable:
            self.release(file)
            raise
        self._last_token = token
        self._last_content = content
        return token

    def last_token(self, file: LockFile) -> int:
        """The last exclusive token, as a locked file says it. Raises LockUnavailable, and lets go then."""
        try:
            return self._last(file)
        except OSError as error:
            raise self._failed(file, error) from error
        except LockUnavailable:
            self.release(file)
            raise

    def _last(self, file: LockFile) -> int:
        content = file.read() if file.networked else os.pread(file.fd, record.SIZE, 0)
        if content == self._last_content:
            return self._last_token
        token = record.token(content) or self._gate.read_ceiling()  # none: new, truncated, or damaged
        return token if token > self._last_token else self._last_token

    def find_loss(self, file: LockFile, token: int) -> str:
        """Why the lock with this token is held no longer, "" while it is: two system calls."""
        try:
            if not self._leads_to(file):
                return "the lock file was replaced"
            content = file.read()
        except FileNotFoundError:
            return "the lock file was removed"
        except OSError as error:
            return f"the lock file cannot be read ({errno.errorcode.get(error.errno or 0, error)})"
        if content == self._last_content and self._last_token <= token:
            return ""
        seen = record.read(content)
        return f"overtaken by {seen}" if seen is not None and seen.token > token else ""

    def release(self, file: LockFile) -> None:
        """Unlock. Never raises: a volume that went away took the lock with it."""
        at_gate, file.at_gate = file.at_gate, False  # another thread may have the file once it was put back
        try:
            flock(file.fd, LOCK_UN)
        except OSError:
            file.close()
        else:
            self._put_back(file)
        self._released_at = monotonic()
        if at_gate:
            self._gate.leave()

    # --- who holds it

    def holder(self) -> Holder | None:
        """Who holds it exclusively: by the kernel's list of this host, else by the record. Raises LockUnavailable.

        A record outlives its hold; so a program elsewhere that leaves none is taken for the last one that did.
        """
        try:
            file = self._descriptor(shared=True, create=False)
        except FileNotFoundError:
            return None
        try:
            told = record.read(file.read())
            pid = witnessed(file.device, file.inode).exclusive
            held = pid is not None or file.probe()
        except OSError as error:
            raise self._failed(file, error) from error
        self._put_back(file)
        if not held:
            return None
        if told is None or pid not in (None, told.pid):
            return Holder("", host_name() if pid else "", pid or 0, 0.0, "", 0)
        return told

    def witnessed(self) -> Witnessed:
        """What this kernel shows of the file."""
        try:
            status = os.lstat(self._path)
        except OSError:
            return Witnessed(None, ())
        return witnessed(status.st_dev, status.st_ino)

    # --- descriptors

    def _last_token_by_file(self) -> int:
        file = self._descriptor(shared=True)
        token = self.last_token(file)
        self._put_back(file)
        return token

    def _descriptor(self, shared: bool, create: bool = True) -> LockFile:
        """One that nobody uses. Raises LockUnavailable; FileNotFoundError without `create`."""
        while True:
            try:
                file = self._idle.pop()
            except IndexError:
                file = LockFile.open(self._path, create=create)
                if file.refused and not shared:
                    raise self._failed(file, OSError(file.refused, os.strerror(file.refused))) from None
            if shared or not file.refused:
                return file
            file.close()  # read-only when it was opened; that may have changed

    def _put_back(self, file: LockFile) -> None:
        if len(self._idle) >= _KEPT:
            file.close()
            return
        self._idle.append(file)
        if self.closed:
            self.close_idle()

    def _failed(self, file: LockFile, error: OSError) -> LockUnavailable:
        self._leave_gate(file)
        file.close()
        if file.refused:
            error = OSError(file.refused, os.strerror(file.refused))
        return unavailable(self._path, error)

    def close_idle(self) -> None:
        """Close what is kept for the next acquisition."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread took it meanwhile
                self._idle.pop().close()
        self._gate.close()

    def close(self) -> None:
        """Close for good; waiters come back empty-handed within PATIENCE."""
        self.closed = True
        self._standin.close()
        self.close_idle()

    def after_fork(self, writer: record.Writer) -> None:
        """In the child, whose descriptors were closed: start afresh, under this process's id."""
        self._writer = writer
        self._idle.clear()
        self._gate.after_fork()
        self._standin = StandIn(self.name, self.block, self.release)
