"""A run as its folder tells it, long after it has ended, or where it was interrupted and never could.

`result.json` and `environment.json` may be missing, and the last line of `history.jsonl` may be half a line: so much a
controller leaves that was killed. What can be told is told; the verdict is unknown then.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from laila.errors import BadConfig
from laila.lab.history import Told
from laila.lab.result import Result, StepResult

HISTORY, RESULT, ENVIRONMENT = "history.jsonl", "result.json", "environment.json"
AT_ONCE = 200
"""Lines that are parsed in one go."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was read from one folder."""

    path: Path
    result: Result
    told: Told
    environment: Mapping[str, Any]
    interrupted: bool
    """It has no result: the run was killed."""
    unreadable: int
    """Lines of the history that are none; one at its end is no wonder when the run was interrupted."""

    @property
    def files(self) -> list[str]:
        """What the folder has, beside the report, for links."""
        known = (HISTORY, RESULT, ENVIRONMENT, "junit.xml")
        logs = sorted((self.path / "logs").glob("*.log"))
        return [
            *(name for name in known if (self.path / name).is_file()),
            *(f"logs/{log.name}" for log in logs),
        ]


def read(folder: str | Path, *, history: bool = True) -> Saved:
    """`history=False` leaves that unread where there is a result. Raises BadConfig for a folder that is none of a run,
    or one whose result cannot be read.
    """
    path = Path(folder)
    environment = _json(path / ENVIRONMENT) or {}
    found = _json(path / RESULT)
    told = Told()
    unreadable = 0
    for record in records(path) if history or found is None else ():
        try:
            if record is None:
                raise ValueError("no line")
            told.take(record)
        except (KeyError, TypeError, ValueError):
            unreadable += 1
    result = _interrupted(path, told, environment) if found is None else _result(path, found)
    return Saved(path, result, told, environment, found is None, unreadable)


@contextlib.contextmanager
def trusting(folder: str | Path) -> Iterator[None]:
    """What is done inside takes the files of a folder for what a run has written. Raises BadConfig where they are not,
    or where one cannot be read or written.
    """
    try:
        yield
    except BadConfig:
        raise
    except OSError as error:
        raise BadConfig(f"{error.filename or folder}: {error.strerror}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise BadConfig(f"the files in {folder} are not what a run writes: {said}") from error


def records(folder: Path, *, without: str = "") -> Iterator[dict[str, Any] | None]:
    """Every line of its history, but for those of the kind `without`; None for what is no line. Raises BadConfig when
    there is no history.
    """
    passed = f'{{"what":"{without}"'  # as `History` writes it: not to parse what nobody asks for
    asked = (line for line in lines(folder) if not (without and line.startswith(passed)))
    while batch := list(islice(asked, AT_ONCE)):
        yield from _parsed(batch)


def _parsed(batch: Sequence[str]) -> Iterator[dict[str, Any] | None]:
    """All lines in one go, which takes half the time; one by one where that does not work."""
    try:
        found = json.loads(f"[{','.join(batch)}]")
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(batch):
        found = [_line(line) for line in batch]
    for record in found:
        yield record if isinstance(record, dict) else None


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def lines(folder: Path) -> Iterator[str]:
    """As they are. Raises BadConfig when there is no history."""
    try:
        file = (folder / HISTORY).open(encoding="utf-8", errors="replace")
    except OSError as error:
        said = error.strerror or error
        raise BadConfig(f"{folder} is no folder of a run, its {HISTORY} cannot be read: {said}") from error
    with file:
        yield from file


def _json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file. Raises BadConfig for one that is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise BadConfig(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadConfig(f"{path} is no JSON object")
    return found


def _result(path: Path, found: Mapping[str, Any]) -> Result:
    try:
        plain = {field.name: found[field.name] for field in fields(Result) if field.name in found}
        plain |= {name: tuple(plain.get(name, ())) for name in ("nodes", "left_behind")}
        plain["steps"] = tuple(_step(step) for step in plain["steps"])
        return Result(**plain)
    except (AttributeError, KeyError, TypeError) as error:
        raise BadConfig(f"{path / RESULT} is no result of a run: {error}") from error


def _step(found: Mapping[str, Any]) -> StepResult:
    plain = {field.name: found[field.name] for field in fields(StepResult) if field.name in found}
    return StepResult(**{**plain, "evidence": tuple(plain.get("evidence", ()))})


def _interrupted(path: Path, told: Told, environment: Mapping[str, Any]) -> Result:
    """The result that the run would have written of itself."""
    topology = environment.get("topology") or {}
    nodes = [str(node["name"]) for node in topology.get("nodes", ())]
    begun = [event["text"] for event in told.events if event["what"] == "step"]
    ended = max((float(event["t"]) for event in told.events), default=0.0)
    kept = [*told.through.kept, *told.others.kept]
    ended = max([ended, *(op.start for _, op in kept), *(float(op["end"]) for op in told.ops)])
    where = f"during {begun[-1]!r}" if begun else "before its first step"
    detail = f"the run was killed {where}, {ended:.1f} s after it began; it left no result"
    driver = environment.get("driver") or {}
    return Result(
        run_id=path.resolve().name,
        topology=str(topology.get("name", "")) or "unknown",
        driver=str(driver.get("name", "unknown")),
        driver_reason="",
        nodes=tuple(nodes) or tuple(sorted({event["node"] for event in told.events if event.get("node")})),
        seed=int(environment.get("seed", 0)),
        command=str(environment.get("command", "")),
        started=(path / HISTORY).stat().st_mtime - ended,
        seconds=ended,
        steps=(StepResult("interrupted", "reach the end", "error", detail, 0.0, ended),),
        facts={"operations": dict(told.counts)},
    )
