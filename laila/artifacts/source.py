"""Where an artifact's bytes are: in memory, or in a file that is mapped because it is large.

Files up to `READ_UP_TO` are read, so that nobody who shortens one in place can kill the reader (SIGBUS). Larger ones
are mapped privately, and while one is worked through, its pages are given back as fast as they come (`trimming`): so a
file of any size is checked in little memory.

A block's signature covers 108 bytes that are not in front of the data in the file. `message` puts them there for a
moment, in this process' own copy of that page, so that a large block is verified where it lies.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import buffers
from ..errors import ArtifactCorrupt, NotAnArtifact
from ..mounts import mount_of

READ_UP_TO = 128 << 20
JOINED_UP_TO = 64 << 10
"""Messages up to this size are copied together instead of patched."""
TRIM_EVERY = 0.005
_PAGE = mmap.PAGESIZE
_TRIM_FROM = 16 << 20


class Source:
    """The bytes of one artifact, in any buffer; a writable one is patched for `message` and put right again."""

    def __init__(self, memory: bytes | bytearray | memoryview | mmap.mmap, path: str = "") -> None:
        self._map = memory if isinstance(memory, mmap.mmap) else None
        self._view = memoryview(memory).cast("B") if not isinstance(memory, mmap.mmap) else memoryview(memory)
        self._patched: set[tuple[int, int, int]] = set()
        self._guard = threading.Lock()
        self.path = path
        self.size = len(self._view)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, read_up_to: int = READ_UP_TO) -> Source:
        """Raises OSError as the system says it, NotAnArtifact for what is no regular file."""
        name = os.fspath(path)
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = regular(descriptor, name)
            if size > read_up_to:
                return cls(_mapped(descriptor, size, name), name)
            return cls(_read(descriptor, size, name), name)
        finally:
            os.close(descriptor)

    @property
    def mapped(self) -> bool:
        return self._map is not None

    def view(self, at: int, size: int) -> memoryview:
        """Those bytes where they lie; not to be written to."""
        return self._view[at : at + size].toreadonly()

    def read(self, at: int, size: int) -> bytes:
        return bytes(self._view[at : at + size])

    @contextmanager
    def message(self, front: bytes, at: int, size: int) -> Iterator[bytes | memoryview]:
        """`front` and the `size` bytes from `at` on, as one."""
        begin = at - len(front)
        if size <= JOINED_UP_TO or self._view.readonly:
            yield front + self._view[at : at + size]
            return
        place = (begin // _PAGE * _PAGE, -(-at // _PAGE) * _PAGE, begin)
        before = bytes(self._view[begin:at])
        with self._guard:  # a trim in between would drop the patched page
            self._patched.add(place)
            self._view[begin:at] = front
        try:
            yield self._view[begin : at + size]
        finally:
            with self._guard:
                self._view[begin:at] = before
                self._patched.discard(place)

    @contextmanager
    def trimming(self) -> Iterator[None]:
        """While this lasts, pages that were looked at are given back."""
        if self._map is None:
            yield
            return
        with trimmed(self._map, self._trim):
            yield

    def _trim(self) -> None:
        """Give back all pages but the patched ones, which exist nowhere else."""
        assert self._map is not None
        with self._guard:
            at = 0
            for begin, end, _ in sorted(self._patched):
                if begin > at:
                    self._map.madvise(mmap.MADV_DONTNEED, at, begin - at)
                at = max(at, end)
            if at < len(self._map):
                self._map.madvise(mmap.MADV_DONTNEED, at, len(self._map) - at)


def _mapped(descriptor: int, size: int, name: str) -> mmap.mmap:
    """A private map of the file, or of a private copy of it where it comes over a network: a map of that would end the
    process when the server goes away.
    """
    if mount_of(name).one_kernel:
        return private_map(descriptor, size)
    with tempfile.TemporaryFile() as copy:
        done = 0
        while done < size:
            count = os.sendfile(copy.fileno(), descriptor, done, min(size - done, 64 << 20))
            if not count:
                raise ArtifactCorrupt(f"{name} was shortened while it was read; load it again", path=name)
            done += count
        return private_map(copy.fileno(), size)


def private_map(descriptor: int, size: int) -> mmap.mmap:
    """Writable, seen by nobody else; pages that are not written to take no memory, so none is reserved."""
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
    return mmap.mmap(descriptor, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def regular(descriptor: int, name: str) -> int:
    """The size of an open file. Raises NotAnArtifact for pipes, devices and directories."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise NotAnArtifact(f"{name} is no regular file; give the path of a .maif file", path=name)
    return status.st_size


def _read(descriptor: int, size: int, name: str) -> memoryview:
    memory = buffers.allocate(size)
    done = 0
    while done < size:
        count = os.preadv(descriptor, [memory[done:]], done)
        if not count:
            raise ArtifactCorrupt(f"{name} was shortened while it was read; load it again", path=name)
        done += count
    return memory


@contextmanager
def trimmed(area: mmap.mmap, trim: Callable[[], object] | None = None) -> Iterator[None]:
    """Give back the pages of a private map every few milliseconds: all of them, or as `trim` does."""
    if len(area) < _TRIM_FROM or not hasattr(mmap, "MADV_DONTNEED"):
        yield
        return
    over, give_back = threading.Event(), trim or (lambda: area.madvise(mmap.MADV_DONTNEED))

    def work() -> None:
        while not over.wait(TRIM_EVERY):
            give_back()

    thread = threading.Thread(target=work, name="laila-artifact-trim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def open_data(data: object) -> Source:
    """What a caller gave as content: bytes as they are, a path's file read or mapped, anything else copied.

    Raises: TypeError for what has no bytes, OSError for a file that cannot be read.
    """
    if isinstance(data, bytes):
        return Source(data)
    if isinstance(data, os.PathLike):
        return Source.open(data)
    return Source(bytes(memoryview(data)))  # type: ignore[arg-type]  # memoryview refuses what has no bytes
