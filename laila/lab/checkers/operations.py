"""One operation of a client, as histories keep it and judges read it.

Times are seconds since the run began, by the controller's monotonic clock, taken before the request was sent and after
its answer was there: so an operation took effect somewhere between `start` and `end`, if it did. What was refused for
certain (`fail`) took no effect; of what nobody knows (`unknown`) the end is open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"
INVOKED = "invoke"
"""The kind of its line in a history (`what`)."""


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
        """Raises KeyError for what is no record of an operation."""
        end = record["end"]
        return cls(
            record["client"],
            record["node"],
            record["op"],
            record["key"],
            record.get("value"),
            record.get("result"),
            record["start"],
            math.inf if end is None else end,
            record["outcome"],
            record.get("error", ""),
        )


def short(value: Any) -> str:
    """A value as explanations name it."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 24 else f"{text[:20]}…"
