"""Values in and out of the shell: JSON where JSON can say it, `{"$type": …}` where it cannot."""

from __future__ import annotations

import base64
import json
import math
import sys
from pathlib import Path
from typing import Any

from laila.errors import BadConfig

MAX_ARRAY = 10_000
"""Items of an array that are printed; of a larger one only type and shape are."""


def read_value(text: str | None, file: str | None, *, as_bytes: bool, as_text: bool) -> Any:
    """The value to memorize, from the command line, a file or (`-`) standard input. Raises BadConfig."""
    if (text is None) == (file is None):
        raise BadConfig("give the value either as an argument or with --file, where - is standard input")
    where = "the value" if file is None else "standard input" if file == "-" else file
    content = text.encode() if text is not None else _read(str(file))
    if as_bytes:
        return content
    try:
        decoded = content.decode("utf-8")
        return decoded if as_text else json.loads(decoded)
    except UnicodeDecodeError as error:
        raise BadConfig(f"{where} is no UTF-8 text; add --bytes to store it as bytes") from error
    except (ValueError, RecursionError) as error:
        raise BadConfig(
            f"{where} is no JSON ({error}); quote a string like '\"text\"', or add --text or --bytes"
        ) from error


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise BadConfig(f"{file} cannot be read: {error.strerror}") from error


def plain(value: Any) -> Any:
    """`value` with everything that JSON lacks replaced by `{"$type": NAME, …}`."""
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$type": "float", "value": repr(value)}
    if type(value) is list:
        return [plain(item) for item in value]
    if type(value) is dict:
        return _mapping(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$type": "bytes", "base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, tuple | set | frozenset):
        return {"$type": type(value).__name__, "value": [plain(item) for item in value]}
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return _array(value)
    return {"$type": type(value).__name__, "value": str(value)}


def _mapping(value: dict[Any, Any]) -> Any:
    if all(isinstance(key, str) for key in value) and "$type" not in value:
        return {key: plain(item) for key, item in value.items()}
    return {"$type": "dict", "items": [[plain(key), plain(item)] for key, item in value.items()]}


def _array(value: Any) -> dict[str, Any]:
    found = {"$type": type(value).__name__, "dtype": str(value.dtype), "shape": list(value.shape)}
    if value.size <= MAX_ARRAY:
        found["value"] = plain(value.tolist())
    return found


def readable(value: Any) -> str:
    """For people: text as it is, what JSON can say as JSON, anything else as Python writes it."""
    if isinstance(value, str):
        return value
    shown = plain(value)
    if "$type" in repr(shown):
        return repr(value)
    return json.dumps(shown, ensure_ascii=False, indent=None if len(repr(shown)) < 100 else 2)
