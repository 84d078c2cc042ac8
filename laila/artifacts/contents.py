"""What people put into an artifact and get out of it: blocks as items, and values as blocks."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import BadValue, UnsupportedType
from .canonical import MAX_METADATA, canonical
from .layout import BLOCK_HEADER, MAX_BLOCK
from .source import Source, open_data

JSON = "application/json"
CONTENT_TYPE = "content_type"
"""Metadata key that tells a JSON text from another."""


@dataclass(slots=True)
class Draft:
    """A block that is yet to be written. Times are microseconds of the epoch."""

    kind: bytes
    data: bytes | memoryview
    metadata: bytes
    block_id: bytes
    timestamp: int
    source: Source | None = None
    """The mapped file that `data` lies in, if it does."""

    @property
    def size(self) -> int:
        return BLOCK_HEADER + len(self.data) + len(self.metadata)


def metadata_of(title: str | None, metadata: Mapping[str, Any] | None, **more: Any) -> bytes:
    """A block's metadata as it is stored: the caller's, the title under "title", and what the kind of block adds."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise UnsupportedType(f"metadata is a map with text keys, not {type(metadata).__name__}")
    if title is not None and not isinstance(title, str):
        raise UnsupportedType(f"a title is text, not {type(title).__name__}")
    whole = {**(metadata or {}), **({} if title is None else {"title": title}), **more}
    if wrong := [key for key in whole if not isinstance(key, str)]:
        raise UnsupportedType(f"metadata is a map with text keys, not {wrong[0]!r}")
    raw = canonical(whole)
    if len(raw) > MAX_METADATA:
        raise BadValue(
            f"metadata of {len(raw)} bytes; at most {MAX_METADATA} fit, the rest belongs into the data"
        )
    return raw


def text_data(text: object) -> bytes:
    if not isinstance(text, str):
        raise UnsupportedType(f"add_text takes text, not {type(text).__name__}; use add_json or add_binary")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadValue(f"the text holds half a character at {error.start}; it cannot be stored") from error


def binary_data(data: object) -> Source:
    """Raises UnsupportedType for what has no bytes, OSError for a file that cannot be read."""
    try:
        return open_data(data)
    except TypeError as error:
        raise UnsupportedType(
            f"{type(data).__name__} has no bytes; give bytes, a buffer or a Path"
        ) from error


def json_data(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except TypeError as error:
        raise UnsupportedType(f"add_json takes what JSON can say: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadValue(f"add_json takes what JSON can say: {error}") from error


def embedding_data(vectors: Any) -> tuple[bytes, int, int]:
    """Rows of numbers as little-endian float32: bytes, rows, dimensions. Takes lists, or a buffer of two dimensions."""
    import array

    try:
        view = memoryview(vectors)
    except TypeError:
        return _rows_of_lists(vectors, array)
    if view.ndim != 2 or view.format not in ("f", "d"):
        raise BadValue("embeddings are rows of float32 or float64, shape (rows, dimensions)")
    rows, dimensions = view.shape or (0, 0)
    values = array.array("f", [number for row in _listed(view) for number in row])
    return _little(values), rows, dimensions


def _listed(view: memoryview) -> Sequence[Sequence[float]]:
    rows: Any = view.tolist()
    return rows  # type: ignore[no-any-return]  # two dimensions, as was checked


def _rows_of_lists(vectors: Any, array: Any) -> tuple[bytes, int, int]:
    try:
        rows: Sequence[Any] = [
            list(row) for row in vectors if not isinstance(row, str | bytes) or _no_row(row)
        ]
        values = array.array("f", [float(number) for row in rows for number in row])
    except (TypeError, ValueError, OverflowError) as error:
        raise BadValue(
            f"embeddings are rows of numbers, such as [[0.1, 0.2], [0.3, 0.4]]: {error}"
        ) from error
    if len({len(row) for row in rows}) > 1:
        raise BadValue("embeddings are rows of the same length")
    return _little(values), len(rows), len(rows[0]) if rows else 0


def _no_row(row: object) -> bool:
    raise TypeError(f"{row!r} is no row of numbers")


def _little(values: Any) -> bytes:
    if not all(map(math.isfinite, values)):
        raise BadValue("embeddings are float32: a number is not finite, or beyond what fits")
    if sys.byteorder == "big":
        values.byteswap()
    raw: bytes = values.tobytes()
    return raw


def check_size(draft: Draft) -> None:
    """Raises BadValue for a block that its u32 size cannot describe."""
    if draft.size > MAX_BLOCK:
        raise BadValue(
            f"a block of {draft.size} bytes; header, data and metadata together stay under 4 GiB: split the data"
        )


def item(index: int, word: str, block_id: str, data: memoryview, metadata: dict[str, Any]) -> dict[str, Any]:
    """One entry of a content list.

    `content` is the text, the parsed value of a JSON block, a (rows, dimensions) view of float32, or the bytes (a view
    where they are many). `text` is there for texts and JSON, else empty.
    """
    text, content = "", _bytes(data)
    if word == "text":
        text = content = bytes(data).decode("utf-8", "replace")
        if metadata.get(CONTENT_TYPE) == JSON:
            word, content = "json", _parsed(text)
    elif word == "embeddings":
        content = _matrix(data, metadata)
    return {
        "index": index,
        "type": word,
        "title": str(metadata.get("title", "")),
        "text": text,
        "content": content,
        "metadata": metadata,
        "id": block_id,
    }


def _bytes(data: memoryview) -> Any:
    return bytes(data) if len(data) <= 1 << 20 else data


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # said to be JSON by whoever wrote it; the text is all there is


def _matrix(data: memoryview, metadata: dict[str, Any]) -> Any:
    dimensions = metadata.get("dimensions")
    if type(dimensions) is not int or dimensions < 1 or len(data) % (4 * dimensions):
        return _bytes(data)
    if sys.byteorder == "big":
        import array

        values = array.array("f", bytes(data))
        values.byteswap()
        data = memoryview(values.tobytes())
    return data.cast("B").cast("f", [len(data) // (4 * dimensions), dimensions]) if len(data) else []
