"""What a check found, as data that can be saved and read again."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Verdict(enum.Enum):
    """`unknown` never passes: nothing was shown."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> int:
        return {Verdict.OK: 0, Verdict.FAILED: 1, Verdict.UNKNOWN: 2}[self]


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step. `state` is ok, failed, error or skipped; times are seconds since the run began."""

    key: str
    title: str
    state: str
    detail: str
    began: float = 0.0
    seconds: float = 0.0
    evidence: tuple[str, ...] = ()
    excused: bool = False
    """Skipped because this machine or driver cannot do it, and nobody insists (CI does)."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run. `command` repeats its schedule (seeded), not its interleaving."""

    run_id: str
    topology: str
    driver: str
    driver_reason: str
    nodes: tuple[str, ...]
    seed: int
    command: str
    started: float
    """Seconds since the epoch."""
    seconds: float
    steps: tuple[StepResult, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    left_behind: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        states = {step.state for step in self.steps if not step.excused}
        if "failed" in states:
            return Verdict.FAILED
        return Verdict.OK if states == {"ok"} and not self.left_behind else Verdict.UNKNOWN

    @property
    def sentence(self) -> str:
        """The verdict as a person says it."""
        bad = [step for state in ("failed", "error") for step in self.steps if step.state == state]
        if self.verdict is Verdict.OK:
            return self._good + self._not_shown
        if bad:
            return f"{bad[0].title}: {bad[0].detail}"
        return "It did not get far enough to say anything."

    @property
    def _good(self) -> str:
        nodes = f"{len(self.nodes)} nodes peer with each other"
        if self.facts.get("judgements") and not {"locks", "replica_promises"} & set(self.facts):
            return self._tried
        if "locks" in self.facts:
            return (
                f"{nodes} and share one volume: one holder at a time, nothing lost, nothing stale, nothing damaged "
                "served; what broke healed."
            )
        if "replica_promises" in self.facts:
            return (
                f"{nodes}, and their replicas answer as one store: every read is of the newest version, nothing "
                "acknowledged is missing, nothing damaged served; what broke healed."
            )
        return f"{nodes}, and what broke healed."

    @property
    def _tried(self) -> str:
        """Of a trial alone."""
        judged = self.facts["judgements"]
        checks = ", ".join(dict.fromkeys(str(one["check"]) for one in judged))
        kinds = Counter(str(one["what"]) for one in self.facts.get("bites", ()))
        broken = ", ".join(kind if times == 1 else f"{kind} {times} times" for kind, times in kinds.items())
        operations = sum(int(one["operations"]) for one in judged)
        during = f"while it was broken ({broken})" if broken else "with nothing broken"
        return f"{operations:,} operations through {len(self.nodes)} nodes {during} were answered rightly: {checks}."

    @property
    def _not_shown(self) -> str:
        excused = [step.title for step in self.steps if step.excused]
        return f" Not shown here: {', '.join(excused)}." if excused else ""

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {"verdict": self.verdict.value, "sentence": self.sentence, **fields}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1, default=str) + "\n", encoding="utf-8")
