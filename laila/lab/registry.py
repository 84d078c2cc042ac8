"""Which labs this machine has: one small directory per run, written before anything is started.

`<home>/<run-id>/run.json` says who made the run, with which driver and topology, and which processes belong
to it, so that another command (`laila lab status`, `down`, `gc`) finds all of it, also after the first was
killed. The process driver keeps its nodes' files beside it. Home is LAILA_LAB_HOME, else
XDG_STATE_HOME/laila/lab, else ~/.local/state/laila/lab.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import BadConfig, LabError
from laila.lab.procid import ProcessId


def home() -> Path:
    """Where runs are registered; made when missing, for its owner only."""
    if chosen := os.environ.get("LAILA_LAB_HOME"):
        path = Path(chosen)
    else:
        state = os.environ.get("XDG_STATE_HOME")
        path = (Path(state) if state else Path.home() / ".local" / "state") / "laila" / "lab"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfig(
            f"cannot register a run in {path}: {error.strerror}; set LAILA_LAB_HOME to a directory"
        ) from error
    return path


def home_id(*, make: bool = False) -> str:
    """What tells this registry from every other one, for what lies where others have theirs too; empty when it was
    never made.
    """
    path = home() / "id"
    if make and not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=home(), prefix=".id-", delete=False) as file:
            file.write(secrets.token_hex(16))
        try:
            os.link(file.name, path)
        except FileExistsError:
            pass  # somebody else was first: theirs it is
        finally:
            Path(file.name).unlink()
    return path.read_text().strip() if path.exists() else ""


def new_run_id() -> str:
    """Sorts by time, and never twice the same: `20250131-142501-9f3a61c2`."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Run:
    """One registered run. `mode` is check or up; `state` is working until an `up` stands, then standing."""

    run_id: str
    driver: str
    topology: Mapping[str, Any]
    mode: str
    controller: ProcessId
    state: str = "working"
    created: float = field(default_factory=time.time)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the driver needs to find its nodes again."""

    @property
    def path(self) -> Path:
        return home() / self.run_id

    @property
    def abandoned(self) -> bool:
        """Nobody works on it any more and nobody meant it to stay."""
        return self.state == "working" and self.controller.here and not self.controller.alive

    def with_facts(self, **facts: Any) -> Run:
        return dataclasses.replace(self, facts={**self.facts, **facts})

    def save(self) -> None:
        """Write it so that a reader sees the old text or the new one."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1)
        with tempfile.NamedTemporaryFile(
            "w", dir=self.path, prefix=".run-", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self.path / "run.json")

    def forget(self) -> None:
        """Remove it and every file that the run kept beside it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            raise LabError(f"cannot remove {self.path}; remove it by hand")


def load(run_id: str) -> Run:
    """Raises BadConfig when there is no such run, and lists those that are."""
    path = home() / run_id / "run.json"
    if "/" in run_id or not path.is_file():
        known = ", ".join(run.run_id for run in runs()) or "none"
        raise BadConfig(f"no lab {run_id!r} on this machine; there are: {known}")
    return _read(path)


def runs() -> list[Run]:
    """All registered runs, oldest first; a directory whose record cannot be read is passed over."""
    found = []
    for path in sorted(home().glob("*/run.json")):
        try:
            found.append(_read(path))
        except LabError:
            continue
    return found


def _read(path: Path) -> Run:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        fields["controller"] = ProcessId.from_dict(fields["controller"])
        return Run(**fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"{path} is damaged: {error}; if that run is over, remove {path.parent}") from error


def stand(run: Run) -> Run:
    """This run is meant to stay: `laila lab gc` leaves it alone from now on."""
    standing = dataclasses.replace(run, state="standing")
    standing.save()
    return standing
