"""A real node that offers a volume, and `laila volume check` with it."""

from __future__ import annotations

import json
from pathlib import Path

from running import Nodes, laila


def test_nodes_offer_their_volumes_to_a_check(nodes: Nodes, tmp_path: Path) -> None:
    """Two nodes over peering and this machine; what is not offered is refused, with what to do."""
    volume, private = tmp_path / "volume", tmp_path / "private"
    volume.mkdir()
    private.mkdir()
    started = [nodes.node(name, "--volumes", str(volume)).start() for name in ("n1", "n2")]
    one, two = (node.ready() for node in started)
    words = ("--with", f"{one.address},{two.address}", "--secret-file", str(nodes.secret_file), "--time", "1")
    done = laila("volume", "check", str(volume), *words, "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert (verdict["answer"], verdict["nodes"]) == ("SAFE", ["here", one.address, two.address])
    done = laila("volume", "check", str(private), *words, "--json")
    assert done.returncode == 2
    assert "list it under `volumes` there" in json.loads(done.stdout)["reason"]
    assert [place.name for place in (volume / ".laila").iterdir()] == ["volume.json"]
    assert [node.stop() for node in (one, two)] == [0, 0]
    assert [event["volumes"] for event in one.events() if event["event"] == "ready"] == [[str(volume)]]


def test_a_volume_that_is_not_there_stops_the_start(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.node("n1", "--volumes", f"{tmp_path}/none").start()
    assert node.wait() == 2
    sentence = (
        f"volumes (--volumes): {tmp_path}/none cannot be used: No such file or directory; choose another"
    )
    assert sentence in node.log_text()


def test_a_node_without_volumes_offers_none(nodes: Nodes, tmp_path: Path) -> None:
    node = nodes.node("n1").start().ready()
    done = laila(
        "volume", "check", str(tmp_path), "--with", node.address, "--secret-file", str(nodes.secret_file)
    )
    assert done.returncode == 2
    assert b"this node offers no service 'volume'" in done.stdout
