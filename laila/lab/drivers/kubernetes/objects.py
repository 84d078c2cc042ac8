"""What a run has in a cluster, as plain objects: made of a topology alone, so that tests need no cluster.

A node's pod agrees with k8s/base/statefulset.yaml in all that is not the lab's own; tests compare them.
What is the lab's: the keeper as first process, which outlives the node; no liveness probe, because a node that the lab
killed or paused must stay so; one StatefulSet for each node, because each has settings of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from laila.lab.drivers.base import PEER_PORT, STATUS_PORT, node_environment
from laila.lab.registry import Run
from laila.lab.topology import Topology

STATE_DIR = "/var/lib/laila"
SECRETS_DIR = "/run/secrets/laila"
SECRET_FILE = f"{SECRETS_DIR}/secret"
CODE_DIR = "/opt/laila-lab"
PLACE = "/run/laila-lab"
UID = 10001
CONTAINER = "node"
AGENT = "faults"
AGENT_IMAGE = "laila-faults:dev"
SERVICE = "nodes"
CODE = "lab"
PART_OF = "app.kubernetes.io/part-of"
MANAGED = "app.kubernetes.io/managed-by"
RUN_LABEL = "laila.lab/run"
MODE_LABEL = "laila.lab/mode"
NODE_LABEL = "laila.lab/node"
CUT_LABEL = "laila.lab/cut"
CONTROLLER = "laila.lab/controller"
HOME = "laila.lab/home"
"""Annotations: no label may have such a text."""
CORDON = "laila.lab/cordoned-by"
"""An annotation of a machine that a run has closed."""
ENFORCE = "pod-security.kubernetes.io/enforce"
GRACE = 30
STATE_SIZE = "1Gi"

Object = dict[str, Any]


def namespace_name(run_id: str) -> str:
    return f"laila-lab-{run_id}"


def pod_name(node: str) -> str:
    return f"{node}-0"


def labels(run: Run, node: str = "") -> dict[str, str]:
    found = {
        "app.kubernetes.io/name": "laila",
        PART_OF: "laila",
        MANAGED: "laila-lab",
        RUN_LABEL: run.run_id,
        MODE_LABEL: run.mode,
    }
    return {**found, "app.kubernetes.io/component": "node", NODE_LABEL: node} if node else found


def namespace(run: Run, home: str) -> Object:
    """Restricted, until a fault needs more. `home` is the registry that has the run's record."""
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace_name(run.run_id),
            "labels": {**labels(run), **levels},
            "annotations": {CONTROLLER: str(run.controller), HOME: home},
        },
    }


def labelled_runs(heads: Iterable[Mapping[str, Any]], home: str) -> Iterator[tuple[str, str, str]]:
    """(run id, mode, controller) of what `namespace` made for this registry, of the metadata of namespaces."""
    for one in heads:
        labels, notes = one.get("labels", {}), one.get("annotations", {})
        run_id = labels.get(RUN_LABEL, "")
        if run_id and one["name"] == namespace_name(run_id) and notes.get(HOME) == home:
            yield run_id, labels.get(MODE_LABEL, ""), notes.get(CONTROLLER, "")


def secret(run: Run, name: str, text: str) -> Object:
    return {
        **_head("v1", "Secret", run, f"secret-{name}"),
        "immutable": True,
        "stringData": {"secret": text},
    }


def code(run: Run, files: Mapping[str, bytes]) -> Object:
    """The lab's own programs, for the nodes' pods."""
    packed = {name: base64.b64encode(data).decode() for name, data in files.items()}
    return {**_head("v1", "ConfigMap", run, CODE), "immutable": True, "binaryData": packed}


def service_account(run: Run) -> Object:
    return {**_head("v1", "ServiceAccount", run, "laila"), "automountServiceAccountToken": False}


def service(run: Run) -> Object:
    """Gives every pod a name; also of those that are not ready: to become so they need each other."""
    ports = [("peers", PEER_PORT), ("status", STATUS_PORT)]
    return {
        **_head("v1", "Service", run, SERVICE),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN_LABEL: run.run_id},
            "ports": [
                {"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in ports
            ],
        },
    }


def budget(run: Run) -> Object:
    return {
        **_head("policy/v1", "PodDisruptionBudget", run, "laila"),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {RUN_LABEL: run.run_id}}},
    }


def policies(run: Run) -> list[Object]:
    """Nodes of a run reach each other and DNS, and nobody else; one with the label of those cut off reaches nobody."""
    whole = {"matchExpressions": [{"key": CUT_LABEL, "operator": "DoesNotExist"}]}
    every = [{"podSelector": whole}]
    names = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
    alone = {"matchExpressions": [{"key": CUT_LABEL, "operator": "Exists"}]}
    both = ["Ingress", "Egress"]
    head = "networking.k8s.io/v1"
    return [
        {
            **_head(head, "NetworkPolicy", run, "laila"),
            "spec": {
                "podSelector": whole,
                "policyTypes": both,
                "ingress": [{"from": every}],
                "egress": [{"to": every}, names],
            },
        },
        {
            **_head(head, "NetworkPolicy", run, "cut-off"),
            "spec": {"podSelector": alone, "policyTypes": both, "ingress": [], "egress": []},
        },
    ]


def claim(run: Run, name: str, mode: str, size: str, storage_class: str) -> Object:
    spec: Object = {"accessModes": [mode], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {**_head("v1", "PersistentVolumeClaim", run, name), "spec": spec}


def door(name: str) -> str:
    return f"{pod_name(name)}.{SERVICE}:{PEER_PORT}"


def environment(topology: Topology, name: str) -> dict[str, str]:
    spec = topology.node(name)
    places = {volume.name: volume.at for volume in topology.volumes_of(name)}
    return node_environment(
        spec,
        topology,
        listen=f"0.0.0.0:{PEER_PORT}",
        advertise=door(name),
        status=f"0.0.0.0:{STATUS_PORT}",
        peers=[door(peer) for peer in spec.peers],
        places={**places, "state": STATE_DIR, "secret": SECRET_FILE},
    )


def stateful_set(
    run: Run, topology: Topology, name: str, *, claimed: bool, more: Mapping[str, str]
) -> Object:
    """One node. Its state lies on a claim when `claimed`, else in a directory that goes with its pod; `more` is added
    to its environment.
    """
    selected = {RUN_LABEL: run.run_id, NODE_LABEL: name}
    return {
        **_head("apps/v1", "StatefulSet", run, name),
        "spec": {
            "serviceName": SERVICE,
            "replicas": 1,
            "selector": {"matchLabels": selected},
            "podManagementPolicy": "Parallel",
            "template": {
                "metadata": {
                    "labels": labels(run, name),
                    "annotations": {"kubectl.kubernetes.io/default-container": CONTAINER},
                },
                "spec": _pod(topology, name, claimed=claimed, more=more),
            },
        },
    }


def _pod(topology: Topology, name: str, *, claimed: bool, more: Mapping[str, str]) -> Object:
    secret_name = topology.node(name).secret
    memory = {"medium": "Memory", "sizeLimit": "64Mi"}
    state: Object = (
        {"persistentVolumeClaim": {"claimName": f"state-{name}"}}
        if claimed
        else {"emptyDir": {"sizeLimit": STATE_SIZE}}
    )
    volumes = [
        {"name": "state", **state},
        {"name": "secret", "secret": {"secretName": f"secret-{secret_name}", "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": memory},
        {"name": "place", "emptyDir": memory},
        {"name": CODE, "configMap": {"name": CODE, "defaultMode": 0o444}},
    ]
    mounted = topology.volumes_of(name)
    claims = dict.fromkeys(volume.read_only_of or volume.name for volume in mounted)
    volumes += [
        {"name": f"volume-{one}", "persistentVolumeClaim": {"claimName": f"volume-{one}"}} for one in claims
    ]
    return {
        "serviceAccountName": "laila",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": _apart(),
        "containers": [_container(topology, name, more)],
        "volumes": volumes,
    }


def _apart() -> Object:
    """Two nodes on one machine fail together; where there are fewer machines than nodes they share."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {MANAGED: "laila-lab"}}}
    terms = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def _container(topology: Topology, name: str, more: Mapping[str, str]) -> Object:
    limits = topology.resources
    settings = {**environment(topology, name), "LAILA_LAB_PLACE": PLACE, **more}
    mounts: list[Object] = [
        {"name": "state", "mountPath": STATE_DIR},
        {"name": "secret", "mountPath": SECRETS_DIR, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a tmpfs of the container's own
        {"name": "place", "mountPath": PLACE},
        {"name": CODE, "mountPath": CODE_DIR, "readOnly": True},
    ]
    for volume in topology.volumes_of(name):
        mount: Object = {"name": f"volume-{volume.read_only_of or volume.name}", "mountPath": volume.at}
        mounts.append({**mount, "readOnly": True} if volume.read_only_of else mount)
    return {
        "name": CONTAINER,
        "image": topology.image_of(name),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-BIS", f"{CODE_DIR}/keeper.py", "keep", "laila", "node"],
        "env": [{"name": key, "value": value} for key, value in settings.items()],
        "ports": [
            {"name": "peers", "containerPort": PEER_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": STATUS_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "status"},
            "periodSeconds": 5,
            "timeoutSeconds": 7,
            "failureThreshold": 2,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "25m", "memory": "96Mi"},
            "limits": {"cpu": f"{limits.cpus:g}", "memory": f"{limits.memory_mib}Mi"},
        },
        "volumeMounts": mounts,
    }


def agent(name: str, image: str = AGENT_IMAGE) -> Object:
    """A debug container in which fault agents run: in the pod's network, with the right to change it, and no more."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "infinity"],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            # The second for an older iptables.
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": CODE, "mountPath": CODE_DIR, "readOnly": True}],
    }


def _head(version: str, kind: str, run: Run, name: str) -> Object:
    metadata = {"name": name, "namespace": namespace_name(run.run_id), "labels": labels(run)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
