"""The first store of this kind, as its author wrote it (tests/seeds/shared_store.py), as a negative control.

The class is taken from the program verbatim; only what it gets from its imports differs:

- `in_place`: its artifacts are written as the library that it was written for does, by `open(path, "wb")`;
- otherwise it runs on `laila.maif`, whose artifacts are published by rename.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from laila.maif import create_maif, load_maif

PROGRAM = Path(__file__).parents[1] / "seeds" / "shared_store.py"
_USAGE = "# Usage"


class InPlace:
    """An artifact that saves itself as the seed's library does: not atomic, not durable."""

    def __init__(self, agent_id: str) -> None:
        self._artifact = create_maif(agent_id)

    def add_text(self, text: str, title: str | None = None) -> None:
        self._artifact.add_text(text, title)

    def save(self, path: str, sign: bool = True) -> None:
        whole = self._artifact.to_bytes(sign)
        with Path(path).open("wb") as file:
            file.write(whole[:-48])
        with Path(path).open("ab") as file:  # that library appends the footer by itself
            file.write(whole[-48:])


def naive_store(*, in_place: bool = False) -> Any:
    """The class `SharedArtifactStore` of the seed."""
    source, usage, _ = PROGRAM.read_text(encoding="utf-8").partition(_USAGE)
    assert usage, "the seed's program has no usage at its end any more"
    names: dict[str, Any] = {}
    exec(compile(source, str(PROGRAM), "exec"), names)  # noqa: S102  # the program under test
    if in_place:
        names.update(create_maif=InPlace, load_maif=load_maif)
    return names["SharedArtifactStore"]


def program(**replaced: str) -> SimpleNamespace:
    """Run the whole program, with its paths replaced; what it leaves behind."""
    source = PROGRAM.read_text(encoding="utf-8")
    for before, after in replaced.items():
        assert before in source
        source = source.replace(before, after)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, str(PROGRAM), "exec"), names)  # noqa: S102  # the program under test
    return SimpleNamespace(**names)
