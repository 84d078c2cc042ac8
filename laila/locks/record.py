"""What a lock file says: who took it last, and with which token.

512 bytes of text that a person reads with `cat`:

    laila lock, last taken with token     1763812345678902 by
    {"since_us":    1763812345678902,"purpose":"","pid":7,"host":"web1","node":"n1"}
    (spaces)
    end of token     1763812345678902

The holder writes it in one call under the exclusive lock. It stays when the lock is released: whether the one it
names still holds it is for the lock to say, not for the record. The token stands at both ends, at fixed places, so
that it is read quickly and a torn or damaged record is known for one. `since_us` is in microseconds since the
epoch.
"""

from __future__ import annotations

import functools
import json

from .holder import Holder, plain

SIZE = 512
_HEAD = b"laila lock, last taken with token "
_NUMBER = "%20d"
_AT = len(_HEAD)
_BODY = len(_HEAD + b"%20d by\n" % 0)
_END = b"\nend of token "
_WORD = 100
"""Bytes that a host, node or purpose may take in a record."""


class Writer:
    """Makes the records of one process; `holder` is the process, without token, time and purpose."""

    __slots__ = ("_holder",)

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

    def template(self, purpose: str) -> bytes:
        """A record but for three numbers, to be filled in by `template % (token, since_us, token)`."""
        own = self._holder
        told = (
            f'"purpose":{_quoted(plain(purpose))},"pid":{own.pid},'
            f'"host":{_quoted(own.host)},"node":{_quoted(own.node)}'
        )
        text = f'{_HEAD.decode()}{_NUMBER} by\n{{"since_us":{_NUMBER},{told.replace("%", "%%")}}}'.encode()
        end = _END + _NUMBER.encode() + b"\n"
        return text + b" " * (SIZE - len((text + end) % (0, 0, 0))) + end


def token(content: bytes) -> int:
    """The last token by a lock file's bytes; 0 for one that is empty, torn, damaged or of another origin."""
    digits = content[_AT : _AT + 20]
    if len(content) != SIZE or content[-21:-1] != digits:
        return 0
    try:
        return int(digits)
    except ValueError:
        return 0


def read(content: bytes) -> Holder | None:
    """Who took the lock last; None where there is no whole record."""
    last = token(content)
    if not last:
        return None
    try:
        told = json.loads(content[_BODY : content.rindex(_END)])
        return Holder(
            node=str(told["node"]),
            host=str(told["host"]),
            pid=int(told["pid"]),
            since=int(told["since_us"]) / 1e6,
            purpose=str(told["purpose"]),
            token=last,
        )
    except (ValueError, KeyError, TypeError):
        return None


@functools.lru_cache(maxsize=256)
def _quoted(text: str) -> str:
    """JSON of at most _WORD bytes; what does not fit is cut off."""
    quoted = json.dumps(text, ensure_ascii=False)
    while len(quoted.encode()) > _WORD:
        text = text[:-1]
        quoted = json.dumps(text, ensure_ascii=False)
    return quoted
