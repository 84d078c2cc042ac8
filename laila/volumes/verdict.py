"""What is known about a volume: SAFE, UNSAFE or UNKNOWN, with the evidence, kept on the volume itself.

The verdict of a check lies at `PATH/.laila/volume.json` together with the identities of the mounts that were
checked; a store that finds itself on another mount does not believe it. Without a check, only file systems that
one kernel has to itself are known to lock. Whatever cannot be read counts as no verdict.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadValue
from ..mounts import Mount, mount_of
from ..pools.disk import reported
from .ground import LAILA, open_laila, open_place, sync_names

SAFE, UNSAFE, UNKNOWN = "SAFE", "UNSAFE", "UNKNOWN"
OK, BAD, NOTE = "ok", "bad", "note"
FILE = "volume.json"
INSTEAD = 'locks of redis, etcd or postgresql (laila.locks.connect("redis://…"))'
ONE_KERNEL = "this is one kernel, and no evidence for a network volume"
_MAX_BYTES = 1 << 20
_ANSWERS = (SAFE, UNSAFE, UNKNOWN)
_OUTCOMES = (OK, BAD, NOTE, "unknown")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One line of it. `check`: what was tried, such as "flock"; `outcome`: "ok", "bad" (makes the volume UNSAFE),
    "unknown" (could not be told) or "note"; `text`: what was done and seen; `numbers`: the same for machines.
    """

    check: str
    outcome: str
    text: str
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "outcome": self.outcome,
            "text": self.text,
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_dict(cls, value: Any) -> Evidence:
        """Raises BadValue for what `to_dict` did not make."""
        if (
            not isinstance(value, Mapping)
            or value.get("outcome") not in _OUTCOMES
            or not isinstance(value.get("check"), str)
            or not isinstance(value.get("text"), str)
            or not isinstance(value.get("numbers"), Mapping)
        ):
            raise BadValue("that is no evidence of a check")
        return cls(value["check"], value["outcome"], value["text"], dict(value["numbers"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check, or the mere kind of file system, says about a volume.

    `answer`: "SAFE", "UNSAFE" or "UNKNOWN"; `reason`: one sentence, with what to do instead; `mount`: the first
    node's; `mounts`: those of all nodes; `nodes`: their names; `at`: when, seconds of the epoch; `one_kernel`: all
    of it happened within one kernel.
    """

    answer: str
    reason: str
    evidence: tuple[Evidence, ...]
    mount: Mount
    nodes: tuple[str, ...] = ()
    at: float = 0.0
    one_kernel: bool = False
    mounts: tuple[Mount, ...] = ()

    def __post_init__(self) -> None:
        if self.answer not in _ANSWERS:
            raise BadValue(f"a verdict is one of {', '.join(_ANSWERS)}, not {self.answer!r}")

    def holds_for(self, mount: Mount) -> bool:
        """Whether `mount` is one of those that were checked."""
        return mount.identity in {checked.identity for checked in (self.mount, *self.mounts)}

    def __str__(self) -> str:
        return f"{self.answer}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "answer": self.answer,
            "reason": self.reason,
            "one_kernel": self.one_kernel,
            "at": self.at,
            "nodes": list(self.nodes),
            "mount": self.mount.to_dict(),
            "mounts": [mount.to_dict() for mount in self.mounts],
            "evidence": [line.to_dict() for line in self.evidence],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Verdict:
        """Raises BadValue for what `to_dict` did not make."""
        if not isinstance(value, Mapping):
            raise BadValue("that is no verdict: a table is expected")
        answer, reason, at, one_kernel = (
            value.get(name) for name in ("answer", "reason", "at", "one_kernel")
        )
        lists = [value.get(name) for name in ("nodes", "mounts", "evidence")]
        if (
            not isinstance(answer, str)
            or not isinstance(reason, str)
            or isinstance(at, bool)
            or not isinstance(at, int | float)
            or not isinstance(one_kernel, bool)
            or not all(isinstance(items, list) for items in lists)
        ):
            raise BadValue("that is no verdict: a field is missing or of another kind")
        return cls(
            answer,
            reason,
            tuple(Evidence.from_dict(line) for line in value["evidence"]),
            Mount.from_dict(value.get("mount")),
            tuple(str(node) for node in value["nodes"]),
            float(at),
            one_kernel,
            tuple(Mount.from_dict(mount) for mount in value["mounts"]),
        )


def keep(path: str | os.PathLike[str], verdict: Verdict) -> Path:
    """Write the verdict at `path`/.laila/volume.json: atomic, durable. Where it lies. Raises StorageError."""
    fresh = f"{FILE}.{secrets.token_hex(4)}"
    data = json.dumps(verdict.to_dict(), ensure_ascii=False, indent=1).encode("utf-8", "replace")
    place = open_place(str(Path(path).absolute()))
    try:
        with reported(f"keep the verdict at {path}/{LAILA}/{FILE}"):
            laila = open_laila(place, make=True)
            try:
                _replace(laila, fresh, data)
            finally:
                os.close(laila)
            sync_names(place)
    finally:
        os.close(place)
    return Path(path, LAILA, FILE)


def _replace(laila: int, fresh: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(fresh, flags, 0o644, dir_fd=laila), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, FILE, src_dir_fd=laila, dst_dir_fd=laila)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=laila)
        raise
    sync_names(laila)


def stored(path: str | os.PathLike[str]) -> Verdict | None:
    """The verdict of the last check of the volume, when `path` is still on a mount that was checked.

    It is looked for at `path` and then upwards as far as the mount goes; above `path` only files count that belong
    to root, to this user or to the owner of the directory that they speak for. Raises StorageError when the mount
    cannot be told.
    """
    return _found(path)[0]


def assess(path: str | os.PathLike[str]) -> Verdict:
    """What can be said about the volume at `path` without other nodes. Raises StorageError when its mount cannot be
    told.
    """
    verdict, why_not = _found(path)
    if verdict is not None:
        return verdict
    mount = mount_of(path)
    if mount.one_kernel:
        what = (
            "overlay, a container's own layer that no other sees"
            if mount.fstype == "overlay"
            else mount.fstype
        )
        return Verdict(SAFE, f"{what}: {ONE_KERNEL}", (), mount, at=time.time(), one_kernel=True)
    reason = (
        f"{mount.fstype} may lock or not{f' ({why_not})' if why_not else ''}; "
        f"run `laila volume check {os.fspath(path)} --with NODE` from two nodes"
    )
    return Verdict(UNKNOWN, reason, (), mount, at=time.time())


def _found(path: str | os.PathLike[str]) -> tuple[Verdict | None, str]:
    """The stored verdict, or None and why a file that is there does not count."""
    mount = mount_of(path)
    start, why_not = Path(path).resolve(), ""
    for place in (start, *start.parents):
        if not place.is_relative_to(mount.point or "/"):
            break
        try:
            verdict = _read(place, above=place != start)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            why_not = f"{place / LAILA / FILE} does not count: {error}"
            continue
        if mount_of(place).point != mount.point:
            break
        if verdict.holds_for(mount):
            return verdict, ""
        why_not = f"{place / LAILA / FILE} is about another mount: {verdict.mount}, while this is {mount}"
    return None, why_not


def _read(place: Path, *, above: bool) -> Verdict:
    """Raises OSError, BadValue or ValueError; FileNotFoundError when there is none."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        laila = os.open(LAILA, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            file = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=laila)
        finally:
            os.close(laila)
        with os.fdopen(file, "rb") as stream:
            owner = os.fstat(stream.fileno()).st_uid
            if above and owner not in (0, os.geteuid(), os.fstat(directory).st_uid):
                raise BadValue(f"it belongs to the user {owner}, who does not own {place}")
            data = stream.read(_MAX_BYTES + 1)
    finally:
        os.close(directory)
    if len(data) > _MAX_BYTES:
        raise BadValue(f"it has over {_MAX_BYTES} bytes")
    return Verdict.from_dict(json.loads(data))
