"""What replicas say to each other over a link, as plain values, and how it is read: with distrust, on both sides.

docs/replica-service.md lists the questions and their answers. A reader never takes a value whose type, size and meaning
it has not checked; what a question may hold, and what an answer may, is bounded here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BadName, LailaError, ProtocolError
from ..names import check_name
from .replica import Branch, Health, Stamp
from .tags import Found, Stand, Tag, Unsure

NAMES = 4096
"""Names in one question, and reports in one answer; more go page by page."""
LISTED = 65536
"""Names in one page of a list."""
PREFIXES = 256
"""Parts of the digest tree in one question."""
WEIGHT = 4 << 20
"""Bytes after which an answer about the tree ends; what is left of the question is asked again."""
DOCUMENT = 1 << 20
BOOK = 32
"""Hex digits of the digest of a book of vouchers."""
PAGE = 8192
"""Vouchers in one answer or question; 96 bytes each."""
"""Bytes of a membership document, or of an acceptor's state."""
TEXT = 1000
"""Characters of a reason or an error."""
MARK = 100
"""Characters of a mark."""
_MOST = 1 << 63
_HEX = re.compile(r"[0-9a-f]{0,64}", re.ASCII)
_DIGEST = 16


class Words:
    """The words of a question or an answer. What cannot be is refused by an error of the class `refuse`."""

    __slots__ = ("_refuse", "_values", "_who")

    def __init__(self, values: Mapping[str, Any], who: str, refuse: type[LailaError]) -> None:
        self._values = values
        self._who = who
        self._refuse = refuse

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def refusal(self, text: str) -> LailaError:
        return self._refuse(f"{self._who} {text}")

    def text(self, key: str, most: int = TEXT) -> str:
        value = self._values.get(key)
        if type(value) is not str or len(value) > most:
            raise self.refusal(f"has no text of at most {most} characters as {key!r}")
        return value

    def name(self, key: str = "name") -> str:
        return self._name(self._values.get(key))

    def number(self, key: str = "number") -> int:
        value = self._values.get(key)
        if type(value) is not int or not 0 <= value < _MOST:
            raise self.refusal(f"has no number from 0 on as {key!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key)
        if type(value) is not bool:
            raise self.refusal(f"has neither true nor false as {key!r}")
        return value

    def data(self, key: str, most: int = DOCUMENT) -> bytes:
        value = self._values.get(key)
        if type(value) is not bytes or len(value) > most:
            raise self.refusal(f"has no bytes, at most {most}, as {key!r}")
        return value

    def perhaps_data(self, key: str) -> bytes | None:
        return None if self._absent(key) else self.data(key)

    def items(self, key: str, most: int) -> list[Any]:
        value = self._values.get(key)
        if type(value) is not list or len(value) > most:
            raise self.refusal(f"has no list of at most {most} values as {key!r}")
        return value

    def names(self, most: int = NAMES, key: str = "names") -> list[str]:
        return [self._name(one) for one in self.items(key, most)]

    def prefixes(self) -> list[str]:
        found = self.items("prefixes", PREFIXES)
        if not all(type(one) is str and _HEX.fullmatch(one) for one in found):
            raise self.refusal("has a prefix that is not made of up to 64 hex digits")
        return found

    def stamp(self, key: str = "stamp") -> Stamp:
        value = self.items(key, 4)
        if [type(part) for part in value] != [str, str, bool, str] or any(
            len(part) > TEXT for part in value if type(part) is str
        ):
            raise self.refusal(f"has no store, replica, truth value and life as {key!r}")
        return Stamp(*value)

    def perhaps_stamp(self, key: str) -> Stamp | None:
        return None if self._absent(key) else self.stamp(key)

    def tag(self) -> Tag | None:
        """The tag that is not given is None; that of a stand with nothing else to it."""
        if self._absent("tag"):
            return None
        value = self.items("tag", 3)
        if len(value) != 3:
            raise self.refusal("has a tag of other than three parts")
        return self._stand([*value, "0" * 64, False, 0, 0.0]).tag

    def stand(self) -> Stand | None:
        return None if self._absent("stand") else self._stand(self._values["stand"])

    def some_stand(self) -> Stand:
        return self._stand(self._values.get("stand"))

    def found(self, key: str, count: int) -> list[Found]:
        values = self.items(key, count)
        if len(values) != count:
            raise self.refusal(f"says what there is under {len(values)} names, instead of {count}")
        return [self._found(value) for value in values]

    def health(self, key: str) -> Health:
        return self._health(self.items(key, 3))

    def healths(self, key: str) -> list[tuple[str, Health]]:
        found = []
        for value in self.items(key, NAMES):
            if type(value) is not list or len(value) != 4:
                raise self.refusal("reports on a name in a way that cannot be read")
            found.append((self._name(value[0]), self._health(value[1:])))
        return found

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        """Those of the first ones of `prefixes`, at least of one."""
        values = self.items("branches", len(prefixes))
        if prefixes and not values:
            raise self.refusal("tells of no part of the tree")
        return [self._branch(value, prefix) for value, prefix in zip(values, prefixes, strict=False)]

    # ---- parts ----

    def _absent(self, key: str) -> bool:
        return self._values.get(key) is None

    def _name(self, value: Any) -> str:
        try:
            return check_name("artifact", value)
        except BadName as error:
            raise self.refusal(f"names what cannot be named: {error}") from None

    def _stand(self, value: Any) -> Stand:
        try:
            return Stand.of_words(value)
        except ProtocolError:
            raise self.refusal("tells of a version in a way that cannot be") from None

    def _found(self, value: Any) -> Found:
        if value is None:
            return None
        if type(value) is list and len(value) == 2:
            reason, mark = value
            if type(reason) is not str or type(mark) is not str or len(mark) > MARK:
                raise self.refusal("says in a way that cannot be read that it is unsure of a name")
            return Unsure(reason[:TEXT], mark)
        return self._stand(value)

    def _health(self, value: list[Any]) -> Health:
        if len(value) != 3 or type(value[1]) is not bool or type(value[2]) is not str:
            raise self.refusal("reports on a name in a way that cannot be read")
        return Health(self._found(value[0]), value[1], value[2][:TEXT])

    def _branch(self, value: Any, prefix: str) -> Branch:
        if type(value) is not list or [type(part) for part in value] != [str, bytes, int, bytes, list]:
            raise self.refusal("tells of a part of the tree in a way that cannot be read")
        told, digest, count, branches, entries = value
        if told != prefix or len(digest) != _DIGEST or count < 0 or len(branches) not in (0, 256 * _DIGEST):
            raise self.refusal(f"tells of a part {told[:70]!r} that is none, or was not asked for")
        found = []
        for entry in entries:
            if type(entry) is not list or len(entry) != 2:
                raise self.refusal("tells of a name in a way that cannot be read")
            name = self._name(entry[0])
            if not hashlib.sha256(name.encode()).hexdigest().startswith(prefix):
                raise self.refusal(f"tells of {name!r}, which is not in the part {prefix!r} of the tree")
            found.append((name, self._found(entry[1])))
        return Branch(prefix, digest, count, branches, tuple(found))


# ---- the other way: as plain values ----


def of_found(found: Found) -> list[Any] | None:
    if found is None:
        return None
    return [found.reason[:TEXT], found.mark] if isinstance(found, Unsure) else found.words()


def of_tag(tag: Tag | None) -> list[Any] | None:
    return None if tag is None else [tag.sequence, tag.writer, tag.digest]


def of_stamp(stamp: Stamp) -> list[Any]:
    return [stamp.store, stamp.replica, stamp.rebuilding, stamp.life]


def of_health(health: Health) -> list[Any]:
    return [of_found(health.found), health.valid, health.error[:TEXT]]


def of_branch(branch: Branch) -> list[Any]:
    entries = [[name, of_found(found)] for name, found in branch.entries]
    return [branch.prefix, branch.digest, branch.count, branch.branches, entries]


def weight(branch: Branch) -> int:
    """Bytes that it takes on the wire, roughly."""
    return 64 + len(branch.branches) + 400 * len(branch.entries)


def same_file(one: Stand, other: Stand) -> bool:
    """Whether two stands can be of the same bytes. Their times may differ: nothing is decided by those."""
    return (one.tag, one.root, one.gone, one.size) == (other.tag, other.root, other.gone, other.size)
