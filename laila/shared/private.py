"""Directories that belong to this user alone: where verified copies and the memory of what was seen are kept.

What lies there is believed, so nobody else may write there: a directory is made with mode 0700, and one that others
could change is refused instead of being repaired (what it holds may be somebody else's already).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from ..errors import BadConfig, StorageError
from ..pools.disk import make_directory, reported

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def cache_home() -> Path:
    """Where caches of this user, or of this node, go: LAILA_STATE_DIR/cache when that is set, else XDG's cache
    directory.

    A node with a state directory of its own has a memory of its own, also where many nodes share a machine.
    """
    if state := os.environ.get("LAILA_STATE_DIR"):
        return Path(state).absolute() / "cache"
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():  # the XDG specification: a relative one is to be ignored
        home = Path("~/.cache").expanduser()
    return home / "laila"


def private_directory(base: Path, name: str) -> Path:
    """`base/name`, made if it is not there, writable by this user only.

    Raises BadConfig when others may write there or it is somebody else's, StorageError when it cannot be made.
    """
    with reported(f"make the private directory {base}", _advice(base)):
        make_directory(base)
        _refuse_foreign(base, base.stat(), sticky_will_do=True)
        directory = base / name
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise StorageError(
            f"{directory} is not a directory; remove it, or give another local_cache", reason="ENOTDIR"
        )
    _refuse_foreign(directory, status, sticky_will_do=False)
    return directory


def directory_name(described: Path, digest: str) -> str:
    """A name for people and for certain: the last part of a path, and the beginning of a digest."""
    word = re.sub(r"[^A-Za-z0-9_]+", "-", described.name).strip("-")[:40]
    return f"{word or 'store'}-{digest[:24]}"


def _refuse_foreign(path: Path, status: os.stat_result, *, sticky_will_do: bool) -> None:
    me = os.geteuid()
    sticky = sticky_will_do and bool(status.st_mode & stat.S_ISVTX)
    if status.st_uid not in ((me, 0) if sticky_will_do else (me,)):
        raise BadConfig(
            f"{path} belongs to user {status.st_uid}, who could change what is believed here; "
            "give a local_cache that belongs to this user"
        )
    if status.st_mode & _OTHERS and not sticky:
        raise BadConfig(
            f"{path} may be written by others (mode {stat.S_IMODE(status.st_mode):o}), who could change what is "
            "believed here; run chmod go-w on it after a look at what it holds, or give another local_cache"
        )


def _advice(base: Path) -> str:
    return (
        f"make the private directory {base}; give a local_cache, or set LAILA_STATE_DIR or XDG_CACHE_HOME, "
        "where this user may write"
    )
