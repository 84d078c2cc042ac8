"""Real writes beside a node, by programs that every system has: whether a place takes them, and how long it takes."""

from __future__ import annotations

import secrets
import time

from laila.errors import LabError
from laila.lab.drivers.base import Driver, Output

PATIENCE = 60.0
"""Seconds that a program beside a node may take."""
_ERRNOS = {
    "No space left on device": "ENOSPC",
    "Read-only file system": "EROFS",
    "No such file or directory": "ENOENT",
    "Input/output error": "EIO",
    "Permission denied": "EACCES",
    "Disk quota exceeded": "EDQUOT",
}


def shell(driver: Driver, node: str, script: str, *words: str, timeout: float = PATIENCE) -> Output:
    """Run a line of shell beside the node, with messages in English; `words` are $1, $2 …"""
    return driver.exec(node, ["env", "LC_ALL=C", "sh", "-c", script, "sh", *words], timeout=timeout)


def written(driver: Driver, node: str, place: str, kib: int = 64) -> str:
    """Write and fsync a file of that size in a directory, and remove it. Empty when it could be written whole, else the
    system's word for why it could not, such as ENOSPC.
    """
    script = 'dd if=/dev/zero of="$1" bs=1024 count="$2" conv=fsync 2>&1; code=$?; rm -f "$1" 2>/dev/null; exit $code'
    output = shell(driver, node, script, _probe(place), str(kib))
    return "" if output.code == 0 else reason(output)


def fsync_seconds(driver: Driver, node: str, place: str, kib: int, timeout: float = PATIENCE) -> float:
    """Seconds in which a new file of that size was written and fsynced beside the node, with the way there and back.
    Raises LabError with the system's word when it could not be.
    """
    began = time.monotonic()
    if why := written(driver, node, place, kib):
        raise LabError(f"{kib} KiB cannot be written in {place} beside {node}: {why}")
    return time.monotonic() - began


def free_kib(driver: Driver, node: str, place: str) -> tuple[int, int]:
    """KiB that an ordinary user may still write there, and of the whole file system. Raises LabError."""
    output = shell(driver, node, 'stat -f -c "%a %b %S" "$1"', place)
    fields = output.stdout.split()
    if output.code or len(fields) != 3:
        raise LabError(f"cannot tell what fits on {place} beside {node}: {reason(output)}")
    free, blocks, size = (int(field) for field in fields)
    return free * size >> 10, blocks * size >> 10


def mounts_volume(driver: Driver, node: str, volume: str) -> bool:
    return any(one.name == volume for one in driver.topology.volumes_of(node))


def reason(output: Output) -> str:
    """The system's word for why a program failed, else its last line."""
    said = (output.stdout + output.stderr).decode("utf-8", "replace")
    found = next((word for text, word in _ERRNOS.items() if text in said), "")
    return found or (said.strip().splitlines() or [f"it ended with {output.code}"])[-1]


def _probe(place: str) -> str:
    return f"{place}/.lab-probe-{secrets.token_hex(4)}"
