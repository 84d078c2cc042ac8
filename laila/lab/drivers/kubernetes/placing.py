"""Pods that are replaced, and machines that are drained: what a cluster does to nodes that nobody killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.kubernetes import objects
from laila.lab.drivers.kubernetes.cluster import Cluster
from laila.lab.drivers.placement import Placement, Pod

GOES = 60.0
"""Seconds that a pod may take to go: twice its grace."""
_AGAIN = 0.5
"""Seconds until an eviction is asked for again that the budget refused."""
_REPLACING = (("delete", "", "pods"), ("create", "", "pods/eviction"), ("patch", "apps", "statefulsets"))
_DRAINING = (("get", "", "nodes"), ("list", "", "nodes"), ("patch", "", "nodes"))


class PodPlacement(Placement):
    """`claimed` says whether the nodes' states outlive their pods; `replaced` is called with a node whose pod has gone;
    what the old pod wrote is added to the file that `log` names.
    """

    def __init__(
        self,
        cluster: Cluster,
        run_id: str,
        claimed: Callable[[], bool],
        log: Callable[[str], Path],
        replaced: Callable[[str], None],
    ) -> None:
        self.cluster = cluster
        self.run_id = run_id
        self.namespace = objects.namespace_name(run_id)
        self._claimed = claimed
        self._log = log
        self._replaced = replaced

    def hindrance(self) -> str:
        """See Placement.hindrance."""
        try:
            if not self._claimed():
                return (
                    "what nodes keep would go with their pods, because this cluster has no default storage class: name "
                    "one by --storage-class"
                )
            return self._missing(_REPLACING)
        except LabError as error:
            return str(error)

    def no_draining(self) -> str:
        """See Placement.no_draining."""
        try:
            return self._missing(_DRAINING)
        except LabError as error:
            return str(error)

    def _missing(self, rights: tuple[tuple[str, str, str], ...]) -> str:
        missing = [
            f"{verb} {what}" for verb, group, what in rights if not self.cluster.may(verb, group, what)
        ]
        if not missing:
            return ""
        return (
            f"on {self.cluster.where} you may not {' nor '.join(missing)}: ask for these rights "
            "(docs/lab-kubernetes.md)"
        )

    def pod(self, name: str) -> Pod | None:
        """See Placement.pod."""
        found = self._found(name)
        return None if found is None else Pod(str(found.metadata.uid), str(found.spec.node_name or ""))

    def _found(self, name: str) -> Any | None:
        read = self.cluster.core.read_namespaced_pod
        return self.cluster.find(f"find the pod of {name}", read, objects.pod_name(name), self.namespace)

    def roll(self, name: str) -> None:
        """See Placement.roll."""
        stamp = {"kubectl.kubernetes.io/restartedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        body = {"spec": {"template": {"metadata": {"annotations": stamp}}}}
        patch = self.cluster.apps.patch_namespaced_stateful_set
        self._away(name, lambda: self.cluster.ask(f"restart {name}", patch, name, self.namespace, body))

    def delete(self, name: str) -> None:
        """See Placement.delete."""
        pod, delete = objects.pod_name(name), self.cluster.core.delete_namespaced_pod
        self._away(name, lambda: self.cluster.ask(f"delete {pod}", delete, pod, self.namespace))

    def evict(self, name: str, within: float = 60.0) -> None:
        """See Placement.evict."""
        pod = objects.pod_name(name)
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        create = self.cluster.core.create_namespaced_pod_eviction
        deadline = time.monotonic() + within

        def asked() -> None:
            while True:
                try:
                    self.cluster.ask(f"evict {pod}", create, pod, self.namespace, body)
                except LabError as error:
                    if self.cluster.status(error) != 429 or time.monotonic() > deadline:
                        raise
                    time.sleep(_AGAIN)
                else:
                    return

        self._away(name, asked)

    def _away(self, name: str, act: Callable[[], Any]) -> None:
        """Returns when the pod is gone that was there before."""
        before = self.pod(name)
        if before is None:
            raise LabError(f"{name} has no pod that could be replaced")
        words = self._words(name)
        act()
        deadline = time.monotonic() + GOES
        try:
            while self._is(name, before):
                with contextlib.suppress(LabError):  # it may have gone meanwhile
                    words = self._words(name, before) or words
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"waited {GOES:g} s for the pod of {name} to go: {before}")
                time.sleep(0.2)
        finally:
            if not self._is(name, before):
                with self._log(name).open("ab") as log:
                    log.write(words)
                self._replaced(name)

    def _is(self, name: str, before: Pod) -> bool:
        now = self.pod(name)
        return now is not None and now.uid == before.uid

    def _words(self, name: str, of: Pod | None = None) -> bytes:
        """What its pod wrote; nothing when that is not the one which is meant."""
        said = pod_log(self.cluster, self.namespace, name)
        return said if of is None or self._is(name, of) else b""

    # -- machines

    def cordon(self, machine: str) -> None:
        """See Placement.cordon."""
        read = self.cluster.core.read_node
        found = self.cluster.ask(f"find the machine {machine}", read, machine)
        version = str(found.metadata.resource_version)
        if found.spec.unschedulable and not self._ours(found):
            raise LabError(
                f"{machine} is cordoned already, and not by this run: take another node, or uncordon it"
            )
        self._close(machine, True, resourceVersion=version)  # nobody has closed it meanwhile

    def cordoned(self) -> tuple[str, ...]:
        """See Placement.cordoned. Who may not list machines has closed none."""
        try:
            listed = self.cluster.ask("list its machines", self.cluster.core.list_node).items
        except LabError as error:
            if self.cluster.status(error) == 403:
                return ()
            raise
        return tuple(str(one.metadata.name) for one in listed if self._ours(one))

    def uncordon(self, machines: Sequence[str] | None = None) -> None:
        """See Placement.uncordon."""
        for machine in self.cordoned():
            if machines is None or machine in machines:
                self._close(machine, False)

    def _ours(self, machine: Any) -> bool:
        return bool((machine.metadata.annotations or {}).get(objects.CORDON) == self.run_id)

    def _close(self, machine: str, closed: bool, **only: str) -> None:
        mark = {objects.CORDON: self.run_id if closed else None}
        body = {"metadata": {"annotations": mark, **only}, "spec": {"unschedulable": closed}}
        doing = f"{'' if closed else 'un'}cordon {machine}"
        self.cluster.ask(doing, self.cluster.core.patch_node, machine, body)


def pod_log(cluster: Cluster, namespace: str, name: str) -> bytes:
    """All that the pod of a node wrote; nothing when there is none."""

    def whole(*words: str, **more: Any) -> bytes:
        """Read to its end here, so that what breaks off is told as everything else is."""
        answer = cluster.core.read_namespaced_pod_log(*words, _preload_content=False, **more)
        return bytes(answer.data)

    where = (objects.pod_name(name), namespace)
    return cluster.find(f"give the log of {name}", whole, *where, container=objects.CONTAINER) or b""
