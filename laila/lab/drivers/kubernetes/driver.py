"""Nodes as pods of a Kubernetes cluster: one namespace for each run, and in it one StatefulSet for each node.

The first process of a pod is the lab's keeper (`keeper`), and the node its child: so a node can be killed, paused and
started again on its own files, and the kubelet neither mends it nor lets the lab wait longer each time. Programs
beside a node are run as `kubectl exec` does. All of a run is in its namespace, which is removed whole. Faults in
packets are done by an agent in a debug container of the pod, with NET_ADMIN; the namespace admits restricted pods alone
until the first of them is asked for.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from laila.errors import DeadlineExceeded, LabError
from laila.lab import registry
from laila.lab.drivers.base import (
    PEER_PORT,
    STATUS_PORT,
    Address,
    Capabilities,
    Channel,
    Driver,
    Ending,
    Inside,
    Lever,
    NodeState,
    Output,
    wait_until,
)
from laila.lab.drivers.kubernetes import objects, pods
from laila.lab.drivers.kubernetes.cluster import FIELD_MANAGER, Cluster
from laila.lab.drivers.kubernetes.exec import Program, ProgramChannel, run_to_end
from laila.lab.drivers.kubernetes.link import KeeperGone, KeeperLink
from laila.lab.drivers.kubernetes.objects import CODE_DIR, CONTAINER, Object
from laila.lab.drivers.kubernetes.placing import PodPlacement, pod_log
from laila.lab.registry import Run
from laila.lab.topology import PLAIN, Topology

POD_STARTS = 180.0
"""Seconds that a pod may take until it runs: a machine is found, the image pulled, volumes bound."""
NO_MACHINE = 45.0
"""Of these, how long it may have no machine: a cluster that grows by itself takes longer, and then says so."""
GOES = 120.0
"""Seconds that a namespace may take to go."""
AGENT_LEASE = 10.0
_BLOCK = 1 << 20
_KEEPER = Path(__file__).with_name("keeper.py")
_AGENT = Path(__file__).parents[2] / "faults" / "agent.py"
_NO = {
    Lever.MOUNTS: "no debug container sees the mounts of a node's own container; use --driver docker",
    Lever.DISK: "a claim's disk can neither be cut off nor filled for one node alone; use --driver docker or process",
    Lever.CLOCK: "the clocks of pods are those of their machines, and are left alone; use --driver docker or process",
    Lever.LIMITS: "limits of a pod that runs are left to its StatefulSet; use --driver docker or process",
}


def check(topology: Topology) -> None:
    """Raises LabError where no run of it can be made: no client library, cluster, rights, or class for volumes."""
    spec = topology.cluster
    cluster = Cluster(spec.context, spec.kubeconfig)
    try:
        if why := cluster.hindrance():
            raise LabError(f"the kubernetes driver cannot work here: {why}")
        if topology.volumes and not spec.shared_class:
            raise LabError(
                "the nodes share a volume, and no cluster says which of its storage classes can do that: name one with "
                "ReadWriteMany by --shared-class (`kubectl get storageclass` lists them all)"
            )
    finally:
        cluster.close()


class KubernetesDriver(Driver):
    """See the top of this file."""

    name: ClassVar[str] = "kubernetes"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=True,
        own_filesystem=True,
        resource_limits=True,
        cut=True,
        pods=True,
        volume_kinds=(PLAIN,),
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        spec, facts = topology.cluster, run.facts
        self.cluster = Cluster(
            str(facts.get("context") or spec.context), str(facts.get("kubeconfig") or spec.kubeconfig)
        )
        self.namespace = objects.namespace_name(run.run_id)
        self._links: dict[str, KeeperLink] = {}
        self._cuts: dict[str, Any] = {}
        self._linking = threading.Lock()
        self._debugging: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def close(self) -> None:
        """Let go of the connections; the nodes go on, and what is cut off is joined again."""
        for agent in self._cuts.values():
            agent.close(5.0)
        self._cuts.clear()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self.cluster.close()

    # -- the run

    def prepare(self) -> None:
        core = self.cluster.core
        self.note(context=self.cluster.context, kubeconfig=self.cluster.paths(), namespace=self.namespace)
        self._make(
            "make a namespace",
            core.create_namespace,
            objects.namespace(self.run, registry.home_id(make=True)),
        )
        every = (*self.topology.nodes, self.topology.stranger)
        for name in sorted({node.secret for node in every}):
            made = objects.secret(self.run, name, secrets.token_urlsafe(32) + "\n")
            self._make_here("make a secret", core.create_namespaced_secret, made)
        files = {"keeper.py": _KEEPER.read_bytes(), "agent.py": _AGENT.read_bytes()}
        self._make_here("make a ConfigMap", core.create_namespaced_config_map, objects.code(self.run, files))
        account = objects.service_account(self.run)
        self._make_here("make an account", core.create_namespaced_service_account, account)
        self._make_here("make a service", core.create_namespaced_service, objects.service(self.run))
        for policy in objects.policies(self.run):
            self._make_here(
                "make a network policy", self.cluster.network.create_namespaced_network_policy, policy
            )
        budget = objects.budget(self.run)
        self._make_here("make a budget", self.cluster.policy.create_namespaced_pod_disruption_budget, budget)
        self._claim([node.name for node in every])

    def _claim(self, names: Sequence[str]) -> None:
        """Claims for states, where there is a class for them, and for volumes."""
        spec = self.topology.cluster
        state_class = self._state_class()
        made = partial(
            self._make_here, "make a claim", self.cluster.core.create_namespaced_persistent_volume_claim
        )
        for name in names if state_class else ():
            made(objects.claim(self.run, f"state-{name}", "ReadWriteOnce", objects.STATE_SIZE, state_class))
        unlimited = {}
        for volume in self.topology.volumes:
            if volume.read_only_of:
                continue
            size = f"{volume.size_mib}Mi" if volume.size_mib else "1Gi"
            made(objects.claim(self.run, f"volume-{volume.name}", "ReadWriteMany", size, spec.shared_class))
            if volume.size_mib:
                unlimited[volume.name] = "most clusters do not hold a claim to its size"
        self.note(claimed=bool(state_class), hindrances=unlimited)

    def remove(self) -> list[str]:
        for agent in self._cuts.values():
            agent.close(2.0)
        self._cuts.clear()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self.placement.uncordon()
        if self._found_namespace() is None:
            return self.remains()
        mine = {"label_selector": f"{objects.RUN_LABEL}={self.run.run_id}"}
        gone = partial(self.cluster.find, "remove what this run made")
        gone(self.cluster.apps.delete_collection_namespaced_stateful_set, self.namespace, **mine)
        gone(
            self.cluster.core.delete_collection_namespaced_pod, self.namespace, grace_period_seconds=0, **mine
        )
        gone(self.cluster.core.delete_namespace, self.namespace)
        with contextlib.suppress(DeadlineExceeded):
            wait_until(lambda: self._found_namespace() is None, GOES, f"{self.namespace} to go", every=0.3)
        return self.remains()

    def remains(self) -> list[str]:
        closed = [f"cordoned machine {machine}" for machine in self.placement.cordoned()]
        if self._found_namespace() is None:
            return closed
        core, found = self.cluster.core, [f"namespace {self.namespace}", *closed]
        kinds: dict[str, Callable[..., Any]] = {
            "pod": core.list_namespaced_pod,
            "StatefulSet": self.cluster.apps.list_namespaced_stateful_set,
            "secret": core.list_namespaced_secret,
            "claim": core.list_namespaced_persistent_volume_claim,
        }
        for kind, ask in kinds.items():
            mine = f"{objects.RUN_LABEL}={self.run.run_id}"
            listed = self.cluster.find(f"list each {kind}", ask, self.namespace, label_selector=mine)
            found += [
                f"{kind} {self.namespace}/{one.metadata.name}" for one in (listed.items if listed else ())
            ]
        return sorted(found)

    # -- one node

    def start(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {state.value}")
        if state is NodeState.ABSENT:
            made = objects.stateful_set(
                self.run, self.topology, name, claimed=bool(self.run.facts.get("claimed")), more={}
            )
            self._make_here(f"create {name}", self.cluster.apps.create_namespaced_stateful_set, made)
            self._wait_pod(name)
            self._ask(name, "hello")
            return
        self._wait_pod(name)
        if self._ask(name, "state")["state"] != NodeState.RUNNING.value:
            self._ask(name, "start")

    def _wait_pod(self, name: str) -> None:
        """Until the pod's container runs. Raises LabError with what keeps it."""
        began = time.monotonic()
        while True:
            pod = self._pod(name)
            if pods.runs(pod, CONTAINER):
                return
            why = "" if pod is None else pods.trouble(pod, CONTAINER)
            waited, said = time.monotonic() - began, pods.progress(pod)
            if why:
                raise LabError(f"{name} does not start: {why}")
            if waited > POD_STARTS or (waited > NO_MACHINE and said.startswith("it has no machine")):
                raise LabError(f"{name} did not start within {waited:.0f} s: {said}")
            time.sleep(0.2)

    def wait_ready(self, name: str, timeout: float = 60.0) -> None:
        """See Driver.wait_ready."""
        self.need(name, NodeState.RUNNING, "wait for")

    def stop(self, name: str, grace: float = 10.0) -> int:
        if self.state(name) is NodeState.PAUSED:
            self.resume(name)
        self.need(name, NodeState.RUNNING, "stop")
        code = self._ask(name, "stop", grace=grace, timeout=grace + 20)["code"]
        if code is None:
            raise LabError(f"{name} does not end, not even by SIGKILL")
        return int(code)

    def kill(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"cannot kill {name}: it is {state.value}")
        if left := self._ask(name, "kill")["left"]:
            pids = ", ".join(map(str, left))
            raise DeadlineExceeded(f"waited 5 s for {name} to die of SIGKILL; what lives: {pids}")

    def pause(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "pause")
        if not self._ask(name, "pause")["still"]:
            self._ask(name, "resume")
            raise DeadlineExceeded(f"waited 5 s for {name} to stand still")

    def resume(self, name: str) -> None:
        self.need(name, NodeState.PAUSED, "resume")
        self._ask(name, "resume")
        wait_until(lambda: self.state(name) is not NodeState.PAUSED, 5.0, f"{name} to go on", every=0.02)

    def cut(self, name: str) -> None:
        """By an agent that drops what comes from and goes to the others; without one by a network policy."""
        self.need(name, NodeState.RUNNING, "cut off")
        if self.lever(Lever.PACKETS):
            self._mark(name, "true")
            return
        from laila.lab.faults.hands import Agent  # above this layer: it works with any driver

        others = [ip for other in self._others(name) for ip in self.ips(other)]
        agent = Agent(self, name)
        self._cuts[name] = agent
        rules = [{"peers": others, "direction": "both", "action": "drop"}]
        agent.must("filter", fault="cutoff", rules=rules, timeout=30)

    def rejoin(self, name: str) -> None:
        self.node(name)
        if (agent := self._cuts.pop(name, None)) is not None:
            agent.close()
        else:
            self._mark(name, None)

    def _mark(self, name: str, value: str | None) -> None:
        """Label its pod as cut off, or not."""
        body = {"metadata": {"labels": {objects.CUT_LABEL: value}}}
        doing = f"label the pod of {name}"
        self.cluster.ask(
            doing, self.cluster.core.patch_namespaced_pod, objects.pod_name(name), self.namespace, body
        )

    def _others(self, name: str) -> list[str]:
        """Those with a pod, the stranger too."""
        every = (*self.topology.names, self.topology.stranger.name)
        return [other for other in every if other != name and pods.runs(self._pod(other), CONTAINER)]

    def state(self, name: str) -> NodeState:
        self.node(name)
        if "namespace" not in self.run.facts:
            return NodeState.ABSENT
        linked = name in self._links
        if not linked and not pods.runs(self._pod(name), CONTAINER):
            return self._without_pod(name)
        try:
            return NodeState(self._ask(name, "state")["state"])
        except KeeperGone:
            return self._without_pod(name)

    def _without_pod(self, name: str) -> NodeState:
        find = self.cluster.apps.read_namespaced_stateful_set
        there = self.cluster.find(f"find {name}", find, name, self.namespace)
        return NodeState.ABSENT if there is None else NodeState.EXITED

    def ending(self, name: str) -> Ending:
        """See Driver.ending."""
        self.need(name, NodeState.EXITED, "say what ended")
        with contextlib.suppress(KeeperGone):
            return Ending(self._ask(name, "state")["code"])
        return Ending()

    def logs(self, name: str) -> bytes:
        """With those of pods that this run has replaced, as far as it was told to."""
        self.node(name)
        if "namespace" not in self.run.facts:
            return b""
        saved = self._saved_log(name)
        before = saved.read_bytes() if saved.exists() else b""
        return before + pod_log(self.cluster, self.namespace, name)

    def _saved_log(self, name: str) -> Path:
        return self.run.path / f"{name}.log"

    def address(self, name: str) -> Address:
        """In the cluster's own network, which this machine may not reach."""
        self.node(name)
        return Address(self.ips(name)[0], PEER_PORT, STATUS_PORT)

    def inside(self, name: str) -> Inside:
        self.node(name)
        return Inside(f"127.0.0.1:{PEER_PORT}", f"127.0.0.1:{STATUS_PORT}", objects.SECRET_FILE)

    def door(self, name: str, seen_from: str = "") -> str:
        self.node(name)
        return objects.door(name)

    @property
    def near(self) -> bool:
        """Pods have addresses of the cluster's own network."""
        return False

    def reach(self, name: str, port: int) -> str:
        """Raises LabError: see `near`."""
        pod = objects.pod_name(self.node(name).name)
        forward = f"kubectl -n {self.namespace} port-forward {pod} {port}"
        raise LabError(f"{name} is reached inside the cluster alone; let `{forward}` bring its port here")

    def main_pid(self, name: str) -> int:
        """See Driver.main_pid: its first process is the keeper."""
        return int(self._ask(name, "state")["pid"])

    # -- for faults

    @cached_property
    def placement(self) -> PodPlacement:
        """See Driver.placement."""
        return PodPlacement(self.cluster, self.run.run_id, self._claimed, self._saved_log, self._unlink)

    def _claimed(self) -> bool:
        """Whether states outlive pods; before it is prepared, whether they would."""
        known = self.run.facts.get("claimed")
        return bool(self._state_class() if known is None else known)

    def _state_class(self) -> str:
        return self.topology.cluster.storage_class or self.cluster.default_class()

    def lever(self, lever: Lever) -> str:
        """See Driver.lever."""
        if lever is Lever.PACKETS:
            return self._no_packets
        return _NO.get(lever) or super().lever(lever)

    @cached_property
    def _no_packets(self) -> str:
        """Why no debug container may be had; empty when one may."""
        try:
            wanted = {"patch": ("pods/ephemeralcontainers", "namespaces")}
            missing = [
                f"{verb} {what}"
                for verb, them in wanted.items()
                for what in them
                if not self.cluster.may(verb, "", what)
            ]
        except LabError as error:
            return str(error)
        if not missing:
            return ""
        return (
            f"faults in packets need a debug container with NET_ADMIN, and on {self.cluster.where} you may not "
            f"{' nor '.join(missing)}: ask for these rights (docs/lab-kubernetes.md), or use --driver docker"
        )

    def ips(self, name: str) -> tuple[str, ...]:
        """Of its pod."""
        found = pods.ips(self._living(name))
        if not found:
            raise LabError(f"{name} has no address yet: {pods.progress(self._pod(name))}")
        return found

    def agent(self, name: str) -> Channel:
        """See Driver.agent. It has a lease of ten seconds: a controller that is gone heals."""
        if (state := self.state(name)) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"no fault agent for {name}: it is {state.value}")
        if why := self.lever(Lever.PACKETS):
            raise LabError(f"no fault agent for {name}: {why}")
        with self._debugging[name]:
            container = self._debug(name)
        argv = ["python3", "-I", f"{CODE_DIR}/agent.py", "--lease", f"{AGENT_LEASE:g}"]
        program = Program(self.cluster, self.namespace, objects.pod_name(name), container, argv, stdin=True)
        return ProgramChannel(program, lambda: None)

    def _debug(self, name: str) -> str:
        """The debug container of its pod, made when there is none that runs."""
        pod = self._living(name)
        known = [one.name for one in pod.spec.ephemeral_containers or ()]
        for one in known:
            if pods.runs(pod, one, ephemeral=True):
                return str(one)
        label = {"metadata": {"labels": {objects.ENFORCE: "privileged"}}}
        self.cluster.ask("admit a debug container", self.cluster.core.patch_namespace, self.namespace, label)
        made = f"{objects.AGENT}-{len(known) + 1}"
        body = {"spec": {"ephemeralContainers": [objects.agent(made)]}}
        self.cluster.ask(
            f"put a debug container beside {name}",
            self.cluster.core.patch_namespaced_pod_ephemeralcontainers,
            objects.pod_name(name),
            self.namespace,
            body,
        )

        def works() -> bool:
            pod = self._living(name)
            if why := pods.trouble(pod, made, ephemeral=True):
                raise LabError(f"no fault agent for {name}, because its image {objects.AGENT_IMAGE}: {why}")
            return pods.runs(pod, made, ephemeral=True)

        wait_until(works, 120.0, f"the debug container of {name}", every=0.2)
        return made

    # -- beside a node

    def exec(self, name: str, argv: Sequence[str], *, timeout: float = 30.0) -> Output:
        self.need(name, NodeState.RUNNING, "run a program beside")
        token = secrets.token_hex(8)
        start = partial(self._beside, name, token, argv, stdin=False)
        end = partial(self._end, name, token)
        return run_to_end(start, timeout, f"`{' '.join(argv)}` beside {name}", end=end)

    def open(self, name: str, argv: Sequence[str]) -> Channel:
        self.need(name, NodeState.RUNNING, "run a program beside")
        token = secrets.token_hex(8)
        program = self._beside(name, token, argv, stdin=True)
        return ProgramChannel(program, partial(self._end, name, token), first=True)

    def _beside(self, name: str, token: str, argv: Sequence[str], *, stdin: bool) -> Program:
        words = ["python3", "-BIS", f"{CODE_DIR}/keeper.py", "beside", token, *argv]
        return Program(self.cluster, self.namespace, objects.pod_name(name), CONTAINER, words, stdin=stdin)

    def _end(self, name: str, token: str) -> None:
        self._ask(name, "end", token=token)

    def write(self, name: str, path: str, data: bytes) -> None:
        inner = self._inner(name, path)
        for offset in range(0, len(data) or 1, _BLOCK):
            part = base64.b64encode(data[offset : offset + _BLOCK]).decode()
            self._ask(name, "write", path=inner, data=part, first=offset == 0)

    def read(self, name: str, path: str) -> bytes:
        inner, parts = self._inner(name, path), list[bytes]()
        while not parts or len(parts[-1]) == _BLOCK // 2:
            try:
                told = self._ask(name, "read", path=inner, offset=len(parts) * _BLOCK // 2, limit=_BLOCK // 2)
            except LabError as error:
                raise LabError(f"cannot read {path} of {name}: {error}") from error
            parts.append(base64.b64decode(told["data"]))
        return b"".join(parts)

    def _inner(self, name: str, path: str) -> str:
        self.node(name)
        if path.startswith("/") or ".." in path.split("/"):
            raise LabError(f"{path!r} is not inside the state directory of {name}")
        return path

    def state_path(self, name: str) -> str:
        self.node(name)
        return objects.STATE_DIR

    def volume_path(self, name: str, volume: str) -> str:
        return self.volume(name, volume).at

    def describe(self) -> dict[str, str]:
        listed = self.cluster.find("list its machines", self.cluster.core.list_node)
        facts = [one.status.node_info for one in (listed.items if listed else ())]
        kept = "claims" if self.run.facts.get("claimed") else "directories that go with their pods"
        return {
            "nodes are": "pods",
            "cluster": f"{self.cluster.where}, Kubernetes {self.cluster.version()}",
            "machines": f"{len(facts)}: {', '.join(sorted({one.container_runtime_version for one in facts}))}",
            "image": ", ".join(self.topology.images),
            "kernel": ", ".join(sorted({one.kernel_version for one in facts})),
            "state lies on": kept if "claimed" in self.run.facts else "claims where there is a storage class",
        }

    # -- inside

    def _ask(self, name: str, op: str, **words: Any) -> dict[str, Any]:
        """Of the keeper of a node. Raises KeeperGone, LabError, DeadlineExceeded."""
        with self._linking:
            link = self._links.get(name)
            if link is None:
                link = self._links[name] = KeeperLink(name, partial(self._talk, name))
        return link.ask(op, **words)

    def _talk(self, name: str) -> ProgramChannel:
        if not pods.runs(pod := self._pod(name), CONTAINER):
            raise LabError(pods.progress(pod))
        argv = ["python3", "-BIS", f"{CODE_DIR}/keeper.py", "talk"]
        program = Program(self.cluster, self.namespace, objects.pod_name(name), CONTAINER, argv, stdin=True)
        return ProgramChannel(program, lambda: None)

    def _unlink(self, name: str) -> None:
        with self._linking:
            link = self._links.pop(name, None)
        if link is not None:
            link.close()

    def _pod(self, name: str) -> Any | None:
        self.node(name)
        read = self.cluster.core.read_namespaced_pod
        return self.cluster.find(f"find the pod of {name}", read, objects.pod_name(name), self.namespace)

    def _living(self, name: str) -> Any:
        """Raises LabError."""
        if (pod := self._pod(name)) is None:
            if self.state(name) is NodeState.ABSENT:
                raise LabError(f"{name} was never started")
            raise LabError(f"{name} has no pod now")
        return pod

    def _found_namespace(self) -> Any | None:
        return self.cluster.find("find its namespace", self.cluster.core.read_namespace, self.namespace)

    def _make(self, doing: str, create: Callable[..., Any], body: Object) -> None:
        self.cluster.ask(doing, create, body, field_manager=FIELD_MANAGER)

    def _make_here(self, doing: str, create: Callable[..., Any], body: Object) -> None:
        self.cluster.ask(doing, create, self.namespace, body, field_manager=FIELD_MANAGER)
