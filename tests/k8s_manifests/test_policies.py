"""Every point that a cluster must have, in every cluster that is shipped; and what each of them has of its own."""

from __future__ import annotations

import pytest
from policies import POLICIES, config_of
from rendering import CLUSTERS, Manifests, quantity

SOFT = "preferredDuringSchedulingIgnoredDuringExecution"
HARD = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_cluster_has_it(clusters: dict[str, Manifests], cluster: str, policy: str) -> None:
    POLICIES[policy](clusters[cluster])


@pytest.mark.parametrize("cluster", ["replicated", "kind", "production", "external-secrets"])
def test_every_node_serves_a_replica_of_one_store(clusters: dict[str, Manifests], cluster: str) -> None:
    """And commands in the pod know all of them, under the addresses that the nodes give for themselves."""
    m = clusters[cluster]
    (replica,) = config_of(m).replicas
    environment = m.environment("laila-1", {})
    members = environment["LAILA_REPLICATED"].split(",")
    assert members == [f"laila://{config_of(m, pod).advertise}/{replica.name}" for pod in m.pods]


def test_all_nodes_see_one_volume(clusters: dict[str, Manifests]) -> None:
    """One claim that many may write, mounted where the nodes offer it for checks."""
    m = clusters["shared-volume"]
    (volume,) = config_of(m).volumes
    claim = m.volume_of(str(volume))["persistentVolumeClaim"]
    spec = m.named("PersistentVolumeClaim", claim["claimName"])["spec"]
    assert spec["accessModes"] == ["ReadWriteMany"]
    assert "storageClassName" not in spec  # nobody's class; the default one, or the user's
    assert str(volume) in m.mounted()
    assert not config_of(m).replicas
    assert "LAILA_REPLICATED" not in m.environment("laila-0", {})


def test_kind_fits_on_one_small_machine(clusters: dict[str, Manifests]) -> None:
    """The image that was loaded, no pod waits for another machine, little is asked for."""
    m = clusters["kind"]
    assert m.node["image"] == "laila-node:dev"
    assert set(m.pod["affinity"]["podAntiAffinity"]) == {SOFT}
    whens = {spread["whenUnsatisfiable"] for spread in m.pod["topologySpreadConstraints"]}
    assert whens == {"ScheduleAnyway"}
    requests = m.node["resources"]["requests"]
    assert m.nodes["replicas"] * quantity(requests["memory"]) <= 512 << 20
    assert m.nodes["replicas"] * quantity(requests["cpu"]) <= 0.2


@pytest.mark.parametrize("cluster", ["production", "external-secrets"])
def test_production_is_strict(clusters: dict[str, Manifests], cluster: str) -> None:
    """No two nodes on one machine, zones evenly, memory that is its own, an image that cannot change, more room."""
    m, simple = clusters[cluster], clusters["replicated"]
    assert set(m.pod["affinity"]["podAntiAffinity"]) == {HARD}
    whens = {
        spread["topologyKey"]: spread["whenUnsatisfiable"] for spread in m.pod["topologySpreadConstraints"]
    }
    assert whens["topology.kubernetes.io/zone"] == "DoNotSchedule"
    resources = m.node["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "@sha256:" in m.node["image"]
    assert room(m) > room(simple)
    assert config_of(m).limits.max_body > config_of(simple).limits.max_body


def room(m: Manifests) -> float:
    (claim,) = m.nodes["volumeClaimTemplates"]
    return quantity(claim["spec"]["resources"]["requests"]["storage"])


def test_a_secret_store_takes_the_place_of_the_files(clusters: dict[str, Manifests]) -> None:
    """Nothing secret is in what is applied, and the rest is production as it is."""
    ours, theirs = clusters["external-secrets"], clusters["production"]
    assert ours.all("Secret") == []
    (external,) = ours.all("ExternalSecret")
    assert external["spec"]["target"]["deletionPolicy"] == "Retain"
    left = ours.copy()
    for volume in left.pod["volumes"]:
        if "secret" in volume:
            assert volume["secret"]["secretName"] == "laila-secret"
            volume["secret"]["secretName"] = theirs.one("Secret")["metadata"]["name"]
    assert left.one("StatefulSet") == theirs.one("StatefulSet")
