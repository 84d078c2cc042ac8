"""A subject: one part of laila behind the operations of workloads, in a program beside a node.

Several logical clients may share one program, so operations may overlap; each is bounded by its timeout. What an
operation raises becomes an answer; `Refused` says that it surely had no effect.
"""

from __future__ import annotations

import os
import re
import string
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import IO, Any, ClassVar

from laila.errors import BadValue, LailaError
from laila.lab import lines
from laila.lab.client import describe
from laila.lab.clocks import boot_id

_PLAIN = frozenset(string.ascii_letters + string.digits + ".-")

Words = Mapping[str, Any]
Method = Callable[[Words, float], dict[str, Any]]


class Refused(LailaError):
    """This surely did not happen."""

    executed = "no"


class Subject:
    """`ops` are the operations that it has, each a method of that name: words and seconds in, the result out."""

    name: ClassVar[str]
    summary: ClassVar[str]
    ops: ClassVar[tuple[str, ...]]

    def __init__(self, options: Mapping[str, str]) -> None:
        """Raises BadConfig for options that are missing."""

    def hello(self, words: Words, timeout: float) -> dict[str, Any]:
        """Answers when the subject can be worked on."""
        return {"pid": os.getpid(), "boot_id": boot_id(), "ops": list(self.ops)}

    @property
    def operations(self) -> dict[str, Method]:
        return {op: getattr(self, op) for op in ("hello", *self.ops)}

    def close(self) -> None:
        """Let go of everything."""


def answer(operations: Mapping[str, Method], request: Any) -> dict[str, Any]:
    """The answer to one request; every failure is an answer too."""
    number = request.get("id") if isinstance(request, dict) else None
    try:
        timeout = lines.checked(request, operations)
        return {"id": number, "ok": True, "result": operations[request["op"]](request, timeout)}
    except Exception as error:
        return {"id": number, "ok": False, "error": describe(error)}


def run(
    make: Callable[[Mapping[str, str]], Subject],
    options: Mapping[str, str],
    *,
    streams: tuple[IO[str], IO[str]] | None = None,
) -> int:
    """The program. Exit code 0 after the end of its input, 2 when the subject cannot be opened."""
    requests, out = streams or (sys.stdin, sys.stdout)
    try:
        subject = make(options)
    except (LailaError, OSError, ValueError) as error:
        print(f"laila lab subject: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    try:
        lines.serve(partial(answer, subject.operations), requests, out)
    finally:
        subject.close()
    return 0


def text(words: Words, key: str) -> str:
    """A word that must be there. Raises BadValue."""
    value = words.get(key)
    if not isinstance(value, str):
        raise BadValue(f"`{key}` must be a text, not {value!r}")
    return value


def named(value: str) -> str:
    """Any text as a name that laila takes everywhere: what else it has becomes `_` and two hexadecimal digits."""
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"_{byte:02x}" for byte in f"x{value}".encode())


def valued(name: str) -> str:
    """The text that `named` made a name of."""
    found = re.sub(rb"_([0-9a-f]{2})", lambda hit: bytes([int(hit[1], 16)]), name.encode())
    return found.decode("utf-8", "replace").removeprefix("x")
