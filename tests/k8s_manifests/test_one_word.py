"""Image, manifests, settings, compose and the lab's topologies say the same."""

from __future__ import annotations

import image
import pytest
from policies import config_of
from rendering import ROOT, Manifests, quantity

from laila.lab.drivers.docker import NODE_UID
from laila.lab.topology import Topology, replicated, shared_volume

TOPOLOGIES = {"replicated": replicated(), "shared-volume": shared_volume()}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_overlays_and_topologies_say_the_same(clusters: dict[str, Manifests], name: str) -> None:
    """As many nodes with the same pools, replicas, shared volumes, memory and image."""
    m, topology = clusters[name], TOPOLOGIES[name]
    settings, places = m.settings, places_of(topology)
    assert m.nodes["replicas"] == len(topology.nodes)
    assert m.node["image"] == topology.image
    for node in topology.nodes:
        assert set(settings["LAILA_POOLS"].split(",")) == {pool.text(places) for pool in node.pools}
        assert settings.get("LAILA_REPLICAS", "") == ",".join(one.text(places) for one in node.replicas)
    assert settings.get("LAILA_VOLUMES", "") == ",".join(volume.at for volume in topology.volumes)
    assert quantity(m.node["resources"]["limits"]["memory"]) == topology.resources.memory_mib << 20
    assert quantity(m.node["resources"]["limits"]["cpu"]) == topology.resources.cpus


def places_of(topology: Topology) -> dict[str, str]:
    state = image.environment()["LAILA_STATE_DIR"]
    return {"state": state, **{volume.name: volume.at for volume in topology.volumes}}


def test_the_image_is_made_for_these_places(clusters: dict[str, Manifests]) -> None:
    """Settings of the manifests are the image's where it has them; what it makes for the node to write is mounted."""
    m, said = clusters["replicated"], image.environment()
    for name in ("LAILA_LISTEN", "LAILA_STATUS", "LAILA_STATE_DIR"):
        assert m.settings[name] == said[name]
    config = config_of(m)
    assert image.ports() == {config.listen.port, config.status.port}
    mounted = {*m.mounted(), *clusters["shared-volume"].mounted()}
    assert image.directories() <= mounted
    assert said["HOME"] in mounted


def test_the_user_is_one_everywhere(clusters: dict[str, Manifests]) -> None:
    for m in clusters.values():
        assert m.pod["securityContext"]["runAsUser"] == image.user()[0] == NODE_UID


def test_the_guide_names_files_that_are_there() -> None:
    import re

    text = (ROOT / "docs/deploy/kubernetes.md").read_text()
    named = set(re.findall(r"\bk8s/[\w./-]*[\w-]", text))
    assert {"k8s/new-secret", "k8s/overlays/replicated"} <= named
    made = {"k8s/secret/secret.txt", "k8s/secret/also-accept.txt"}
    for place in named - made:
        assert (ROOT / place).exists() or place.startswith("k8s/overlays/mine"), place
