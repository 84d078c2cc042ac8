"""What images/node/Dockerfile says about the final image."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_TEXT = (Path(__file__).parents[2] / "images/node/Dockerfile").read_text()


def _lines() -> list[str]:
    """The instructions of the last stage, each in one line."""
    lines = [line for line in _TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    last = max(number for number, line in enumerate(joined) if line.startswith("FROM "))
    return joined[last:]


def _all(instruction: str) -> list[str]:
    return [line.split(None, 1)[1] for line in _lines() if line.startswith(f"{instruction} ")]


def environment() -> dict[str, str]:
    """ENV, without what the base brings."""
    pairs = [word.partition("=") for line in _all("ENV") for word in shlex.split(line)]
    return {name: value for name, _, value in pairs}


def ports() -> set[int]:
    return {int(word) for line in _all("EXPOSE") for word in line.split()}


def user() -> tuple[int, int]:
    uid, _, gid = _all("USER")[-1].strip().partition(":")
    return int(uid), int(gid)


def command() -> list[str]:
    words = [*_all("ENTRYPOINT")[-1:], *_all("CMD")[-1:]]
    return [word for line in words for word in re.findall(r'"([^"]*)"', line)]


def directories() -> set[str]:
    """What `install -d` makes for the node to write to."""
    found = re.findall(r"install -d -o \d+ -g 0 -m 0770 ((?:/\S+ ?)+)", " ".join(_lines()))
    return {path for group in found for path in group.split()}
