"""What a registration and a result say, as the JSON texts that the seed's programs read and write, with more keys
in ours.

Times in them (`registered_at`, `timestamp`) are for people: the wall clock of whoever wrote them. Nothing is
decided by them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..errors import BadValue, LimitExceeded, UnsupportedType
from ..names import check_name

ACTIVE, GONE = "active", "gone"
REGISTRATION, RESULT = "Agent Registration", "Result"
"""What titles begin with; the name follows after a colon."""
MAX_CAPABILITIES, MAX_METADATA, MAX_RESULT = 256, 64 << 10, 16 << 20
MAX_FORMER_KEYS = 64
"""Keys under which an agent was registered before, of which results are still believed."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One agent. `expiry`: seconds without a beat after which it counts as dead; `at`: milliseconds by the
    volume's clock.

    `sequence` rises with each registration of the agent; 0: the seed's program wrote it, which knows nothing of
    heartbeats.
    """

    agent_id: str
    registered_at: str
    status: str = ACTIVE
    capabilities: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expiry: float = 0.0
    at: int = 0
    sequence: int = 0
    instance: str = ""
    node: str = ""
    host: str = ""
    pid: int = 0
    former_keys: tuple[str, ...] = ()

    def text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Registration:
        """Raises ValueError: no registration, or one with fields of other types."""
        value = _object(text)
        given = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        for name, kind in _FIELDS.items():
            if name in given and (type(given[name]) not in kind):
                raise ValueError(f"{name} is {given[name]!r}")
        if "agent_id" not in given or given.get("status", "") not in (ACTIVE, GONE):
            raise ValueError("it names no agent, or no status that is known")
        for name in ("capabilities", "former_keys"):
            given[name] = tuple(map(str, given.get(name, ())))
        numbers = [given.get(name, 0) for name in ("expiry", "at", "sequence")]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("a number is negative or endless")
        return cls(**{"registered_at": "", **given})


_FIELDS: dict[str, tuple[type, ...]] = {
    "agent_id": (str,),
    "registered_at": (str,),
    "status": (str,),
    "capabilities": (list,),
    "metadata": (dict,),
    "expiry": (int, float),
    "at": (int,),
    "sequence": (int,),
    "instance": (str,),
    "node": (str,),
    "host": (str,),
    "pid": (int,),
    "former_keys": (list,),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent published for a task."""

    task_id: str
    agent_id: str
    result: dict[str, Any]
    timestamp: str

    def text(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> Result:
        """Raises ValueError."""
        value = _object(text)
        names = ("task_id", "agent_id", "timestamp")
        if not all(type(value.get(name)) is str for name in names) or type(value.get("result")) is not dict:
            raise ValueError("a field is missing or of another type")
        return cls(value["task_id"], value["agent_id"], value["result"], value["timestamp"])


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if type(value) is not dict:
        raise ValueError("it is no JSON object")
    return value


def check_capabilities(capabilities: Iterable[str]) -> tuple[str, ...]:
    """Sorted, each once. Raises BadName, BadValue, LimitExceeded."""
    if isinstance(capabilities, str | bytes):
        raise BadValue("capabilities are a list of names; put the one in brackets")
    found = tuple(sorted({check_name("capability", name) for name in capabilities}))
    if len(found) > MAX_CAPABILITIES:
        raise _over("an agent's capabilities", "max_capabilities", MAX_CAPABILITIES, len(found))
    return found


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as JSON keeps it. Raises UnsupportedType, BadValue, LimitExceeded."""
    return as_json("an agent's metadata", metadata, "max_metadata", MAX_METADATA)


def check_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result as JSON keeps it: tuples as lists, keys as texts. Raises UnsupportedType, BadValue, LimitExceeded."""
    return as_json("a result", result, "max_result", MAX_RESULT)


def as_json(what: str, value: Mapping[str, Any], limit: str, most: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UnsupportedType(f"{what} is a map with text keys, not {type(value).__name__}")
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except TypeError as error:
        raise UnsupportedType(
            f"{what} holds what JSON can say: texts, numbers, lists, maps; {error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadValue(
            f"{what} holds what JSON can say, without NaN, infinities, half characters and endless nesting: {error}"
        ) from error
    if size > most:
        raise _over(f"{what}, {size} bytes as JSON,", limit, most, size)
    kept: dict[str, Any] = json.loads(text)
    return kept


def _over(what: str, limit: str, most: int, got: int) -> LimitExceeded:
    return LimitExceeded(
        f"{what} may have at most {most}; put more into an artifact and give its name here",
        limit=limit,
        allowed=most,
        got=got,
    )


def iso(seconds: float) -> str:
    """Seconds of the epoch as people and the seed's programs read them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
