"""Names of artifacts, agents, tasks and locks: what is both a file's name and a word that people type.

A name is one path component on every file system that laila meets: it cannot leave its directory, hide, or be read
differently elsewhere.
"""

from __future__ import annotations

import re
import unicodedata

from .errors import BadName

MAX_BYTES = 120
"""Leaves room for suffixes within the 255 bytes of a file name, also where names are encrypted or escaped."""
_PLAIN = re.compile(r"[A-Za-z0-9_@+=,~][A-Za-z0-9_@+=,~.\-]*", re.ASCII)
_REFUSED = re.compile(r"[/\\\0-\x1f\x7f:*?\"<>|]")


def check_name(kind: str, name: object) -> str:
    """The name itself. `kind` is the word for the message, such as "artifact".

    Raises BadName: not text, empty, over 120 bytes, begins with `.` or `-`, ends with `.` or white space, holds a
    slash, a control character or one of `\\ : * ? " < > |`, or is not in Unicode's composed form (NFC).
    """
    if not isinstance(name, str):
        raise BadName(f"the name of {_an(kind)} is text, not {type(name).__name__}")
    problem = _problem(name)
    if problem:
        raise BadName(f"{name[:80]!r} cannot name {_an(kind)}: {problem}")
    return name


def _problem(name: str) -> str:
    if not name:
        return "it is empty"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "it holds half a character"
    if size > MAX_BYTES:
        return f"it has {size} bytes; at most {MAX_BYTES} fit everywhere"
    if _PLAIN.fullmatch(name) and not name.endswith("."):
        return ""
    if name[0] in ".-" or name[-1] == "." or name != name.strip():
        return "it begins with '.' or '-', or begins or ends with white space or '.'"
    if found := _REFUSED.search(name):
        return f"it holds {found.group()!r}; use letters, digits, '.', '_' and '-'"
    if unicodedata.normalize("NFC", name) != name:
        return "its letters are decomposed; give it in Unicode's NFC form"
    return ""


def _an(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
