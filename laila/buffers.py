"""Memory for large values: allocated once, filled once, copied only where two owners would share it.

Large areas are anonymous maps, because the kernel can back those by huge pages: several times fewer page faults than
a bytearray of the same size, and they go back to the system when they are let go.
"""

from __future__ import annotations

import contextlib
import mmap

from .codec import Buffer, Encoded

MAP_FROM = 1024 * 1024
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)


def allocate(size: int) -> memoryview:
    """Writable memory of `size` bytes that belongs to nobody else."""
    if size < MAP_FROM:
        return memoryview(bytearray(size))
    if _HUGE_PAGES is None:
        return memoryview(mmap.mmap(-1, size))
    # Private, because shared anonymous memory is kept in a file system that has no huge pages.
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages: ordinary ones will do
        area.madvise(_HUGE_PAGES)
    return memoryview(area)


def copy(buffer: Buffer) -> memoryview:
    """The same bytes in memory of their own."""
    source = memoryview(buffer).cast("B")
    target = allocate(source.nbytes)
    target[:] = source
    return target


def private(record: Encoded) -> Encoded:
    """The record with buffers that nobody else can write to; `bytes` never can be, so they stay."""
    if not record.buffers:
        return record
    return Encoded(record.head, tuple(b if type(b) is bytes else copy(b) for b in record.buffers))


def readonly(record: Encoded) -> Encoded:
    """The record with views that cannot be written through."""
    if not record.buffers:
        return record
    return Encoded(record.head, tuple(memoryview(buffer).toreadonly() for buffer in record.buffers))
