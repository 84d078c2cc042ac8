"""What `kubectl apply -k` would send, as plain objects, and how to find one's way in them."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTERS = {
    "replicated": "overlays/replicated",
    "shared-volume": "overlays/shared-volume",
    "kind": "overlays/kind",
    "production": "overlays/production",
    "external-secrets": "examples/external-secrets",
}
"""Everything that is a whole cluster of nodes."""
OBSERVABILITY = "observability"


def others() -> list[str]:
    """Whatever else can be applied by itself."""
    found = []
    for file in sorted((ROOT / "k8s").rglob("kustomization.yaml")):
        place = str(file.parent.relative_to(ROOT / "k8s"))
        whole = yaml.safe_load(file.read_text())["kind"] == "Kustomization"
        if whole and place not in {"base", *CLUSTERS.values()}:
            found.append(place)
    return found


NAMESPACE = "somewhere"
"""No object names a namespace; in these tests they are applied to this one."""

Thing = dict[str, Any]


def tree(to: Path) -> Path:
    """A copy of k8s/ with a new secret: tests never write into the checkout."""
    ignored = shutil.ignore_patterns("*.txt", ".*.new")
    shutil.copytree(ROOT / "k8s", to, ignore=ignored)
    subprocess.run([to / "new-secret"], check=True, capture_output=True)
    return to


def render(directory: Path) -> list[Thing]:
    """By a real kustomize. In CI a missing one is a failure, elsewhere a skip."""
    done = subprocess.run([ROOT / "tools/kustomize", directory], capture_output=True, text=True, timeout=300)
    if done.returncode == 3 and not os.environ.get("CI"):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


class Manifests:
    """The objects of one rendered cluster."""

    def __init__(self, things: list[Thing]) -> None:
        self.things = things

    def copy(self) -> Manifests:
        return Manifests(copy.deepcopy(self.things))

    def all(self, kind: str) -> list[Thing]:
        return [thing for thing in self.things if thing["kind"] == kind]

    def one(self, kind: str) -> Thing:
        found = self.all(kind)
        assert len(found) == 1, f"{len(found)} objects of kind {kind}"
        return found[0]

    def named(self, kind: str, name: str) -> Thing:
        found = [thing for thing in self.all(kind) if thing["metadata"]["name"] == name]
        assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
        return found[0]

    @property
    def nodes(self) -> Thing:
        return self.one("StatefulSet")["spec"]

    @property
    def pod(self) -> Thing:
        return self.nodes["template"]["spec"]

    @property
    def pod_labels(self) -> dict[str, str]:
        return self.nodes["template"]["metadata"]["labels"]

    @property
    def node(self) -> Thing:
        (container,) = self.pod["containers"]
        return container

    @property
    def env(self) -> list[Thing]:
        return self.node.get("env", [])

    @property
    def settings(self) -> Thing:
        """The data of the ConfigMap that the container has in its environment."""
        (source,) = self.node["envFrom"]
        return self.named("ConfigMap", source["configMapRef"]["name"])["data"]

    @property
    def pods(self) -> list[str]:
        name = self.one("StatefulSet")["metadata"]["name"]
        return [f"{name}-{number}" for number in range(self.nodes["replicas"])]

    def mounted(self) -> dict[str, Thing]:
        """Where -> the volume there, or {"claim": the template}."""
        volumes: dict[str, Thing] = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        for claim in self.nodes.get("volumeClaimTemplates", []):
            volumes[claim["metadata"]["name"]] = {"claim": claim}
        return {mount["mountPath"]: volumes[mount["name"]] for mount in self.node["volumeMounts"]}

    def volume_of(self, path: str) -> Thing:
        """The volume that `path` lies on; {} where it is the image's own, read-only one."""
        mounted = self.mounted()
        above = [at for at in mounted if path == at or path.startswith(f"{at}/")]
        return mounted[max(above, key=len)] if above else {}

    def environment(self, pod: str, image: Mapping[str, str]) -> dict[str, str]:
        """What the container's process has in its environment, as the kubelet makes it."""
        found = {**image, **self.settings}
        fields = {"metadata.name": pod, "metadata.namespace": NAMESPACE}
        for one in self.env:
            if "value" in one:
                # what is not known yet stays as it is written
                text = re.sub(r"\$\((\w+)\)", lambda m: found.get(m[1], m[0]), one["value"])
            else:
                text = fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            found[one["name"]] = text
        return found


def matches(selector: Thing, labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one matches everything."""
    assert set(selector) <= {"matchLabels"}, f"these tests know matchLabels only: {selector}"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def quantity(text: str | int) -> float:
    """512Mi, 100m, 1, 10Gi as a number of bytes or cores."""
    units = {"": 1.0, "m": 0.001, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert found, f"{text!r} is no quantity"
    return float(found[1]) * units[found[2]]
