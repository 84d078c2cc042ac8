"""Three nodes with a replicated store get another secret, round by round, while somebody writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from running import Nodes, Running, laila, until

from laila.artifacts import Artifact, TrustSet, create_maif
from laila.artifacts.vouchers import unpacked
from laila.errors import LailaError, UntrustedSigner
from laila.replication.store import ReplicatedStore
from laila.secret import new_secret
from laila.transport.identity import Identity

ROUNDS = (("old", "new"), ("new", "old"), ("new", ""))
"""Which secret a node proves, and which one it accepts beside it."""


def store(cluster: Sequence[Running], secret: str) -> ReplicatedStore:
    """As a program opens it that was started just now, knows the secret, and is nobody whom anybody has met."""
    places = [f"laila://{node.address}/store" for node in cluster]
    return ReplicatedStore(
        places, secret=secret, identity=Identity.ephemeral(), background=False, timeout=60.0
    )


def save(cluster: Sequence[Running], secret: str, name: str) -> None:
    artifact = create_maif("writer")
    artifact.add_text(f"content of {name}")
    with store(cluster, secret) as open_store:
        open_store.save(name, artifact)


def believed(place: Path, secret: str) -> bool:
    """Whether who knows the secret, and nothing else, believes every file in a replica's directory."""
    trust, book = TrustSet(secret=secret), place / ".laila" / "vouchers"
    trust.learn(unpacked(book.read_bytes()) if book.exists() else [])
    try:
        return bool([Artifact.load(path, trust=trust) for path in place.glob("*.maif")])
    except UntrustedSigner:
        return False


def test_what_is_there_is_believed_under_the_new_secret_and_the_old_one_opens_nothing(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {"old": nodes.secret, "new": new_secret()}
    files = {name: nodes.file(name, secret) for name, secret in secrets.items()} | {
        "": nodes.file("none", "")
    }
    cluster = [nodes.node(f"n{number}", "--replicas", f"store={tmp_path}/r{number}") for number in (1, 2, 3)]
    peers = ",".join(node.address for node in cluster)
    for node in cluster:
        node.start("--peers", peers)
    for node in cluster:
        node.ready()
    save(cluster, secrets["old"], "before")
    monkeypatch.setenv("LAILA_ALSO_ACCEPT", f"{files['new']},{files['old']}")  # programs are told, too

    for number, (own, other) in enumerate(ROUNDS):
        for node in cluster:
            assert node.stop() == 0
            node.secret_file = files[own]
            node.start("--peers", peers, "--also-accept", str(files[other])).ready()
            until(lambda node=node: len(node.links()) == 2, "both links")
            if number < 2:  # nodes of two rounds beside each other, and a program of the first one
                save(cluster, secrets["old"], f"{node.name}-{number}")
        if number == 1:
            for replica in ("r1", "r2", "r3"):
                until(lambda place=tmp_path / replica: believed(place, secrets["new"]), "it is believed", 60)
    monkeypatch.delenv("LAILA_ALSO_ACCEPT")

    with store(cluster, secrets["new"]) as after:
        for name in ("before", "n1-0", "n3-0", "n2-1", "n3-1"):
            assert after.load(name).get_content_list()[0]["text"] == f"content of {name}"
            assert all(row["valid"] for row in after.verify_replicas(name).values())
    save(cluster, secrets["new"], "before")
    with pytest.raises(LailaError):
        store(cluster, secrets["old"])

    places = ",".join(f"laila://{node.address}/store" for node in cluster)
    told = laila(
        "replicas", "verify", "--json",
        env={
            "LAILA_REPLICATED": places,
            "LAILA_SECRET_FILE": str(files["new"]),
            "LAILA_STATE_DIR": str(tmp_path / "somebody"),
        },
    )  # fmt: skip
    assert told.returncode == 0, told.stdout
