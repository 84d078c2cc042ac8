"""Where a new file takes shape: memory, or a temporary file beside the place where it will be published.

Publishing is by rename: temp in the same directory, fsync, rename, fsync of the directory. A crash at any instruction
leaves the old version or the new one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from .. import buffers
from ..codec import Buffer
from ..mounts import mount_of
from ..pools.disk import reported, sync_directory
from .source import Source, private_map, trimmed

TEMPORARY_SUFFIX = ".tmp"
_CHUNK = 8 << 20
_MOST_PIECES = 512
"""Pieces in one system call; the kernel takes 1024."""


class Sheet(Protocol):
    """Bytes at offsets, in any order. `signs_in_place`: what was placed may be mapped without danger."""

    signs_in_place: bool

    def place(self, at: int, pieces: Sequence[Buffer]) -> None:
        """Write pieces one after the other."""

    def contiguous(self, at: int, size: int) -> contextlib.AbstractContextManager[memoryview]:
        """What was placed there, as one."""


class MemorySheet:
    """In memory. `size` is at least that of the whole file."""

    signs_in_place = True

    def __init__(self, size: int) -> None:
        self.memory = buffers.allocate(size)

    def place(self, at: int, pieces: Sequence[Buffer]) -> None:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            self.memory[at : at + len(view)] = view
            at += len(view)

    @contextmanager
    def contiguous(self, at: int, size: int) -> Iterator[memoryview]:
        yield self.memory[at : at + size]


class FileSheet:
    """A temporary file next to `path`. Leaving the context removes it, unless it was published.

    It is mapped only where one kernel has the file system to itself: on a volume that comes over a network the server
    may go away, and a map of it would then end the process instead of raising an error.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
        self._descriptor = -1
        self._published = False
        self.signs_in_place = False

    def __enter__(self) -> FileSheet:
        with reported(f"write {self.path}"):
            self._descriptor = os.open(
                self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
            )
            with contextlib.suppress(FileNotFoundError):  # the first version of it
                os.fchmod(self._descriptor, stat.S_IMODE(self.path.stat().st_mode))
        return self

    def may_map(self) -> None:
        """Find out whether this file may be mapped; who writes little need not know."""
        with contextlib.suppress(
            OSError
        ):  # a StorageError is one: no /proc: then nobody knows, and nothing is mapped
            self.signs_in_place = mount_of(self.path.parent).one_kernel

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(OSError):  # a volume that went away has said so before
            os.close(self._descriptor)
        if not self._published:
            with contextlib.suppress(OSError):
                self._temporary.unlink()

    def place(self, at: int, pieces: Sequence[Buffer]) -> None:
        with reported(f"write {self.path}"):
            for begin in range(0, len(pieces), _MOST_PIECES):
                at = self._write(
                    at, [memoryview(piece).cast("B") for piece in pieces[begin : begin + _MOST_PIECES]]
                )

    def _write(self, at: int, views: list[memoryview]) -> int:
        while views:
            head = [views[0][:_CHUNK]] if len(views[0]) > _CHUNK else views
            count = os.pwritev(self._descriptor, head, at)
            at += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if views and count:
                views[0] = views[0][count:]
        return at

    @contextmanager
    def contiguous(self, at: int, size: int) -> Iterator[memoryview]:
        if not self.signs_in_place:
            yield self._read_back(at, size)
            return
        begin = at // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with reported(f"map {self._temporary}"):
            area = mmap.mmap(
                self._descriptor, at + size - begin, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ, offset=begin
            )
        view = memoryview(area)[at - begin :]
        try:
            with trimmed(area):
                yield view
        finally:
            view.release()

    def _read_back(self, at: int, size: int) -> memoryview:
        memory = buffers.allocate(size)
        done = 0
        with reported(f"read {self._temporary} back"):
            while done < size:
                done += os.preadv(self._descriptor, [memory[done:]], at + done)
        return memory

    def source(self, size: int) -> Source:
        """The file, for whoever goes on working with what was written; not by its name, which may be another's soon."""
        if self.signs_in_place:
            with reported(f"map {self._temporary}"):
                return Source(private_map(self._descriptor, size), str(self.path))
        return Source(self._read_back(0, size), str(self.path))

    def publish(self, *, durable: bool, before: Callable[[], None] | None) -> None:
        """Make it the file at `path`. What `before` raises leaves the old one in place."""
        with reported(f"write {self.path}"):
            if durable:
                os.fsync(self._descriptor)
        if before is not None:
            before()
        with reported(f"publish {self.path}"):
            self._temporary.replace(self.path)
        self._published = True
        if durable:
            with reported(
                "", f"make {self.path} durable (it is in place, but a power cut may bring the old one back)"
            ):
                sync_directory(self.path.parent)
