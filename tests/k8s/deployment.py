"""One of our overlays in a namespace of its own on a real cluster, applied as `kubectl apply -k` does."""

from __future__ import annotations

import copy
import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rendering import render, tree

from laila.errors import LabError
from laila.lab.drivers.base import Output
from laila.lab.drivers.kubernetes import pods
from laila.lab.drivers.kubernetes.cluster import Cluster
from laila.lab.drivers.kubernetes.exec import Program, run_to_end

IMAGE = os.environ.get("LAILA_TEST_IMAGE", "laila-node:dev")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
VOLUMES = 6
CLIENT = "client"
LOAD = """
import json, os, sys, threading, time
from laila import ReplicatedStore
from laila.errors import QuorumLost
from laila.maif import create_maif

secret = open(os.environ["LAILA_SECRET_FILE"]).read().strip()
store = ReplicatedStore(os.environ["LAILA_REPLICATED"].split(","), secret=secret)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.set()), daemon=True).start()
acknowledged, refused, longest, last = [], 0, 0.0, time.monotonic()
while not ended.is_set():
    name = f"load-{len(acknowledged) + refused}"
    artifact = create_maif(name)
    artifact.add_text(name)
    try:
        store.save(name, artifact)
    except Exception as error:
        refused += 1
        print(json.dumps({"refused": type(error).__name__, "why": str(error)[:200]}), flush=True)
        continue
    acknowledged.append(name)
    longest, last = max(longest, time.monotonic() - last), time.monotonic()
    print(json.dumps({"saved": name}), flush=True)
lost, until = [], time.monotonic() + 60
for name in acknowledged:
    while True:
        try:
            store.load(name)
        except QuorumLost:  # just now too few answer: nothing is known of it
            if time.monotonic() < until:
                time.sleep(0.5)
                continue
            lost.append(f"{name}: no quorum")
        except Exception as error:
            lost.append(f"{name}: {error}")
        break
print(json.dumps({"acknowledged": len(acknowledged), "refused": refused, "lost": lost, "longest": longest}), flush=True)
"""
"""Saves until it is told to end, then loads all that was acknowledged."""


class Deployment:
    """Use as a context manager: leaving it removes the namespace."""

    def __init__(self, cluster: Cluster, place: Path, overlay: str) -> None:
        self.cluster = cluster
        self.namespace = f"laila-test-{secrets.token_hex(4)}"
        self.place = tree(place)
        self.overlay = self.place / overlay
        self.edits: list[Callable[[dict[str, Any]], None]] = []
        """What is changed in each object before it is applied, as an overlay of one's own would."""
        self._volumes: list[str] = []

    def __enter__(self) -> Deployment:
        body = {"metadata": {"name": self.namespace, "labels": RESTRICTED}}
        self.cluster.ask("make a namespace", self.cluster.core.create_namespace, body)
        if not self.cluster.default_class():
            self._make_volumes()
        return self

    def __exit__(self, *exc: object) -> None:
        core = self.cluster.core
        self.cluster.ask(
            "delete", self.cluster.apps.delete_collection_namespaced_stateful_set, self.namespace
        )
        self.cluster.ask(
            "delete", core.delete_collection_namespaced_pod, self.namespace, grace_period_seconds=0
        )
        self.cluster.ask("delete", core.delete_namespace, self.namespace)
        self.until(
            lambda: self.cluster.find("find", core.read_namespace, self.namespace) is None, "the end", 120
        )
        for name in self._volumes:
            self.cluster.find("delete a volume", core.delete_persistent_volume, name)

    def _make_volumes(self) -> None:
        """Directories that every machine sees, claimed by nobody but this namespace."""
        root = os.environ.get("LAILA_TEST_HOSTPATH")
        assert root, (
            "this cluster has no default storage class: set LAILA_TEST_HOSTPATH (tests/k8s/conftest.py)"
        )
        for number in range(VOLUMES):
            name = f"{self.namespace}-{number}"
            place = Path(root) / name
            place.mkdir()
            place.chmod(0o777)
            claim = {"namespace": self.namespace, "name": f"state-laila-{number}"}
            spec = {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": str(place)},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": claim,
            }
            body = {"metadata": {"name": name}, "spec": spec}
            self.cluster.ask("make a volume", self.cluster.core.create_persistent_volume, body)
            self._volumes.append(name)

    def directory(self, number: int) -> Path | None:
        """Where the volume of one pod lies, when these tests made it."""
        return Path(os.environ["LAILA_TEST_HOSTPATH"]) / self._volumes[number] if self._volumes else None

    # -- applying

    def apply(self, *, only: Callable[[dict[str, Any]], bool] = lambda thing: True) -> None:
        from kubernetes import dynamic

        client = dynamic.DynamicClient(self.cluster.api)
        for thing in render(self.overlay):
            made = copy.deepcopy(thing)
            self._fit(made)
            for edit in self.edits:
                edit(made)
            if not only(made):
                continue
            kind = client.resources.get(api_version=made["apiVersion"], kind=made["kind"])
            client.server_side_apply(
                kind, body=made, namespace=self.namespace, field_manager="test", force_conflicts=True
            )

    def _fit(self, thing: dict[str, Any]) -> None:
        thing["metadata"]["namespace"] = self.namespace
        if thing["kind"] == "StatefulSet":
            for container in thing["spec"]["template"]["spec"]["containers"]:
                container["image"] = IMAGE

    def edit(self, kind: str, change: Callable[[dict[str, Any]], None]) -> None:
        self.edits.append(lambda thing: change(thing) if thing["kind"] == kind else None)

    def new_secret(self, word: str) -> None:
        subprocess.run([self.place / "new-secret", word], check=True, capture_output=True)

    # -- looking

    def pod(self, name: str) -> Any | None:
        return self.cluster.find(f"find {name}", self.cluster.core.read_namespaced_pod, name, self.namespace)

    def ready(self, name: str) -> bool:
        pod = self.pod(name)
        if pod is None or pod.metadata.deletion_timestamp is not None:
            return False
        return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())

    def nodes(self) -> Any:
        read = self.cluster.apps.read_namespaced_stateful_set
        return self.cluster.ask("find the nodes", read, "laila", self.namespace)

    def rolled_out(self) -> bool:
        """As `kubectl rollout status` sees it."""
        found = self.nodes()
        wanted, status = found.spec.replicas, found.status
        return (
            status.observed_generation == found.metadata.generation
            and (status.updated_replicas or 0) == wanted
            and (status.ready_replicas or 0) == wanted
            and (status.replicas or 0) == wanted
            and status.current_revision == status.update_revision
        )

    def wait_rolled_out(self, timeout: float = 300) -> None:
        self.until(self.rolled_out, f"the rollout; now {self.told()}", timeout)

    def told(self) -> str:
        """All pods in a few words."""
        listed = self.cluster.ask("list pods", self.cluster.core.list_namespaced_pod, self.namespace).items
        return "; ".join(f"{one.metadata.name}: {pods.progress(one)}" for one in listed)

    def log(self, name: str, *, previous: bool = False) -> str:
        """Empty as long as the container is being made."""
        read = self.cluster.core.read_namespaced_pod_log
        try:
            answer = self.cluster.find(
                "log", read, name, self.namespace, previous=previous, _preload_content=False
            )
        except LabError as error:
            if self.cluster.status(error) == 400:
                return ""
            raise
        return "" if answer is None else answer.data.decode("utf-8", "replace")

    def exec(self, pod: str, *argv: str, timeout: float = 60, container: str = "node") -> Output:
        def start() -> Program:
            return Program(self.cluster, self.namespace, pod, container, argv, stdin=False)

        return run_to_end(start, timeout, f"`{' '.join(argv)}` in {pod}", end=lambda: None, first=False)

    def laila(self, pod: str, *argv: str, timeout: float = 60) -> str:
        done = self.exec(pod, "laila", *argv, timeout=timeout)
        assert done.code == 0, f"laila {' '.join(argv)} in {pod}: {done}"
        return done.stdout.decode()

    def sees(self, pod: str) -> list[str]:
        """Names of the peers to which its links are up."""
        try:
            told = json.loads(self.exec(pod, "laila", "peers", "--json").stdout)
        except (LabError, ValueError):
            return []
        listed = told if isinstance(told, list) else told["peers"]
        up = [one["peer_name"] for one in listed if one["state"] == "up"]
        return sorted(name for name in up if name.startswith("laila-"))  # the load is a peer too

    def wait_linked(self, names: Sequence[str], timeout: float = 120) -> None:
        """Every directed link between these is up."""

        def linked() -> bool:
            return all(self.sees(one) == sorted(set(names) - {one}) for one in names)

        try:
            self.until(linked, f"all links of {', '.join(names)}", timeout)
        except AssertionError as error:
            seen = {one: self.exec(one, "laila", "peers").stdout.decode() for one in names}
            raise AssertionError(f"{error}; {seen}") from None

    def until(self, done: Callable[[], object], what: str, timeout: float) -> float:
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < timeout, f"waited {timeout} s for {what}: {self.told()}"
            time.sleep(0.3)
        return time.monotonic() - began

    # -- working on it

    def delete_pod(self, name: str, **more: Any) -> str:
        """The uid of the pod that was deleted."""
        uid = str(self.pod(name).metadata.uid)  # type: ignore[union-attr]
        self.cluster.ask("delete", self.cluster.core.delete_namespaced_pod, name, self.namespace, **more)
        return uid

    def evict(self, name: str) -> int:
        """0 when it is evicted, else the API server's status."""
        body = {"metadata": {"name": name}}
        try:
            self.cluster.ask(
                "evict", self.cluster.core.create_namespaced_pod_eviction, name, self.namespace, body
            )
        except LabError as error:
            return self.cluster.status(error)
        return 0

    def wait_other_pod(self, name: str, uid: str, timeout: float = 180) -> None:
        def other() -> bool:
            pod = self.pod(name)
            return pod is not None and pod.metadata.uid != uid and self.ready(name)

        self.until(other, f"another {name} to be ready", timeout)

    def secret_name(self) -> str:
        volumes = self.nodes().spec.template.spec.volumes
        return str(next(one.secret.secret_name for one in volumes if one.name == "secret"))

    def start_client_elsewhere(self, machine: str) -> None:
        """The client, on another machine than this one."""
        if (pod := self.pod(CLIENT)) is not None:
            if pod.spec.node_name != machine:
                return
            self.cluster.ask("delete", self.cluster.core.delete_namespaced_pod, CLIENT, self.namespace)
            self.until(lambda: self.pod(CLIENT) is None, "the client to go", 60)
        self.start_client(avoid=machine)

    def start_client(self, avoid: str = "") -> None:
        """A pod of somebody's program: not a node, but a peer."""
        elsewhere = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [avoid]}
        terms = {"nodeSelectorTerms": [{"matchExpressions": [elsewhere]}]}
        affinity = (
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}} if avoid else {}
        )
        replicated = ",".join(
            f"laila://laila-{number}.laila-peers.{self.namespace}.svc:7400/store" for number in range(3)
        )
        body = {
            "metadata": {"name": CLIENT, "labels": {"laila.peer": "allowed"}},
            "spec": {
                "automountServiceAccountToken": False,
                "affinity": affinity,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {
                    "runAsNonRoot": True,
                    "fsGroup": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": CLIENT,
                        "image": IMAGE,
                        "command": ["sleep", "infinity"],
                        "env": [
                            {"name": "LAILA_SECRET_FILE", "value": "/run/secrets/laila/secret"},
                            {"name": "LAILA_REPLICATED", "value": replicated},
                        ],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [{"name": "secret", "mountPath": "/run/secrets/laila"}],
                    }
                ],
                "volumes": [
                    {"name": "secret", "secret": {"secretName": self.secret_name(), "defaultMode": 0o440}}
                ],
            },
        }
        self.cluster.ask("make a client", self.cluster.core.create_namespaced_pod, self.namespace, body)
        self.until(lambda: pods.runs(self.pod(CLIENT), CLIENT), "the client", 120)

    @contextmanager
    def load(self, least: int = 20) -> Iterator[Load]:
        """Saves go on while the block does; after it nothing acknowledged is missing."""
        if self.pod(CLIENT) is None:
            self.start_client()
        work = Load(
            Program(self.cluster, self.namespace, CLIENT, CLIENT, ["python3", "-c", LOAD], stdin=True)
        )
        self.until(lambda: work.saved >= 3, f"the load to begin; {work.said[-3:]} {work.complaints}", 60)
        try:
            yield work
            before = work.saved
            self.until(lambda: work.saved > before, f"a save after it; {work.said[-3:]}", 60)
            work.end()
        finally:
            work.close()
        assert not work.result["lost"], f"acknowledged, and not given any more: {work.result['lost']}"
        assert work.result["acknowledged"] >= least, work.result


class Load:
    """What a program that saves has said."""

    def __init__(self, program: Program) -> None:
        self.said: list[dict[str, Any]] = []
        self.complaints = b""
        self.saved = 0
        self.result: dict[str, Any] = {}
        self._program = program
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        pending = b""
        for stream, data in self._program.frames():
            if stream != 1:
                self.complaints += data
                continue
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                self.said.append(told)
                self.saved += "saved" in told
                if "acknowledged" in told:
                    self.result = told

    def end(self) -> None:
        self._program.send(b"\n")
        self._reader.join(180)
        assert self.result, f"the load did not end: {self.said[-3:]} {self.complaints!r}"

    def close(self) -> None:
        self._program.close()
        self._reader.join(5)
