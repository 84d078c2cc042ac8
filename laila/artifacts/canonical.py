"""JSON as MAIF hashes and signs it: keys sorted, separators `", "` and `": "`, non-ASCII escaped."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..errors import BadValue, UnsupportedType

EMPTY = b"{}"
"""How empty metadata is stored; it does not count in the content hash."""
MAX_METADATA = 16 << 20
"""Bytes of one block's metadata; more belongs into the data."""


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


def parse_metadata(raw: bytes) -> dict[str, Any]:
    """A block's metadata. Raises ValueError when it is no JSON object."""
    if not raw:
        return {}
    try:
        value = json.loads(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if type(value) is not dict:
        raise ValueError("it is no JSON object")
    return value


def content_hash(data: Any, metadata: bytes) -> bytes:
    """SHA-256 of the data, or of that hash and the metadata's bytes where there are any."""
    digest = hashlib.sha256(data).digest()
    if metadata and metadata != EMPTY:
        return hashlib.sha256(digest + metadata).digest()
    return digest
