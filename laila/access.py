"""Access rules: which pools a peer may read or write. One line each, in order, the last that matches wins.

    allow PEER read,write POOL      allow * read durable
    deny PEER POOL                  deny * private

PEER is a node id, a name, or `*`; POOL a nickname or `*`. Without rules everything that was extended is open to every
peer, since every peer knows the secret. Names are what peers call themselves: a rule that must hold against a holder of
the secret who lies names an id.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import AccessDenied, BadConfig

_CACHE = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """One line, parsed."""

    allow: bool
    peer: str
    pool: str
    read: bool
    write: bool

    @classmethod
    def parse(cls, line: str) -> Rule:
        """Raises BadConfig."""
        words = line.split()
        if len(words) == 3 and words[0] == "deny":
            return cls(False, words[1], words[2], True, True)
        if len(words) == 4 and words[0] in {"allow", "deny"}:
            verbs = set(words[2].split(","))
            if verbs and verbs <= {"read", "write"}:
                return cls(words[0] == "allow", words[1], words[3], "read" in verbs, "write" in verbs)
        raise BadConfig(
            f"access rule {line!r} cannot be read; write `allow PEER read,write POOL` or `deny PEER POOL`, * for any"
        )

    def matches(self, peer_id: str, peer_name: str, pool: str, write: bool) -> bool:
        return (
            self.peer in ("*", peer_id, peer_name)
            and self.pool in ("*", pool)
            and (self.write if write else self.read)
        )


class AccessRules:
    """The rules of one node; may be replaced at any time."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._rules: tuple[Rule, ...] = tuple(Rule.parse(line) for line in lines)
        self._lines: tuple[str, ...] = tuple(lines)
        self._cache: dict[tuple[str, str, str, bool], bool] = {}

    @property
    def lines(self) -> tuple[str, ...]:
        return self._lines

    def add(self, *lines: str) -> None:
        """Append rules. Raises BadConfig, and then none of them counts."""
        rules = tuple(Rule.parse(line) for line in lines)
        self._rules, self._lines = self._rules + rules, self._lines + lines
        self._cache = {}

    def clear(self) -> None:
        self._rules, self._lines = (), ()
        self._cache = {}

    def allowed(self, peer_id: str, peer_name: str, pool: str, write: bool) -> bool:
        if not self._rules:
            return True
        key = (peer_id, peer_name, pool, write)
        known = self._cache.get(key)
        if known is None:
            known = True
            for rule in self._rules:
                if rule.matches(peer_id, peer_name, pool, write):
                    known = rule.allow
            if len(self._cache) >= _CACHE:
                self._cache = {}
            self._cache[key] = known
        return known

    def check(self, peer_id: str, peer_name: str, pool: str, write: bool) -> None:
        """Raises AccessDenied."""
        if not self.allowed(peer_id, peer_name, pool, write):
            verb = "write" if write else "read"
            raise AccessDenied(
                f"{peer_name or peer_id} may not {verb} pool {pool!r} here, by this node's access rules"
            )
