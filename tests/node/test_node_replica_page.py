"""What a node shows of the replicas that it serves: on its page in a real browser, as JSON and as metrics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, missing
from running import Nodes, Running, until

from laila.artifacts import TrustSet
from laila.maif import create_maif
from laila.node.meter import ReplicaMeter
from laila.node.replica_map import BEHIND, OK, REBUILDING, UNREACHABLE, ReplicaView, completed
from laila.replication.directory import DirectoryReplica
from laila.replication.store import ReplicatedStore
from laila.transport.identity import Identity

SLOW = 60.0
"""Seconds for what nodes do by themselves."""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A window, closed when the test ends. In CI there must be one."""
    if (reason := missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    found = Browser(tmp_path)
    yield found
    found.close()


class Trio:
    """Three nodes, each with a replica of one store, and the store."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = [
            nodes.node(name, "--replicas", f"store={nodes.folder / name}-replica")
            for name in ("n1", "n2", "n3")
        ]
        for node in self.nodes:
            node.start()
        self.where = [f"laila://{node.ready().address}/store" for node in self.nodes]
        self.store = ReplicatedStore(
            self.where, identity=Identity.ephemeral(), secret=nodes.secret, timeout=20, background=False
        )

    def save(self, name: str) -> None:
        artifact = create_maif(name)
        artifact.add_text("Critical information")
        self.store.save(name, artifact)


@pytest.fixture
def trio(nodes: Nodes) -> Iterator[Trio]:
    found = Trio(nodes)
    yield found
    found.store.close()


def shown(node: Running) -> dict[str, Any]:
    """The one replica of a node, as its status document has it."""
    (found,) = node.status()["replicas"]
    return dict(found)


def metrics(node: Running) -> dict[str, float]:
    lines = node.get("/metrics").body.decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("laila_replica_"))
    return {name.removeprefix("laila_replica_"): float(value) for name, value in pairs}


def states(node: Running) -> list[str]:
    return [member["state"] for member in shown(node)["members"]]


def colour(browser: Browser, selector: str) -> str:
    found: str = browser.run(f"return getComputedStyle(document.querySelector({selector!r})).backgroundColor")
    return found


def test_the_page_maps_the_replicas(trio: Trio, browser: Browser, tmp_path: Path) -> None:
    """A line for each, with colour and words; a dead one is called dead, a lost quorum lost, and both come back."""
    first, second, third = trio.nodes
    trio.save("plan")
    trio.save("report")
    browser.open(f"http://127.0.0.1:{first.status_port}/")
    until(lambda: "quorum: 3 of 3 answer" in browser.text("#replicas"), "the map", SLOW)
    text = browser.text("#replicas")
    assert all(where in text for where in trio.where)
    assert browser.run("return document.querySelectorAll('#replicas .way').length") == 1
    until(lambda: "2 names" in browser.text("#replicas"), "the names")
    assert browser.run("return document.querySelectorAll('#replicas .map .dot.good').length") == 3
    good = colour(browser, "#replicas tbody tr:nth-child(2) .dot")
    browser.screenshot(tmp_path / "well.png")

    third.kill()
    until(lambda: "quorum: 2 of 3 answer" in browser.text("#replicas"), "one that is missed", SLOW)
    row = browser.text("#replicas tbody tr:nth-child(3)")
    assert "does not answer" in row
    assert "not connected" in row
    assert colour(browser, "#replicas tbody tr:nth-child(3) .dot") != good
    light, ground = browser.screenshot(tmp_path / "light.png"), colour(browser, "body")
    browser.dark(True)
    until(lambda: colour(browser, "body") != ground, "the dark page")
    assert light.read_bytes() != browser.screenshot(tmp_path / "dark.png").read_bytes()
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")

    second.kill()
    until(lambda: "quorum lost: saves and loads fail" in browser.text("#replicas"), "the lost quorum", SLOW)
    browser.screenshot(tmp_path / "lost.png")
    second.start()
    third.start()
    until(lambda: "quorum: 3 of 3 answer" in browser.text("#replicas"), "all again", SLOW)
    assert browser.errors() == []


def test_a_node_without_replicas_shows_none(nodes: Nodes, browser: Browser) -> None:
    node = nodes.node("n1").start().ready()
    browser.open(f"http://127.0.0.1:{node.status_port}/")
    until(lambda: browser.text("#state") == "ready", "the state")
    assert browser.run("return document.getElementById('replicated').style.display") == "none"
    assert node.status()["replicas"] == []
    assert metrics(node) == {}


def test_a_replica_that_no_store_used(nodes: Nodes, browser: Browser) -> None:
    """Is shown, and said to be unused."""
    node = nodes.node("n1", "--replicas", f"store={nodes.folder / 'replica'}").start().ready()
    browser.open(f"http://127.0.0.1:{node.status_port}/")
    until(lambda: "no store has used it yet" in browser.text("#replicas"), "the card")
    found = shown(node)
    assert (found["store"], found["state"], found["names"], found["members"]) == ("store", "blank", 0, [])
    assert metrics(node)['names{store="store"}'] == 0


def test_status_and_metrics_follow(trio: Trio) -> None:
    """Names, lag, what was repaired and what is in quarantine, as numbers."""
    first, _, third = trio.nodes
    trio.save("plan")
    until(lambda: states(first) == ["ok", "ok", "ok"], "all to be ok", SLOW)
    found = shown(first)
    assert [member["where"] for member in found["members"]] == trio.where
    assert [member["here"] for member in found["members"]] == [True, False, False]
    assert (found["number"], found["quorum"], found["lag"], found["owed"]) == (1, True, 0, 0)
    numbers = metrics(first)
    assert numbers['membership{store="store"}'] == 1
    assert numbers['quorum{store="store"}'] == 1
    assert numbers['members{state="ok",store="store"}'] == 3
    assert numbers['lag{store="store"}'] == 0
    assert numbers['puts_total{store="store"}'] >= 1
    assert numbers['bytes_total{direction="in",store="store"}'] > 100
    assert numbers['compared_timestamp_seconds{store="store"}'] > first.status()["started"]

    third.kill()
    until(lambda: states(first)[2] == "unreachable", "the loss to be seen", SLOW)
    assert metrics(first)['members{state="unreachable",store="store"}'] == 1
    trio.save("missed")
    third.start().ready()
    until(lambda: shown(third)["names"] == 2, "what was missed to be brought", SLOW)
    until(
        lambda: sum(metrics(node)['repairs_total{store="store"}'] for node in trio.nodes) >= 1,
        "the repair",
        SLOW,
    )

    path = Path(str(shown(third)["where"])) / "plan.maif"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)

    def quarantined() -> bool:
        trio.store.scrub()
        return metrics(third)['quarantined{store="store"}'] == 1

    until(quarantined, "the quarantine", SLOW)
    until(lambda: metrics(third)['suspect{store="store"}'] == 0, "the repair", SLOW)


def test_what_a_node_owes_survives_its_restart(trio: Trio) -> None:
    """It took a version that another member missed; that is on its disk, whoever saved, and paid later."""
    first, _, third = trio.nodes
    trio.save("plan")
    until(lambda: states(first) == ["ok", "ok", "ok"], "all to be ok", SLOW)
    third.kill()
    until(lambda: states(first)[2] == "unreachable", "the loss to be seen", SLOW)
    trio.save("missed")
    until(lambda: shown(first)["owed"] == 1, "the debt", SLOW)
    first.kill()
    first.start().ready()
    until(lambda: shown(first)["owed"] == 1, "the debt after the restart", SLOW)
    third.start().ready()
    until(lambda: shown(third)["names"] == 2, "what was missed to be brought", SLOW)
    until(lambda: shown(first)["owed"] == 0, "the debt to be paid", SLOW)


def test_numbers_of_one_replica(tmp_path: Path) -> None:
    """Names, those that it is unsure of, and those in quarantine, also when the digest tree has many parts."""
    identity = Identity.ephemeral()
    with (
        ReplicatedStore([tmp_path / "r"], identity=identity, background=False) as store,
        contextlib.closing(DirectoryReplica(tmp_path / "r", TrustSet([identity]))) as replica,
    ):
        for number in range(40):  # more than a part that is not divided
            store.save(f"name{number}", create_maif("x"))
        assert ReplicaMeter().read(replica) == {"names": 40, "quarantined": 0, "suspect": 0}
        for name in ("name1", "name30"):
            replica.distrust(name, "a test")
        assert ReplicaMeter().read(replica) == {"names": 38, "quarantined": 2, "suspect": 2}


def found(*members: dict[str, Any], quorum: bool = True) -> dict[str, Any]:
    """What a store says of its replicas."""
    rows = [
        {"id": f"id{n}", "where": f"/r{n}", "state": OK, "behind": 0, "error": "", **one}
        for n, one in enumerate(members)
    ]
    return {"number": 4, "changing": False, "quorum": quorum, "replicas": rows}


def kept(*owed: int | str) -> dict[str, Any]:
    """What a keeper says."""
    rows = [{"id": f"id{n}", "owed": one} for n, one in enumerate(owed)]
    return {"trouble": None, "repairs": 1, "quorum_failures": 2, "replicas": rows}


def test_a_view_is_completed_by_what_is_known_of_the_others() -> None:
    """States of all, debts, and when they were compared; of the replica here its own word counts."""
    here = ReplicaView("store", "/r0", OK, names=7)
    others = ({}, {"state": BEHIND, "behind": 2}, {"state": UNREACHABLE, "behind": None, "error": "gone"})
    view = completed(here, found(*others), kept(0, 2, "everything"), {"id0"}, {"id0": 5.0, "id1": 4.0})
    assert [(one.state, one.here, one.owed, one.compared) for one in view.members] == [
        (OK, True, 0, 5.0),
        (BEHIND, False, 2, 4.0),
        (UNREACHABLE, False, 7, None),
    ]
    assert (view.quorum, view.number, view.owed, view.lag, view.compared) == (True, 4, 9, 0, 5.0)
    assert (view.repairs, view.quorum_failures) == (1, 2)
    rebuilt = ReplicaView("store", "/r0", REBUILDING)
    view = completed(rebuilt, found({}, {}, quorum=False), kept(), {"id0"}, {})
    assert [one.state for one in view.members] == [REBUILDING, OK]
    assert view.quorum is False
