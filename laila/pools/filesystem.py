"""Entries in a directory: one file each, whole or absent, on disk before a put returns.

Strategy: a write goes to a file in this writer's own scratch directory, is fsynced, renamed over the old
entry, and then the directory is fsynced. Nothing is ever changed in place, so there is no lock between
readers and writers, threads or processes: a reader has the old file or the new one. A read checks a checksum
over everything it returns. Only `swap` must know that nothing changes between its look and its rename: it has
the file `.swap` locked for itself, and whoever renames or removes has it locked together with the others.

    root/3f/f69bf63a-dc0f-5a54-a7bc-92438d0f83df.rec    an entry; 3f is the low byte of the key's crc32
    root/.tmp/<writer>/lock, 0, 1, …                    a writer's scratch; locked while the writer lives
    root/.swap                                          empty; locked (flock) for an instant at a time

How a file looks inside, and how it is named: recordfile.py.

The lock of a scratch goes away with its writer, however that dies; whoever opens the pool next removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

from laila.codec import Encoded
from laila.errors import StorageError
from laila.pools.base import Capabilities, Pool, check_key, same
from laila.pools.disk import identity, make_directory, reported, sync_directory
from laila.pools.recordfile import HASHED_SUFFIX, RECORD_SUFFIX, content, file_name, key_of, pack, unpack

_GROUP = 128  # files of a batch that are open at once
_SWAP = ".swap"
_WAIT_SECONDS = 30.0  # for those who rename just now; a write that still cannot fails with EBUSY
_UNLOCKABLE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_ABANDONED = 3600.0  # seconds; unfinished files this old are a dead writer's where no lock can tell


class FilesystemPool(Pool):
    """Entries in the directory `path`, which is made if it is not there (a read-only one is only read).

    Durable: file and directory are fsynced before a put returns. Any number of threads and processes may use
    the directory at once. `put_many` is not all or nothing: each entry is replaced atomically, all are
    written before the first is replaced (so a full disk changes nothing), but a crash in between may leave
    some new and some old. `swap` excludes the others as far as flock does on that volume; where there is no
    flock it raises StorageError.

    Big buffers come back as read-only views of the mapped file, without a copy. `count`, `keys` and `nbytes`
    (here: the sizes of the files) walk the directory.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, blocking=True, shared=True)
    kind: ClassVar[str] = "filesystem"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        with reported(f"open the pool directory {self.path}"):
            make_directory(self.path)
            self._identity = identity(self.path)
            self._scratch = _Scratch(self.path / ".tmp")
            self._scratch.sweep()
        self._known_shards: set[Path] = set()

    def put(self, key: str, record: Encoded) -> None:
        self._write([(key, record)], os.replace)

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._write(items, os.replace)

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        self._check_open()
        return self._unlink([self._file(check_key(key)) for key in keys])

    def empty(self) -> None:
        self._check_open()
        with reported(f"list {self.path}"):
            files = [Path(entry.path) for entry in self._files()]
        self._unlink(files)

    def keys(self) -> Iterator[str]:
        self._check_open()
        with reported(f"list {self.path}"):
            found = [key_of(Path(entry.path)) for entry in self._files()]
        return iter([key for key in found if key is not None])

    def count(self) -> int:
        self._check_open()
        with reported(f"list {self.path}"):
            return sum(1 for _ in self._files())

    def nbytes(self) -> int:
        self._check_open()
        total = 0
        with reported(f"list {self.path}"):
            for entry in self._files():
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    total += entry.stat().st_size
        return total

    def probe(self, *, write: bool = False) -> None:
        self._check_open()
        self._check_root()
        with reported(f"read {self.path}"), os.scandir(self.path) as entries:
            next(entries, None)
        if write:
            with reported(f"write in {self.path}"):
                self._stage([(b"probe", Encoded(b""))])[0].unlink()

    # -- reading -----------------------------------------------------------------------------------------

    def _get(self, key: str) -> Encoded | None:
        self._check_open()
        raw = check_key(key)
        path = self._file(raw)
        with reported(f"read {path}"):
            try:
                data = content(path)
            except FileNotFoundError:
                self._check_root()
                return None
        return unpack(data, raw, path)

    def _exists(self, key: str) -> bool:
        self._check_open()
        path = self._file(check_key(key))
        with reported(f"read {path}"):
            try:
                path.stat()
            except FileNotFoundError:
                self._check_root()
                return False
        return True

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """Every entry's file, as it is now."""
        self._check_root()
        with os.scandir(self.path) as shards:
            names = [shard.name for shard in shards if len(shard.name) == 2]
        for name in names:
            with os.scandir(self.path / name) as files:
                yield from [file for file in files if file.name.endswith((RECORD_SUFFIX, HASHED_SUFFIX))]

    def _file(self, raw: bytes) -> Path:
        return self.path / f"{zlib.crc32(raw) & 0xFF:02x}" / file_name(raw)

    def _check_root(self) -> None:
        """Raise if the directory went away: its entries are then not absent, but out of reach."""
        with reported(f"read {self.path}"):
            if identity(self.path) != self._identity:
                raise StorageError(
                    f"{self.path} is not the directory that was opened; was its volume unmounted?",
                    reason="ESTALE",
                )

    # -- writing -----------------------------------------------------------------------------------------

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._write([(key, record) for key, record in items if not self._exists(key)], _place_new)

    def _write(self, items: Sequence[tuple[str, Encoded]], place: Callable[[Path, Path], None]) -> None:
        """Write all, then `place` all, then make the names durable."""
        self._check_open()
        batch = {check_key(key): record for key, record in items}
        if not batch:
            return
        finals = [self._file(raw) for raw in batch]
        shards = dict.fromkeys(final.parent for final in finals)
        self._check_root()
        with reported(f"write {len(batch)} entries in {self.path}", self._what(batch)):
            self._make_shards(shards.keys() - self._known_shards)
            staged = self._stage(list(batch.items()))
            try:
                with self._changing(alone=False):
                    for temporary, final in zip(staged, finals, strict=True):
                        place(temporary, final)
                for shard in shards:
                    sync_directory(shard)
            except OSError:
                self._known_shards.clear()  # perhaps somebody removed one
                for temporary in staged:
                    temporary.unlink(missing_ok=True)
                raise

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        self._check_open()
        raw = check_key(key)
        final = self._file(raw)
        self._check_root()
        with reported(f"write {final}"):
            self._make_shards({final.parent} - self._known_shards)
            staged = self._stage([(raw, after)])[0]
            try:
                with self._changing(alone=True):
                    if not same(self._get(key), before):
                        return False
                    staged.replace(final)
            except OSError:
                self._known_shards.clear()
                raise
            finally:
                staged.unlink(missing_ok=True)
            sync_directory(final.parent)
        return True

    @contextlib.contextmanager
    def _changing(self, *, alone: bool) -> Iterator[None]:
        """While renaming or removing: together with others who do, or alone."""
        try:
            descriptor = os.open(self.path / _SWAP, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if alone or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            yield  # no room even for an empty file: then nobody has swapped here yet, and deleting must work
            return
        try:
            _lock_within(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, self.path)
            yield
        finally:
            os.close(descriptor)

    def _make_shards(self, shards: set[Path]) -> None:
        """Also syncs those that another process just made: it may not have come to that yet."""
        for shard in shards:
            shard.mkdir(exist_ok=True)
        if shards:
            sync_directory(self.path)
            self._known_shards |= shards

    def _what(self, batch: dict[bytes, Encoded]) -> str:
        return f"write {self._file(next(iter(batch)))}" if len(batch) == 1 else ""

    def _stage(self, batch: Sequence[tuple[bytes, Encoded]]) -> list[Path]:
        """The records in files of the scratch directory, on disk. On failure none of them stays."""
        staged: list[Path] = []
        try:
            for start in range(0, len(batch), _GROUP):
                with contextlib.ExitStack() as stack:
                    files = []
                    for raw, record in batch[start : start + _GROUP]:
                        staged.append(self._scratch.path())
                        files.append(stack.enter_context(staged[-1].open("xb")))
                        for piece in pack(raw, record):
                            files[-1].write(piece)
                        files[-1].flush()
                    for file in files:  # after all writes: the first fsync then carries most of the others
                        os.fsync(file.fileno())
        except OSError:
            for temporary in staged:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            self._scratch.check()
            raise
        return staged

    def _unlink(self, paths: Sequence[Path]) -> int:
        gone: list[Path] = []
        self._check_root()
        with reported(f"delete in {self.path}"):
            try:
                with self._changing(alone=False):
                    for path in paths:
                        with contextlib.suppress(FileNotFoundError):
                            path.unlink()
                            gone.append(path)
            finally:
                for shard in {path.parent for path in gone}:
                    sync_directory(shard)
        return len(gone)

    def _close(self) -> None:
        self._scratch.close()

    def _where(self) -> str:
        return f" {self.path}"


class _Scratch:
    """This writer's own directory for unfinished files, made at the first write, locked until closed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._making = threading.Lock()
        self._numbers = itertools.count()
        self._directory: Path | None = None
        self._lock: BinaryIO | None = None
        self._process = 0

    def path(self) -> Path:
        """A name for a new file."""
        directory = self._directory
        if directory is None or self._process != os.getpid():  # a forked child makes its own
            with self._making:
                if self._directory is None or self._process != os.getpid():
                    if self._lock is not None:
                        self._lock.close()  # the parent's own descriptor keeps its lock
                    self._directory, self._lock = self._make()
                    self._process = os.getpid()
                directory = self._directory
        return directory / str(next(self._numbers))

    def check(self) -> None:
        """Make another directory next time if somebody removed this one."""
        with self._making:
            if self._directory is not None and not self._directory.exists():
                self.close()

    def _make(self) -> tuple[Path, BinaryIO]:
        while True:
            directory = self._root / uuid.uuid4().hex
            directory.mkdir(parents=True)
            try:
                with contextlib.ExitStack() as stack:
                    path = directory / "lock"
                    lock = stack.enter_context(path.open("xb"))
                    _try_lock(lock)
                    if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                        stack.pop_all()
                        return directory, lock
            except (FileNotFoundError, BlockingIOError):
                continue  # somebody took it for a dead writer's in the instant before it was locked
            except OSError:
                _remove(directory)
                raise

    def sweep(self) -> None:
        """Remove what dead writers left. Where nothing may be removed, everything stays."""
        try:
            leftovers = list(self._root.iterdir())
        except OSError:
            return
        for directory in leftovers:
            with contextlib.suppress(OSError):
                try:
                    with (directory / "lock").open("r+b") as lock:
                        _try_lock(lock, required=True)
                        _remove(directory)
                except BlockingIOError:
                    continue  # its writer lives
                except OSError:  # no lock to ask: only what is old is a dead writer's
                    for path in directory.iterdir():
                        if time.time() - path.stat().st_mtime > _ABANDONED:
                            path.unlink()
                    if time.time() - directory.stat().st_mtime > _ABANDONED:
                        directory.rmdir()

    def close(self) -> None:
        if self._lock is not None and self._directory is not None:
            if self._process == os.getpid():
                with contextlib.suppress(OSError):
                    _remove(self._directory)
            self._lock.close()
            self._lock = self._directory = None


def _lock_within(descriptor: int, kind: int, path: Path) -> None:
    """Wait for the lock. Where a file system has none, writers go on without, and a swap is refused."""
    until = time.monotonic() + _WAIT_SECONDS
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise StorageError(
                    f"cannot write in {path}: others changed it for {_WAIT_SECONDS:g} s (EBUSY)",
                    reason="EBUSY",
                ) from None
        except OSError as error:
            if kind == fcntl.LOCK_SH and error.errno in _UNLOCKABLE:
                return
            raise
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def _try_lock(file: BinaryIO, *, required: bool = False) -> None:
    """Lock or raise BlockingIOError; unless required, a file system without locks is all right."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        if required:
            raise


def _remove(directory: Path) -> None:
    for path in sorted(directory.iterdir(), key=lambda path: path.name == "lock"):  # the lock goes last
        path.unlink(missing_ok=True)
    directory.rmdir()


def _place_new(temporary: Path, final: Path) -> None:
    """Give the file its final name unless that is taken; never replaces."""
    try:
        final.hardlink_to(temporary)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if not final.exists():  # no hard links here: a writer in this instant would lose against the fill
            temporary.replace(final)
            return
    temporary.unlink()
