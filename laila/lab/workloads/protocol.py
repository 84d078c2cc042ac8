"""What a client program is asked and what it may answer, operation by operation: docs/lab-clients.md has the table.

This is the one place that knows. A client that answers anything else has said nothing: its operation's outcome is
unknown, and the run notes that it lied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from laila.errors import BadConfig
from laila.lab.checkers.operations import OK, Op
from laila.lab.workloads.base import Invocation


def request(invocation: Invocation) -> dict[str, Any]:
    """The words of a request, beside `id`, `op` and `timeout`. Raises BadConfig for an operation that nobody knows."""
    if invocation.op not in _WORDS:
        raise BadConfig(f"unknown operation {invocation.op!r}; there are {', '.join(OPS)}")
    return {**_WORDS[invocation.op](invocation), **invocation.words}


def result(op: str, answer: Any) -> Any:
    """What `Op.result` is to hold, from the `result` of an answer. Raises ValueError that says what is wrong."""
    if op not in _RESULTS:
        raise ValueError(f"no operation {op!r}")
    if not isinstance(answer, Mapping):
        raise ValueError(f"the result of {op} is no object but {_shown(answer)}")
    return _RESULTS[op](answer)


def given(op: str, value: Any) -> Any:
    """The same of what a client in Python gives: the value alone. It is a copy, so that nobody changes it afterwards.
    Raises ValueError that says what is wrong.
    """
    several = op in ("list", "peers") and isinstance(value, tuple | set | frozenset)
    try:
        copy = json.loads(json.dumps(list(value) if several else value))
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"{_shown(value)} is no JSON value") from None
    return result(op, {_NAMES.get(op, "value"): copy})


def misfit(op: Op) -> str:
    """What is wrong with the value or result of a saved operation, for judges that rely on them; empty when nothing."""
    if op.op not in _RESULTS:
        return f"there is no operation {op.op!r}"
    if op.op == "cas" and not (isinstance(op.value, list | tuple) and len(op.value) == 2):
        return f"a swap has [old, new], not {_shown(op.value)}"
    if op.outcome != OK or op.op not in _NAMES:
        return ""
    try:
        result(op.op, {_NAMES[op.op]: op.result})
    except ValueError as error:
        return str(error)
    return ""


def _key(asked: Invocation) -> dict[str, Any]:
    return {"key": asked.key}


def _key_and_value(asked: Invocation) -> dict[str, Any]:
    return {"key": asked.key, "value": asked.value}


def _swap(asked: Invocation) -> dict[str, Any]:
    old, new = asked.value
    return {"key": asked.key, "old": old, "new": new}


def _nothing(asked: Invocation) -> dict[str, Any]:
    return {}


def _word(answer: Mapping[str, Any], name: str) -> Any:
    if name not in answer:
        raise ValueError(f"there is no {name!r} in {_shown(dict(answer))}")
    return answer[name]


def _value(answer: Mapping[str, Any]) -> Any:
    return _word(answer, "value")


def _done(answer: Mapping[str, Any]) -> None:
    """Further words are nobody's business."""


def _swapped(answer: Mapping[str, Any]) -> bool:
    swapped = _word(answer, "swapped")
    if not isinstance(swapped, bool):
        raise ValueError(f"swapped is true or false, not {_shown(swapped)}")
    return swapped


def _token(answer: Mapping[str, Any]) -> int | None:
    token = _word(answer, "token")
    if token is not None and (not isinstance(token, int) or isinstance(token, bool)):
        raise ValueError(f"a token is a whole number or null, not {_shown(token)}")
    return token


def _values(answer: Mapping[str, Any]) -> list[Any]:
    values = _word(answer, "values")
    if not isinstance(values, list):
        raise ValueError(f"values is a list, not {_shown(values)}")
    return values


def _peers(answer: Mapping[str, Any]) -> list[str]:
    peers = _word(answer, "peers")
    if not isinstance(peers, list) or not all(isinstance(one, str) for one in peers):
        raise ValueError(f"peers is a list of names, not {_shown(peers)}")
    return sorted(peers)


def _digests(answer: Mapping[str, Any]) -> dict[str, str]:
    digests = _word(answer, "digests")
    if not isinstance(digests, dict) or not all(isinstance(one, str) for one in digests.values()):
        raise ValueError(f"digests are text by name, not {_shown(digests)}")
    return digests


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


_WORDS: Mapping[str, Callable[[Invocation], dict[str, Any]]] = {
    "read": _key,
    "write": _key_and_value,
    "cas": _swap,
    "acquire": _key,
    "release": _key,
    "add": _key_and_value,
    "list": _key,
    "peers": _nothing,
    "digest": _nothing,
}
_RESULTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "read": _value,
    "write": _done,
    "cas": _swapped,
    "acquire": _token,
    "release": _done,
    "add": _done,
    "list": _values,
    "peers": _peers,
    "digest": _digests,
}
_NAMES = {"cas": "swapped", "acquire": "token", "list": "values", "peers": "peers", "digest": "digests"}
"""Of those results that have a shape the word in the answer."""
OPS: tuple[str, ...] = tuple(_WORDS)
"""Every operation that a workload may ask for."""
