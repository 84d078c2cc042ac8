"""What is done to files beneath a node, and undone, by the programs that every system's base has (sh, dd, sha256sum …).

In place: a file stays the same one, with its owner and its time, as a disk would leave it. Bytes are only ever put into
a file that was looked at through the same descriptor; one that the system put in its place meanwhile is not touched.
Good bytes are kept in the node's state directory, `.laila-lab-kept/FAULT/NUMBER/`: `good`, `bad`, and the `path`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults.struck import PATIENCE

KEPT = ".laila-lab-kept"
OTHER, GONE = "other", "gone"
"""What a file is that is not the one it was: another one, or none."""

_BEGIN = """
cd "$1" && shift || exit 1
print() { sha256sum <"$1" | cut -c 1-64; }
size() { echo "$(($(wc -c <"$1")))"; }
"""
_LIST = """
IFS=
for file in $1; do
    [ -f "$file" ] && [ ! -L "$file" ] && echo "$(size "$file")/$file"
done
true
"""
_NEWEST = """
IFS=
ls -td $1 2>/dev/null | head -n "$2"
"""
_DIGESTS = """
for file; do
    [ -f "$file" ] && print "$file" || echo gone
done
"""
_KEEP = """
umask 077
mkdir -p "$2" && cp -p "$1" "$2/good" && printf %s "$1" >"$2/path" && size "$2/good" && print "$2/good"
"""
_FLIP = """
cp -p "$1/good" "$1/bad" || exit 1
byte=$(dd if="$1/good" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1)
printf "\\\\$(printf %03o $(($byte ^ $3)))" | dd of="$1/bad" bs=1 seek="$2" conv=notrunc 2>/dev/null || exit 1
touch -r "$1/good" "$1/bad"
print "$1/bad"
"""
_CUT = """
cp -p "$1/good" "$1/bad" && truncate -s "$2" "$1/bad" && touch -r "$1/good" "$1/bad" && print "$1/bad"
"""
_AGE = 'cp -p "$2" "$1/bad" && print "$1/bad"'
_SWAP = """
[ -f "$3" ] && [ -f "$1" ] || { echo gone; exit; }
exec 3<>"$1" || exit 1
[ "$(print /proc/self/fd/3)" = "$2" ] || { echo other; exit; }
dd if="$3" of=/proc/self/fd/3 bs=1048576 conv=notrunc 2>/dev/null || exit 1
truncate -s "$(size "$3")" /proc/self/fd/3 || exit 1
touch -r "$3" /proc/self/fd/3
[ "$1" -ef /proc/self/fd/3 ] && print /proc/self/fd/3 || echo other
"""
_STILL = """
for kept in "$1"*/*/bad; do
    [ -f "$kept" ] || continue
    path=$(cat "${kept%/bad}/path")
    [ -f "$path" ] && [ "$(print "$path")" = "$(print "$kept")" ] && echo "$path"
done
true
"""
_FORGET = 'rm -rf "$1"; rmdir "${1%/*}" 2>/dev/null; true'
_COPIES = """
umask 077
into=$1; shift
mkdir -p "$into" || exit 1
number=0
for file; do
    cp -p "$file" "$into/$number" 2>/dev/null && print "$into/$number" || echo gone
    number=$((number + 1))
done
"""


@dataclass(frozen=True, slots=True)
class Hurt:
    """A file that is damaged, or about to be. `path` and `kept` are relative to the node's state directory; `good` and
    `bad` are digests.
    """

    node: str
    path: str
    kept: str
    good: str
    bad: str
    what: str

    def to_list(self) -> list[str]:
        """For the ledger; `Hurt(*list)` is the way back."""
        return [self.node, self.path, self.kept, self.good, self.bad, self.what]


def listed(driver: Driver, node: str, pattern: str) -> list[tuple[str, int]]:
    """Paths and sizes of the files below the node's state directory that a pattern of the shell names, sorted."""
    found = [line.partition("/") for line in _ask(driver, node, _LIST, pattern)]
    return sorted((path, int(size)) for size, _, path in found)


def newest(driver: Driver, node: str, pattern: str, most: int) -> list[str]:
    """The paths of these files that were changed last, at most so many, the last one first."""
    return _ask(driver, node, _NEWEST, pattern, str(most))


def digests(driver: Driver, node: str, paths: Sequence[str]) -> list[str]:
    """SHA-256 of each, GONE of those that are not there. Also of a node that does not run."""
    if driver.state(node) is NodeState.RUNNING:
        return _ask(driver, node, _DIGESTS, *paths)
    return [_digest_outside(driver, node, path) for path in paths]


def copies(driver: Driver, node: str, paths: Sequence[str], into: str) -> list[str]:
    """Copy each to `into/NUMBER`; their digests, GONE of those that are not there."""
    return _ask(driver, node, _COPIES, into, *paths)


def keep(driver: Driver, node: str, path: str, kept: str) -> tuple[int, str]:
    """Copy a file to `kept/good`; size and digest of the copy."""
    size, digest = _ask(driver, node, _KEEP, path, kept)
    return int(size), digest


def flip(driver: Driver, node: str, kept: str, at: int, mask: int) -> str:
    """Make `kept/bad`, with bits flipped in the byte at an offset; its digest."""
    return _ask(driver, node, _FLIP, kept, str(at), str(mask))[0]


def cut(driver: Driver, node: str, kept: str, size: int) -> str:
    """Make `kept/bad`, shorter; its digest."""
    return _ask(driver, node, _CUT, kept, str(size))[0]


def age(driver: Driver, node: str, kept: str, older: str) -> str:
    """Make `kept/bad` of an older copy; its digest."""
    return _ask(driver, node, _AGE, kept, older)[0]


def harm(driver: Driver, hurt: Hurt) -> str:
    """Put the bad bytes into the file, if it is the good one; what it is afterwards: a digest, OTHER or GONE."""
    return _ask(driver, hurt.node, _SWAP, hurt.path, hurt.good, f"{hurt.kept}/bad")[0]


def mend(driver: Driver, hurt: Hurt) -> str:
    """The same the other way round. Of a node that does not run, the file is written anew."""
    if driver.state(hurt.node) is NodeState.RUNNING:
        return _ask(driver, hurt.node, _SWAP, hurt.path, hurt.bad, f"{hurt.kept}/good")[0]
    now = _digest_outside(driver, hurt.node, hurt.path)
    if now != hurt.bad:
        return GONE if now == GONE else OTHER
    driver.write(hurt.node, hurt.path, driver.read(hurt.node, f"{hurt.kept}/good"))
    return hurt.good


def still_bad(driver: Driver, node: str, fault: str = "") -> list[str]:
    """Paths that hold the damaged bytes of this fault, or of any."""
    return _ask(driver, node, _STILL, f"{KEPT}/{fault}")


def forget(driver: Driver, node: str, fault: str) -> None:
    """Remove what is kept of a fault; of a node that does not run, nothing."""
    if driver.state(node) is NodeState.RUNNING:
        _ask(driver, node, _FORGET, f"{KEPT}/{fault}")


def _digest_outside(driver: Driver, node: str, path: str) -> str:
    try:
        return hashlib.sha256(driver.read(node, path)).hexdigest()
    except LabError:
        return GONE


def _ask(driver: Driver, node: str, script: str, *words: str) -> list[str]:
    """Lines that a script beside the node prints. Raises LabError with its last complaint."""
    argv = ["sh", "-c", _BEGIN + script, "sh", driver.state_path(node), *words]
    told = driver.exec(node, argv, timeout=2 * PATIENCE)
    if told.code:
        said = (told.stderr.decode("utf-8", "replace").strip() or f"it ended with {told.code}").splitlines()
        raise LabError(f"files of {node} cannot be worked on beside it: {said[-1]}")
    return told.stdout.decode("utf-8", "surrogateescape").splitlines()
