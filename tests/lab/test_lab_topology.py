"""Topologies: shipped ones, those from files, and every way to get one wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from laila.errors import BadConfig
from laila.lab import topology
from laila.lab.topology import NodeSpec, PoolSpec, ReplicaSpec, Resources, Topology, VolumeSpec

COMPOSE = Path(__file__).parents[2] / "compose"


def test_replicated_is_a_full_mesh_of_three() -> None:
    made = topology.load("replicated")
    assert made.names == ("node1", "node2", "node3")
    assert {node.name: node.peers for node in made.nodes}["node2"] == ("node1", "node3")
    assert len(made.directed_links()) == 6
    assert made.stranger.secret != made.nodes[0].secret
    assert made.stranger.peers == made.names


def test_the_number_of_nodes_can_be_chosen() -> None:
    assert topology.load("replicated", 5).names == ("node1", "node2", "node3", "node4", "node5")


@pytest.mark.parametrize("count", [-1, 0, 1, 33])
def test_too_few_and_too_many_nodes_are_refused(count: int) -> None:
    with pytest.raises(BadConfig, match="2 to 32"):
        topology.load("replicated", count)


def test_an_unknown_topology_is_answered_with_those_that_exist() -> None:
    with pytest.raises(BadConfig, match=r"unknown topology 'nope'; there are replicated, shared-volume"):
        topology.load("nope")


@pytest.mark.parametrize("name", sorted(topology.SHIPPED))
def test_a_topology_survives_a_trip_through_json(name: str) -> None:
    made = topology.load(name)
    assert topology.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@pytest.mark.parametrize("kind", topology.VOLUME_KINDS)
def test_the_kind_of_the_shared_volume_can_be_chosen(kind: str) -> None:
    made = topology.shared_volume(3, kind=kind)
    assert [volume.kind for volume in made.volumes] == [kind]
    assert topology.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_nodes_of_a_network_volume_have_the_image_with_its_programs() -> None:
    made = topology.shared_volume(3, kind="glusterfs")
    assert {made.image_of(name) for name in made.names} == {"laila-volumes:dev"}
    assert made.images == ("laila-volumes:dev", "laila-node:dev"), "the stranger's too"
    assert topology.shared_volume(3).images == ("laila-node:dev",)


def test_the_stranger_mounts_what_a_machine_shares_and_no_network_volume() -> None:
    """A network volume is made of the nodes themselves; whoever is not one of them is not let in."""
    plain, networked = topology.shared_volume(3), topology.shared_volume(3, kind="sshfs")
    assert [volume.name for volume in plain.volumes_of("stranger")] == ["shared"]
    assert networked.volumes_of("stranger") == ()
    assert networked.network_volume_of("stranger") is None
    assert [volume.name for volume in networked.volumes_of("node2")] == ["shared"]


def test_a_network_volume_of_some_nodes_is_mounted_by_those() -> None:
    made = topology.from_toml(
        'volumes = [{name = "v", at = "/v", kind = "s3fs", nodes = ["a", "b"]}]\n'
        + "".join(f'[[nodes]]\nname = "{name}"\n' for name in "abc")
    )
    assert [made.image_of(name) for name in made.names] == [made.volumes_image] * 2 + [made.image]


def test_a_file_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"\npeers = []\n', encoding="utf-8")
    made = topology.load(str(path))
    assert (made.name, made.names) == ("mine", ("a", "b"))
    assert (made.nodes[0].peers, made.nodes[1].peers, made.stranger.peers) == (("b",), (), ("a", "b"))


def test_a_file_can_say_everything() -> None:
    text = """
    name = "full"
    image = "mine:1"
    dead_after = 3.5
    [[nodes]]
    name = "a"
    pools = [{name = "durable", kind = "sqlite", path = "{state}/d.sqlite"}]
    secret = "other"
    access = ["deny * durable"]
    replicas = [{name = "store", path = "{state}/r"}]
    [[nodes]]
    name = "b"
    [stranger]
    name = "eve"
    [[volumes]]
    name = "common"
    at = "/mnt/common"
    nodes = ["a"]
    [[volumes]]
    name = "far"
    at = "/mnt/far"
    kind = "glusterfs"
    [resources]
    memory_mib = 256
    """
    made = topology.from_toml(text)
    assert made == Topology(
        name="full",
        image="mine:1",
        dead_after=3.5,
        nodes=(
            NodeSpec(
                "a",
                pools=(PoolSpec("durable", "sqlite", "{state}/d.sqlite"),),
                secret="other",  # noqa: S106  a name
                peers=("b",),
                access=("deny * durable",),
                replicas=(ReplicaSpec("store", "{state}/r"),),
            ),
            NodeSpec("b", peers=("a",)),
        ),
        stranger=NodeSpec("eve", secret="stranger", peers=("a", "b")),  # noqa: S106  a name
        volumes=(
            VolumeSpec("common", "/mnt/common", ("a",)),
            VolumeSpec("far", "/mnt/far", kind="glusterfs"),
        ),
        resources=Resources(memory_mib=256),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not TOML"),
        ("", r"needs \[\[nodes\]\]"),
        ('nodes = "a"', r"needs \[\[nodes\]\]"),
        ('[[nodes]]\nname = "a"', "2 to 32 nodes"),
        ('[[nodes]]\nname = "a"\n[[nodes]]\nname = "a"', "same name"),
        ('[[nodes]]\nname = "A!"\n[[nodes]]\nname = "b"', "lower-case"),
        ('[[nodes]]\nname = "a"\n[[nodes]]\nsecret = "b"', "name"),
        ('[[nodes]]\nname = "a"\npeers = ["x"]\n[[nodes]]\nname = "b"', "'a' cannot dial x"),
        ('[[nodes]]\nname = "a"\npeers = ["a"]\n[[nodes]]\nname = "b"', "'a' cannot dial a"),
        ('colour = "red"\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"', "unknown key colour"),
        ('[[nodes]]\nname = "a"\ncolour = 1\n[[nodes]]\nname = "b"', "unknown key colour; NodeSpec has"),
        ('dead_after = 0\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"', "dead_after"),
        ('stranger = 3\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"', r"\[stranger\] is a table"),
        (
            '[[nodes]]\nname = "a"\npools = [{name = "p", kind = "tape"}]\n[[nodes]]\nname = "b"',
            "none of memory",
        ),
        (
            '[[nodes]]\nname = "a"\npools = [{name = "p", kind = "sqlite"}]\n[[nodes]]\nname = "b"',
            "needs a path",
        ),
        (
            'volumes = [{name = "v", at = "/v", kind = "nfs"}]\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"',
            "kind 'nfs' is none of docker, glusterfs, glusterfs-default, sshfs, s3fs",
        ),
        (
            'volumes = [{name = "v", at = "/v", kind = "sshfs"}, {name = "w", at = "/w", kind = "s3fs"}]\n'
            '[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"',
            "one network volume, not v and w",
        ),
        (
            'volumes = [{name = "v", at = "/v"}, {name = "v", at = "/w"}]\n'
            '[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"',
            "names a volume twice",
        ),
        (
            'volumes = [{name = "v", at = "/v", nodes = ["a", "c"]}]\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"',
            "volume 'v' cannot be mounted by c",
        ),
        (
            'volumes = [{name = "v", at = "/v", kind = "s3fs", nodes = ["a", "stranger"]}]\n'
            '[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"',
            "volume 'v' cannot be mounted by stranger",
        ),
        (
            '[[nodes]]\nname = "a"\nreplicas = [{name = "r"}]\n[[nodes]]\nname = "b"',
            "ReplicaSpec.*path",
        ),
        (
            '[[nodes]]\nname = "a"\nreplicas = [{name = "r", path = "/r"}, {name = "r", path = "/s"}]\n'
            '[[nodes]]\nname = "b"',
            "names a replica twice",
        ),
        ('[resources]\ncpus = 0\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"', "cannot run within"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        topology.from_toml(text)


def test_a_pool_on_a_volume_that_is_not_there_is_refused() -> None:
    pool = PoolSpec("common", "filesystem", "{shared}/pool")
    assert pool.text({"shared": "/mnt/shared"}) == "common=filesystem:/mnt/shared/pool"
    with pytest.raises(BadConfig, match="no volume 'shared'"):
        pool.text({"state": "/x"})


def test_every_node_of_replicated_serves_a_replica_of_one_store() -> None:
    made = topology.replicated()
    texts = {node.name: [one.text({"state": "/s"}) for one in node.replicas] for node in made.nodes}
    assert texts == {
        "node1": ["store=/s/replica"],
        "node2": ["store=/s/replica"],
        "node3": ["store=/s/replica"],
    }
    assert made.stranger.replicas == ()
    assert topology.shared_volume().nodes[0].replica("store") is None
    with pytest.raises(BadConfig, match="replica 'r': no volume 'far'"):
        ReplicaSpec("r", "{far}/r").text({"state": "/s"})


@pytest.mark.parametrize("name", ["replicated", "shared-volume"])
def test_the_compose_files_say_the_same(name: str) -> None:
    """Nodes, pools, peers, image, limits and volume are the same facts in two places: they must not drift apart."""
    made = topology.load(name)
    whole = (COMPOSE / "replicated.yaml").read_text(encoding="utf-8")
    places = {"state": "/var/lib/laila"}
    pools = ",".join(pool.text(places) for pool in made.nodes[0].pools)
    assert f"LAILA_POOLS: {pools}" in whole
    for node in made.nodes:
        assert re.search(rf"LAILA_NAME: {node.name}\n", whole)
        assert f"LAILA_PEERS: {','.join(f'{peer}:7400' for peer in node.peers)}\n" in whole
    assert f"memory: {made.resources.memory_mib}M" in whole
    assert f"pids: {made.resources.pids}" in whole
    assert f'cpus: "{made.resources.cpus}"' in whole
    assert made.image in whole
    own = (COMPOSE / f"{name}.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"^  (node\d+):$", own, re.MULTILINE)) == set(made.names)
    for volume in made.volumes:
        assert own.count(f'"{volume.name}:{volume.at}"') == len(made.nodes)
    mounted = ",".join(volume.at for volume in made.volumes)
    assert own.count(f"LAILA_VOLUMES: {mounted}") == (len(made.nodes) if mounted else 0)
    replicas = ",".join(replica.text(places) for replica in made.nodes[0].replicas)
    assert f"LAILA_REPLICAS: {replicas}" in own
