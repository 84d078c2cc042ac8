"""What the volume promises: the same check as `laila volume check`, between workers beside the nodes.

SAFE goes on; UNSAFE is a failure of the volume, which is named; UNKNOWN is no verdict. The verdict is kept on the
volume, so the stores of this check find it there: on a volume that is known to be UNSAFE they must refuse to work.
"""

from __future__ import annotations

from typing import Any

from laila.errors import (
    BadValue,
    DeadlineExceeded,
    Denied,
    LabError,
    LailaError,
    PeerLost,
    RemoteError,
    StorageError,
)
from laila.lab.checks.base import Stage
from laila.lab.crew import Crew, Worker
from laila.volumes import check
from laila.volumes.nodes import NodeLink
from laila.volumes.verdict import BAD, SAFE, UNKNOWN, Verdict

_KINDS: dict[str, type[LailaError]] = {
    "BadValue": BadValue,
    "Denied": Denied,
    "ClientGone": PeerLost,
    "NoAnswer": DeadlineExceeded,
}


class WorkerNode(NodeLink):
    """A worker that carries out the steps of a volume check."""

    def __init__(self, crew: Crew, worker: Worker) -> None:
        self.name = worker.node
        self.path = crew.driver.volume_path(worker.node, crew.volume)
        self._crew, self._worker = crew, worker

    def ask(self, step: dict[str, Any], timeout: float) -> dict[str, Any]:
        name = str(step.get("do"))
        outcome = self._crew.op(self._worker, "probe", timeout=timeout, phase="volume", name=name, step=step)
        if outcome.ok:
            return outcome.result
        if outcome.error == "StorageError":
            raise StorageError(outcome.message, reason=outcome.reason)
        if outcome.error in _KINDS:
            raise _KINDS[outcome.error](outcome.message)
        raise RemoteError(f"{outcome.error}: {outcome.message}", kind=outcome.error)


def is_judged(stage: Stage) -> str:
    """Fails for UNSAFE, raises LabError for UNKNOWN."""
    crew, spec = stage.crew, stage.volume
    nodes = [WorkerNode(crew, worker) for worker in stage.each(crew.of, stage.names)]
    place = crew.driver.volume_path(stage.names[0], spec.name)
    verdict = check.run(
        place, nodes, seconds=stage.effort.volume_for, tell=lambda line: stage.tell(line.strip())
    )
    stage.facts["volume"] = {"name": spec.name, "kind": spec.kind, **verdict.to_dict()}
    if verdict.answer == SAFE:
        return f"SAFE: {verdict.reason}"
    _mark(stage, verdict)
    if verdict.answer == UNKNOWN:
        raise LabError(f"nothing can be said about the volume {spec.name}: {verdict.reason}")
    stage.facts["unsafe"] = verdict.reason
    lines = [f"{line.check}: {line.text}" for line in verdict.evidence if line.outcome == BAD]
    lines += [_store_refuses(stage, node) for node in stage.names]
    stage.fail(f"the volume {spec.name} ({verdict.mount.fstype}) is UNSAFE: {verdict.reason}", lines)


def _store_refuses(stage: Stage, node: str) -> str:
    """That a store on this node does not work there, in words."""
    words = {"store": "lab-check/refused", "name": "refused", "seed": 0}
    outcome = stage.crew.op(
        stage.crew.of(node), "create", timeout=stage.effort.op_timeout, phase=stage.step, **words
    )
    if outcome.error == "UnsafeVolume":
        return f"a store on {node} refuses to work there, as it should: UnsafeVolume"
    return f"a store on {node} does not refuse to work there: {outcome}"


def _mark(stage: Stage, verdict: Verdict) -> None:
    for node in stage.names:
        stage.history.event("bad", str(verdict), node=node)
