"""The lineage of a named artifact: a signed META block that ends each version.

It says the artifact's name, the version's sequence number, the Merkle root of the version before it (the parent), and
the fencing token under which it was published. So who has seen version 7 of a name can refuse version 6, and a version
cannot be passed off under another name. Versions of one file are prefixes of each other, each ended by its block.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from ..errors import BadValue
from ..names import check_name
from .canonical import canonical, load_json

METADATA = canonical({"type": "laila.lineage"})
"""The block's metadata, by which it is known."""
SCHEME = 1
MAX_BYTES = 4096
_MOST = 1 << 63
_HASH = re.compile("(?:[0-9a-f]{64})?")
_VOUCHER = re.compile("(?:[0-9a-f]{128})?")


@dataclass(frozen=True, slots=True)
class Version:
    """One version. Hashes are hex, empty for none; `at` is seconds of the epoch by its writer's clock."""

    name: str
    sequence: int
    parent: str
    fence: int = 0
    at: float = 0.0
    voucher: str = ""
    root: str = ""
    """Known when it was read from a file."""
    gone: bool = False
    """Whether this version says that the name was forgotten: a tombstone, which has no content."""

    def __post_init__(self) -> None:
        check_name("artifact", self.name)
        for what, number, least in (("sequence", self.sequence, 1), ("fencing token", self.fence, 0)):
            if type(number) is not int or not least <= number < _MOST:
                raise BadValue(f"the {what} of {self.name!r} is a whole number from {least}, not {number!r}")
        if type(self.parent) is not str or not _HASH.fullmatch(self.parent):
            raise BadValue(
                f"the parent of a version of {self.name!r} is a Merkle root, 64 hex digits, or empty"
            )

    def encode(self) -> bytes:
        """The block's data: whole numbers and texts only, so that every language hashes the same."""
        forgotten = {"gone": 1} if self.gone else {}
        return canonical(
            {
                **forgotten,
                "scheme": SCHEME,
                "name": self.name,
                "sequence": self.sequence,
                "parent": self.parent,
                "fence": self.fence,
                "at": int(self.at * 1e6),
                "voucher": self.voucher,
            }
        )


@functools.lru_cache(maxsize=256)  # who saves and loads looks at one version many times
def decode(data: bytes, root: str = "") -> Version:
    """Raises ValueError, saying what is wrong."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data)} bytes; at most {MAX_BYTES} are expected")
    value = load_json(data)
    if type(value) is not dict or value.get("scheme") != SCHEME:
        raise ValueError(f"it is no lineage of scheme {SCHEME}")
    texts = ("name", "parent", "voucher")
    numbers = ("sequence", "fence", "at")
    if not all(type(value.get(key)) is str for key in texts) or not all(
        type(value.get(key)) is int for key in numbers
    ):
        raise ValueError("a field is missing or of the wrong type")
    if value.get("gone", 1) != 1:
        raise ValueError("what it says about being gone is not 1")
    if not 0 <= value["at"] < _MOST or not _VOUCHER.fullmatch(value["voucher"]):
        raise ValueError("its time or its voucher cannot be one")
    return Version(
        value["name"],
        value["sequence"],
        value["parent"],
        value["fence"],
        value["at"] / 1e6,
        value["voucher"],
        root,
        "gone" in value,
    )
