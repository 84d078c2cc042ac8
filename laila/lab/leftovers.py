"""Runs that lie on the engine of this machine and in the cluster of the kubeconfig, found by what they are labelled
with: so also those that have no record here any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from laila.errors import LabError
from laila.lab import registry
from laila.lab.procid import ProcessId
from laila.lab.topology import replicated


def runs() -> Iterator[registry.Run]:
    """All of them whose controller is known, as far as they can be asked for: where there is no engine or no cluster
    that answers, nothing of ours can be removed either.
    """
    yield from _containers()
    yield from _namespaces()


def _run(run_id: str, driver: str, mode: str, controller: str, **facts: str) -> Iterator[registry.Run]:
    if (process := ProcessId.from_text(controller)) is not None:
        yield registry.Run(run_id, driver, replicated().to_dict(), mode, process, facts=facts)


def _containers() -> Iterator[registry.Run]:
    from laila.lab.drivers import engine

    try:
        client = engine.connect(timeout=10)
    except LabError:
        return
    try:
        found = list(engine.labelled_runs(client))
    finally:
        client.close()
    for run_id, mode, controller in found:
        yield from _run(run_id, "docker", mode, controller)


def _namespaces() -> Iterator[registry.Run]:
    home = registry.home_id()
    if not home:
        return  # no namespace was ever made from here
    from laila.lab.drivers.kubernetes import objects
    from laila.lab.drivers.kubernetes.cluster import Cluster

    try:
        cluster = Cluster()
    except LabError:
        return
    try:
        found = list(objects.labelled_runs(cluster.namespaces(objects.RUN_LABEL), home))
    except LabError:
        return
    finally:
        cluster.close()
    for run_id, mode, controller in found:
        yield from _run(
            run_id, "kubernetes", mode, controller, context=cluster.context, kubeconfig=cluster.paths()
        )
