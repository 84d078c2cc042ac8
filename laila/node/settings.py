"""How what was written becomes a typed value: text from the environment or a flag, a TOML value from a file.

A parser takes the value and the directory that relative paths start from. It returns the typed value, or
raises `Complaint` with half a sentence that says what is wrong and what to write instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laila.node.addresses import Address, PeerSource

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NODE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|KB|MB|GB)?")
_DECIMAL = re.compile(r"\d+\.\d+")
_UNITS = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


class Complaint(ValueError):
    """What is wrong with a written value; `path` leads to the part of it that is meant."""

    def __init__(self, text: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.path = path


Parser = Callable[[Any, Path], Any]


def words(items: tuple[str, ...]) -> str:
    return ", ".join(items[:-1]) + " or " + items[-1]


def text_of(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Complaint(f"it is {kind_of(value)} where {what} belongs; write it in quotes")
    return value.strip()


def kind_of(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def name(value: Any, base: Path) -> str:
    text = text_of(value, "a name")
    if not NAME.fullmatch(text):
        raise Complaint(f"{text!r} is no node name; use up to 63 letters, digits, '.', '_' and '-'")
    return text


def address(example: str, *, any_port: bool) -> Parser:
    def parse(value: Any, base: Path) -> Address:
        try:
            return Address.parse(
                text_of(value, f"an address like {example!r}"), example=example, any_port=any_port
            )
        except Complaint:
            raise
        except ValueError as error:
            raise Complaint(str(error)) from error

    return parse


def path(value: Any, base: Path) -> Path:
    text = text_of(value, "a path")
    if not text or "\0" in text:
        raise Complaint("it is no path; write the path of a file or directory")
    return base / Path(text).expanduser()


def paths(value: Any, base: Path) -> tuple[Path, ...]:
    return tuple(path(text, base) for text in items(",", 'a list of paths, such as ["old-secret"]')(value))


def absolute_paths(value: Any, base: Path) -> tuple[Path, ...]:
    """Paths that mean the same wherever they are written: peers ask for volumes by them."""
    found = items(",", 'a list of absolute paths, such as ["/mnt/shared"]')(value)
    for text in found:
        if not text.startswith("/") or "\0" in text:
            raise Complaint(f"{text!r} is no absolute path; write volumes from the root, like '/mnt/shared'")
    return tuple(dict.fromkeys(map(Path, found)))


def node_ids(value: Any, base: Path) -> tuple[str, ...]:
    """Ids of nodes, as `laila status` shows them."""
    found = items(",", "a list of node ids, as `laila status` shows them")(value)
    for text in found:
        if not _NODE_ID.fullmatch(text.lower()):
            raise Complaint(f"{text!r} is no node id; write ids as `laila status` shows them")
    return tuple(text.lower() for text in found)


def choice(allowed: tuple[str, ...]) -> Parser:
    def parse(value: Any, base: Path) -> str:
        text = text_of(value, words(allowed)).lower()
        if text not in allowed:
            raise Complaint(f"{text!r} is not known; use {words(allowed)}")
        return text

    return parse


def seconds(low: float, high: float) -> Parser:
    def parse(value: Any, base: Path) -> float:
        number = value
        if isinstance(value, str):
            try:
                number = float(value.strip())
            except ValueError:
                raise Complaint(
                    f"{value!r} is no number of seconds; write one from {low:g} to {high:g}"
                ) from None
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Complaint(f"it is {kind_of(value)}; write a number of seconds from {low:g} to {high:g}")
        if not (math.isfinite(number) and low <= number <= high):
            raise Complaint(f"{number:g} seconds is out of range; write {low:g} to {high:g}")
        return float(number)

    return parse


def items(separator: str, what: str) -> Callable[[Any], list[str]]:
    """A list of texts: TOML list, or text with separators; empty items are dropped."""

    def parse(value: Any) -> list[str]:
        if isinstance(value, str):
            value = value.split(separator)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Complaint(f"it must be {what}")
        return [item.strip() for item in value if item.strip()]

    return parse


def peers(value: Any, base: Path) -> tuple[PeerSource, ...]:
    texts = items(",", 'a list of addresses, such as ["node2:7400", "dns:nodes:7400"]')(value)
    found: dict[PeerSource, None] = {}
    for text in texts:
        try:
            found[PeerSource.parse(text)] = None
        except ValueError as error:
            raise Complaint(str(error)) from error
    return tuple(found)


def access(value: Any, base: Path) -> tuple[str, ...]:
    what = 'a list of one-line rules, such as ["deny * *", "allow node2 read,write durable"]'
    return tuple(items(";", what)(value))


def size(text: str) -> int:
    """Bytes of `64MiB`, `10 KB`, `4096`. Complaint when it is none."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise Complaint(f"{text!r} is no number or size; write one like 64MiB or 4096")
    return int(found[1]) * _UNITS[found[2]]


def limits(value: Any, base: Path) -> dict[str, float]:
    """Named limits: numbers, or sizes as text. Which names exist is the library's business, see `config`."""
    if isinstance(value, dict):
        pairs = list(value.items())
    else:
        texts = items(",", 'a table like [limits], or text like "max_links=100,max_body=64MiB"')(value)
        pairs = [(text.partition("=")[0].strip(), text.partition("=")[2].strip()) for text in texts]
    found: dict[str, float] = {}
    for limit, amount in pairs:
        try:
            number = (
                size(amount) if isinstance(amount, str) and not _DECIMAL.fullmatch(amount) else float(amount)
            )
        except Complaint as complaint:
            raise Complaint(f"limit {limit!r}: {complaint}", (limit,)) from complaint
        except (TypeError, ValueError):
            raise Complaint(
                f"limit {limit!r} is {kind_of(amount)}; write a number or a size like 64MiB", (limit,)
            ) from None
        if isinstance(amount, bool) or not math.isfinite(number) or number < 0:
            raise Complaint(f"limit {limit!r} is {amount!r}; write a number above 0", (limit,))
        found[limit] = number
    return found
