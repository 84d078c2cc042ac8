"""Operations on plain files of the volume: what an accident, a stranger or a full disk does to them."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from laila.errors import BadValue
from laila.lab.worker.bench import Bench, Words, number, text

CHUNK = 1 << 20


def look(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Size and SHA-256 of a file as this node reads it; size null when it is not there."""
    path = bench.path(text(words, "path"))
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"size": file.tell(), "digest": digest}
    except FileNotFoundError:
        return {"size": None, "digest": ""}


def names(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Names in a directory, sorted; none when it is not there."""
    path = bench.path(text(words, "path"))
    return {"names": sorted(item.name for item in path.iterdir()) if path.is_dir() else []}


def copy(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """The bytes of one file into another, by a rename, as `cp` and `mv` would: no lock, no question."""
    source, target = bench.path(text(words, "path")), bench.path(text(words, "to"))
    target.parent.mkdir(parents=True, exist_ok=True)
    _put(target, source.read_bytes())
    return look(bench, {"path": words["to"]}, timeout)


def flip(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Change one bit, in place. `at` is an offset, negative from the end."""
    path, at = bench.path(text(words, "path")), int(number(words, "at"))
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        place = at if at >= 0 else size + at
        if not 0 <= place < size:
            raise BadValue(f"offset {at} is not in a file of {size} bytes")
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << int(number(words, "bit", 0)))]))
        file.flush()
        os.fsync(file.fileno())
    return look(bench, words, timeout)


def cut(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Truncate to `size` bytes, in place."""
    path = bench.path(text(words, "path"))
    os.truncate(path, int(number(words, "size")))
    return look(bench, words, timeout)


def remove(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    bench.path(text(words, "path")).unlink(missing_ok=True)
    return {}


def space(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Bytes of the volume: all, and what an ordinary user may still write."""
    found = os.statvfs(bench.volume)
    return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def fill(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Write a file until there is no space left, but never more than `most` bytes. Says what stopped it."""
    path, most, stopped = bench.path(text(words, "path")), int(number(words, "most")), ""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, piece = 0, CHUNK
    deadline = time.monotonic() + timeout
    with path.open("ab", buffering=0) as file:
        while written < most and time.monotonic() < deadline:
            try:
                written += file.write(b"\0" * min(piece, most - written))
                os.fsync(file.fileno())
            except OSError as error:
                stopped = errno.errorcode.get(error.errno or 0, str(error))
                if piece == 1:
                    break
                piece //= 16 if piece >= 16 else piece
                piece = max(piece, 1)
    return {"written": written, "stopped": stopped, **space(bench, words, timeout)}


def scribble(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Try to write a small file; the system's word for why it cannot be, empty when it could."""
    path = bench.path(text(words, "path"))
    try:
        path.write_bytes(b"x")
    except OSError as error:
        return {"refused": errno.errorcode.get(error.errno or 0, str(error))}
    path.unlink()
    return {"refused": ""}


def _put(target: Path, data: bytes) -> None:
    temporary = target.with_name(f"{target.name}.copied")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


OPERATIONS = {
    operation.__name__: operation
    for operation in (look, names, copy, flip, cut, remove, space, fill, scribble)
}
