"""JSON as MAIF hashes and signs it: keys sorted, separators `", "` and `": "`, non-ASCII escaped."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..errors import BadValue, UnsupportedType

EMPTY = b"{}"
"""How empty metadata is stored; it does not count in the content hash."""
MAX_METADATA = 1 << 20
"""Bytes of one block's metadata; more belongs into the data."""
MAX_ALL_METADATA = 32 << 20
"""Bytes of all metadata in a file: as Python objects JSON takes twenty times its size."""
MAX_DEPTH = 64
"""How deep the JSON of a file may be nested."""


def canonical(value: Any) -> bytes:
    """Raises UnsupportedType for what JSON cannot say, BadValue for NaN and infinities."""
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False).encode("ascii")
    except TypeError as error:
        raise UnsupportedType(
            f"metadata is JSON: texts, numbers, lists, maps with text keys; {error}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadValue(f"metadata is JSON without NaN, infinities and endless nesting: {error}") from error


def load_json(raw: bytes) -> Any:
    """JSON as files hold it. Raises ValueError: no JSON, NaN or infinities, a key twice in one object, too deep."""
    try:
        value = json.loads(raw, parse_constant=_no_number, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return value
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _inside(value: Any) -> list[Any]:
    inner = value.values() if type(value) is dict else value if type(value) is list else ()
    return [one for one in inner if type(one) is dict or type(one) is list]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def parse_metadata(raw: bytes) -> dict[str, Any]:
    """A block's metadata. Raises ValueError when it is no JSON object."""
    if not raw:
        return {}
    value = load_json(raw)
    if type(value) is not dict:
        raise ValueError("it is no JSON object")
    return value


def content_hash(data: Any, metadata: bytes) -> bytes:
    """SHA-256 of the data, or of that hash and the metadata's bytes where there are any."""
    digest = hashlib.sha256(data).digest()
    if metadata and metadata != EMPTY:
        return hashlib.sha256(digest + metadata).digest()
    return digest
