"""Every kustomization renders, and every object is one that the API servers of these versions know, field by field."""

from __future__ import annotations

import copy
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from rendering import CLUSTERS, OBSERVABILITY, ROOT, Manifests, Thing, others, render

VERSIONS = ("1.27", "1.30", "1.33", "1.36")
FOREIGN = {
    "external-secrets": {"ExternalSecret"},
    OBSERVABILITY: {"ServiceMonitor", "PrometheusRule"},
}
"""Kinds of others, of which no schema is there."""
OURS = [
    "ConfigMap",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Secret",
    "Service",
    "ServiceAccount",
    "StatefulSet",
]


def validate(thing: Thing, version: str) -> None:
    # the library takes the nearest older schema for a version that it does not have, and says which
    assert kubernetes_validate.validate(thing, version, strict=True) == version


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*CLUSTERS, *others()])
def test_every_object_is_valid(everything: dict[str, Manifests], name: str, version: str) -> None:
    foreign = []
    for thing in everything[name].things:
        try:
            validate(thing, version)
        except kubernetes_validate.SchemaNotFoundError:
            foreign.append(thing["kind"])
    assert set(foreign) == FOREIGN.get(name, set())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_misspelt_field_is_found(clusters: dict[str, Manifests], version: str) -> None:
    """The schemas are strict, or the test above says nothing."""
    things = clusters["replicated"].things
    for thing in things:
        broken = copy.deepcopy(thing)
        broken["colour"] = "blue"
        with pytest.raises(kubernetes_validate.ValidationError):
            validate(broken, version)
    broken = clusters["replicated"].copy()
    broken.node["readinessProbe"]["httpGet"]["port_"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken.one("StatefulSet"), version)


def test_clusters_have_these_objects_and_no_others(clusters: dict[str, Manifests]) -> None:
    more = {"shared-volume": ["PersistentVolumeClaim"], "external-secrets": ["ExternalSecret"]}
    less = {"external-secrets": ["Secret"]}
    for name, manifests in clusters.items():
        wanted = sorted({*OURS, *more.get(name, [])} - {*less.get(name, [])})
        assert sorted(thing["kind"] for thing in manifests.things) == wanted, name


def test_every_overlay_is_a_cluster_that_is_tested() -> None:
    overlays = {f"overlays/{path.name}" for path in (ROOT / "k8s/overlays").iterdir()}
    assert overlays <= set(CLUSTERS.values())
    assert OBSERVABILITY in others()


def test_the_namespace_admits_restricted_pods_only() -> None:
    (namespace,) = yaml.safe_load_all((ROOT / "k8s/namespace.yaml").read_text())
    for version in VERSIONS:
        validate(namespace, version)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_openshift_chooses_user_and_group(k8s: Path, tmp_path: Path) -> None:
    """With that component no uid is asked for, and the rest of the pod stays restricted."""
    place = k8s / "overlays" / "openshift"
    place.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../replicated"],
        "components": ["../../components/openshift"],
    }
    (place / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    m = Manifests(render(place))
    wanted = {
        "runAsNonRoot": True,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert m.pod["securityContext"] == wanted
    for version in VERSIONS:
        for thing in m.things:
            validate(thing, version)
