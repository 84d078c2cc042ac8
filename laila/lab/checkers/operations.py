"""One operation of a client, as histories keep it and judges read it.

Times are seconds since the run began, by the controller's monotonic clock, taken before the request was sent and after
its answer was there: so an operation took effect somewhere between `start` and `end`, if it did. What was refused for
certain (`fail`) took no effect; of what nobody knows (`unknown`) the end is open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from sys import intern
from typing import Any

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
OUTCOMES = (OK, FAIL, UNKNOWN)
INVOKED = "invoke"
"""The kind of its line in a history (`what`)."""
_NUMBERS = frozenset((int, float))


@dataclass(frozen=True, slots=True)
class Op:
    """`value` is what was asked with, `result` what came back; both are plain JSON values, None when there is none."""

    client: str
    """Who asked: one client asks for one thing at a time, and never again under that name after an `unknown`."""
    node: str
    """Beside or through which node."""
    op: str
    key: str
    value: Any
    result: Any
    start: float
    end: float
    """Infinite while nobody knows whether it took effect."""
    outcome: str = OK
    error: str = ""
    """Why it did not go through, for people."""

    @property
    def ok(self) -> bool:
        return self.outcome == OK

    def __str__(self) -> str:
        asked = self.op if self.value is None else f"{self.op} {short(self.value)}"
        said = {
            OK: short(self.result) if self.result is not None else "done",
            FAIL: f"refused ({self.error})",
        }
        answer = said.get(self.outcome, f"no answer ({self.error})")
        when = f"{self.start:.4f} to {self.end:.4f} s" if self.end < math.inf else f"from {self.start:.4f} s"
        return f"{asked} of {self.key} by {self.client}: {answer} ({when})"

    def to_record(self) -> dict[str, Any]:
        """For the history. An open end is null."""
        record: dict[str, Any] = {
            "client": self.client,
            "node": self.node,
            "op": self.op,
            "key": self.key,
            "start": round(self.start, 6),
            "end": None if self.end == math.inf else round(self.end, 6),
            "outcome": self.outcome,
        }
        for name, value in (("value", self.value), ("result", self.result), ("error", self.error or None)):
            if value is not None:
                record[name] = value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Op:
        """Raises KeyError for what is no record of an operation, ValueError for one that cannot be.

        A million of them are read in seconds: fields are set past the frozen class's own `__init__`, and texts that
        come again and again are kept once.
        """
        one, get = _new(cls), record.get
        start, end, outcome = record["start"], record["end"], record["outcome"]
        if outcome == UNKNOWN or end is None:
            end = math.inf
        try:
            _client(one, intern(record["client"]))
            _node(one, intern(record["node"]))
            _op(one, intern(record["op"]))
            _key(one, intern(record["key"]))
            _outcome(one, intern(outcome))
        except TypeError:
            raise ValueError("client, node, op, key and outcome are text") from None
        _value(one, get("value"))
        _result(one, get("result"))
        _start(one, start)
        _end(one, end)
        _error(one, get("error", ""))
        if outcome not in OUTCOMES:
            raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}, not {outcome}")
        if type(start) not in _NUMBERS or type(end) not in _NUMBERS or (end == math.inf and outcome == OK):
            raise ValueError("start and end are numbers, and what is done has ended")
        if not -math.inf < start < math.inf or not -math.inf < end:
            raise ValueError("start and end are moments")
        return one


_new = object.__new__
_client, _node, _op, _key, _value, _result, _start, _end, _outcome, _error = (
    getattr(Op, field.name).__set__ for field in fields(Op)
)


def short(value: Any) -> str:
    """A value as explanations name it, in characters that can be shown."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
