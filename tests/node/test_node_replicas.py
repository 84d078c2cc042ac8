"""Replicas that a real node serves to its peers: the setting, and what comes of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import Nodes, Running, laila, until

from laila.artifacts import Artifact, Signer, TrustSet, create_maif
from laila.errors import AccessDenied, BadConfig, StorageError
from laila.macros.defaults import DefaultPolicy
from laila.node.config import NodeConfig, load
from laila.node.replicas import ReplicaConfig, trust_of
from laila.replication.copies import Copy
from laila.replication.peer import PeerReplica
from laila.replication.replica import Stamp
from laila.replication.store import ReplicatedStore
from laila.secret import new_secret
from laila.transport.identity import Identity

SECRET = {"LAILA_SECRET_FILE": "/keys/secret"}
POOLS = '[pools.kept]\nkind = "sqlite"\npath = "kept"\n[pools.quick]\nkind = "memory"\n'


def configured(tmp_path: Path, text: str) -> NodeConfig:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return load({}, SECRET, config_file=str(path))


def test_the_setting_is_read_from_everywhere(tmp_path: Path) -> None:
    expected = (ReplicaConfig("store", path=tmp_path / "a"), ReplicaConfig("more", pool="kept"))
    assert configured(tmp_path, f'{POOLS}[replicas]\nstore = "a"\nmore = "pool:kept"').replicas == expected
    assert configured(tmp_path, f'replicas = ["store=a", "more=pool:kept"]\n{POOLS}').replicas == expected
    one = f"store={tmp_path}/a"
    pools = {"LAILA_POOLS": "kept=sqlite:/data/kept"}
    environ = {**SECRET, **pools, "LAILA_REPLICAS": f"{one}, more=pool:kept"}
    assert load({}, environ).replicas == expected
    assert load({"replicas": [one, "more=pool:kept"]}, {**SECRET, **pools}).replicas == expected
    assert load({}, {**SECRET, "LAILA_REPLICAS": ""}).replicas == ()


WRONG = [
    ('replicas = ["store"]', r"replicas \(.*node.toml:1\): 'store' is no replica; write NAME=PATH"),
    ("replicas = 3", r"replicas \(.*:1\): it must be a table like \[replicas\]"),
    ('replicas = ["store="]', r"replicas \(.*:1\): replica 'store' has no place; write store=PATH"),
    ('replicas = ["a b=/x"]', r"replicas \(.*:1\): 'a b' is no name of a replica; use up to 63 letters"),
    ('replicas = ["a=/x", "a=/y"]', r"replicas \(.*:1\): the replica 'a' is named twice"),
    ('replicas = ["a=/x", "b=/x"]', r"replicas \(.*:1\): two replicas use the path /x; give each its own"),
    ("[replicas]\nstore = 3", r"replicas \(.*:2\): replica 'store' is a number; write a path or pool:NICK"),
    ('[replicas]\n"a/b" = "/x"', r"replicas \(.*\): 'a/b' is no name of a replica"),
    ('replicas = ["a=pool:x"]', r"replicas \(.*:1\): .* pool 'x', which `pools` does not name .*names none"),
    (
        'replicas = ["a=pool:quick"]\n' + POOLS,
        r"replicas \(.*:1\): .* pool 'quick', which forgets when the node stops.* use a durable pool",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_setting_is_one_sentence_that_says_where(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        configured(tmp_path, text)
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_check_shows_what_would_be_served(tmp_path: Path) -> None:
    words = ("node", "--check", "--secret-file", "/keys/secret", "--replicas", f"store={tmp_path}/a")
    done = laila(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["replicas"] == [f"store={tmp_path}/a"]
    assert not (tmp_path / "a").exists()


def test_a_place_that_cannot_be_used_stops_the_start(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    node = nodes.node("n1", "--replicas", f"store={tmp_path}/file").start()
    assert node.wait() == 2
    assert "replicas (--replicas): replica 'store' cannot be opened: " in node.log_text()


def test_whoever_any_of_the_secrets_vouches_for_is_believed() -> None:
    """So versions outlive the change from one secret to another."""
    me, other, stranger = Identity.ephemeral(), Identity.ephemeral(), Identity.ephemeral()
    own, old = new_secret(), new_secret()
    trust = trust_of(me, (own, old))
    for signer in (Signer(me), Signer.of(other, own), Signer.of(other, old)):
        assert trust.trusts(signer.public_key, signer.voucher), signer
    for signer in (Signer(stranger), Signer.of(stranger, new_secret())):
        assert trust.trusts(signer.public_key, signer.voucher) is None


@contextmanager
def asked(node: Running, secret: str, name: str = "store") -> Iterator[tuple[PeerReplica, Any]]:
    """The replica that a node serves, and what makes versions that the cluster believes."""
    with DefaultPolicy(name="client") as policy:
        trust = TrustSet([policy.identity], secret=secret)
        signer = Signer.of(policy.identity, secret)
        peer = policy.peers[policy.communication.add_tcpip_peer("127.0.0.1", node.port, secret)]

        def version(name: str, sequence: int, text: str) -> Copy:
            artifact = Artifact.create("client")
            artifact.add_text(text)
            artifact.name_as(name, sequence=sequence)
            return Copy.encode(name, artifact, signer, trust)

        replica = PeerReplica(
            f"laila://n1/{name}", lambda: peer, f"replica/{name}", timeout=90.0, trust=trust
        )
        yield replica, version
        replica.close()


def test_a_node_serves_its_replica_also_after_it_was_killed(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.node("n1").start(env={"LAILA_REPLICAS": f"store={tmp_path}/replica"}).ready()
    with asked(node, nodes.secret) as (replica, version):
        assert replica.stamp() == Stamp()
        replica.mark(Stamp("one", "first"))
        with version("report", 1, "hello") as small, version("large", 1, "x" * (5 << 20)) as large:
            assert replica.put(small, 0) == small.stand
            assert replica.put(large, 0) == large.stand
            stands = [small.stand, large.stand]
    view = node.status()["replicas"][0]
    assert (view["store"], view["where"], view["state"]) == ("store", f"{tmp_path}/replica", "ok")
    assert (view["names"], view["quarantined"], view["puts"], view["number"]) == (2, 0, 2, None)
    assert view["bytes_in"] == sum(stand.size for stand in stands)
    node.kill()
    node.start("--replicas", f"store={tmp_path}/replica").ready()
    with asked(node, nodes.secret) as (replica, version):
        assert replica.stamp() == Stamp("one", "first")
        assert replica.look(["report", "large"], 0) == stands
        with replica.fetch("report", 0) or pytest.fail("nothing came") as copy:
            assert copy.artifact().get_content_list()[0]["text"] == "hello"
    assert node.stop() == 0
    assert sorted(path.name for path in (tmp_path / "replica").glob("*.maif")) == [
        "large.maif",
        "report.maif",
    ]


def test_a_replica_may_live_in_a_pool(nodes: Nodes, tmp_path: Path) -> None:
    pools = ("--pools", f"kept=sqlite:{tmp_path}/kept", "--replicas", "store=pool:kept")
    node = nodes.node("n1", *pools).start().ready()
    with asked(node, nodes.secret) as (replica, version), version("report", 1, "hello") as copy:
        replica.mark(Stamp("one", "first"))
        assert replica.put(copy, 0) == copy.stand
    assert node.stop() == 0
    node.start().ready()
    with asked(node, nodes.secret) as (replica, version):
        assert replica.names(0).live == ["report"]
    assert node.stop() == 0


def test_rules_bind_the_replica_and_others_are_not_served(nodes: Nodes, tmp_path: Path) -> None:
    rule = "deny client service:replica/store"
    node = nodes.node("n1", "--replicas", f"store={tmp_path}/a,open={tmp_path}/b", "--access", rule)
    node.start().ready()
    with asked(node, nodes.secret) as (replica, _):
        with pytest.raises(AccessDenied):
            replica.stamp()
    with asked(node, nodes.secret, "open") as (replica, _):
        assert replica.stamp() == Stamp()
    with asked(node, nodes.secret, "other") as (replica, _):
        with pytest.raises(StorageError, match=r"LAILA_REPLICAS.*replica/open, replica/store"):
            replica.stamp()
    assert node.stop() == 0


def test_a_node_cares_for_its_replica_also_where_its_group_may_write_its_state(
    nodes: Nodes, tmp_path: Path
) -> None:
    """As in the image, whose state directory belongs to a group so that any user may run it."""
    node = nodes.node("n1")
    node.state.mkdir()
    node.state.chmod(0o770)
    node.start(env={"LAILA_REPLICAS": f"store={node.state}/replica"}).ready()
    with DefaultPolicy(name="client") as policy:
        policy.communication.add_tcpip_peer("127.0.0.1", node.port, nodes.secret)
        with ReplicatedStore(["laila://n1/store"], policy=policy, secret=nodes.secret) as store:
            artifact = create_maif("client")
            artifact.add_text("kept")
            store.save("report", artifact)
            until(lambda: any((node.state / "care").glob("replicas-*")), "its keeper to begin")
    assert node.stop() == 0
    assert "cannot care for it" not in node.log.read_text()
