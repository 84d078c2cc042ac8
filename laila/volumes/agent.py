"""`laila volume probe`: one node's hands on a line. Steps come in as JSON lines, answers go out as JSON lines.

`{"id": 1, "step": {"do": "hello"}}` is answered by `{"id": 1, "ok": true, "answer": {…}}` or by
`{"id": 1, "ok": false, "error": {"kind": "StorageError", "message": …, "reason": "ENOSPC"}}`. It says nothing
unasked and does one step at a time. When its input ends, or it is asked to end, it lets go of every lock and removes
what its check has left.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import IO, Any

from ..errors import BadValue, LailaError
from .steps import Hands

MAX_LINE = 1 << 20
"""Bytes of a step."""


def run(lines: IO[bytes] | None = None, out: IO[bytes] | None = None) -> int:
    """Answer until the input ends; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the conductor's, who then ends our input
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    hands = Hands()
    try:
        serve(hands, lines or sys.stdin.buffer, out or sys.stdout.buffer)
    finally:
        hands.close()
    return 0


def serve(hands: Hands, lines: IO[bytes], out: IO[bytes]) -> None:
    """Answer every line."""
    while line := lines.readline(MAX_LINE + 1):
        text = json.dumps(answer(hands, line), separators=(",", ":"))
        out.write(text.encode("ascii") + b"\n")
        out.flush()
        if len(line) > MAX_LINE:
            return  # where the next line begins cannot be told


def answer(hands: Hands, line: bytes) -> dict[str, Any]:
    """The answer to one line; every failure is an answer too."""
    number: Any = None
    try:
        asked = _asked(line)
        number = asked.get("id")
        return {"id": number, "ok": True, "answer": hands.carry_out(asked["step"])}
    except LailaError as error:
        return {"id": number, "ok": False, "error": {"kind": type(error).__name__, **error.fields()}}
    except Exception as error:  # the conductor must hear of it, and the next step may do
        return {"id": number, "ok": False, "error": {"kind": type(error).__name__, "message": str(error)}}


def _asked(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise BadValue(f"a line has over {MAX_LINE} bytes")
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadValue(f"a line is no JSON: {error}") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("step"), dict):
        raise BadValue('a line is an object like {"id": 1, "step": {"do": "hello"}}')
    return asked


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
