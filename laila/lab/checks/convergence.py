"""When all nodes are back and nobody works any more, their replicas become equal, byte for byte, by themselves."""

from __future__ import annotations

import time

from laila.errors import LabError
from laila.lab.checks.base import Stage
from laila.lab.checks.registers import FACT
from laila.lab.checks.replica_holdings import differences, look, settle
from laila.lab.checks.replica_load import ReplicaLoad


def replicas_become_equal(stage: Stage) -> str:
    load: ReplicaLoad | None = stage.facts.get(FACT)
    if load is None or "registers" not in stage.facts:
        raise LabError("nothing was written to the replicas, so nothing can be compared")
    differing = len(differences(look(stage)))
    stage.tell(f"nobody works any more; {differing} names differ")
    waiting = time.monotonic()
    settled, by = settle(stage, differences, "replicas become equal")
    since_work = waiting - stage.history.began - stage.facts["replica_work_ended"] + settled
    found = look(stage)
    names = len(found[0].digests)
    if not names:
        raise LabError("the replicas hold nothing, so nothing was compared")
    stage.facts["converged"] = {"seconds": since_work, "by": by, "names": names, "differing": differing}
    return (
        f"{names} files on each of {len(found)} nodes are equal, byte for byte, {since_work:.1f} s after the last "
        f"operation (allowed {stage.effort.converge_within:g}), {by}; {differing} differed in the beginning"
    )
