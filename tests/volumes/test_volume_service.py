"""The service "volume": peers carry out steps on the volumes that are offered, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laila.errors import AccessDenied, BadValue, Busy, Denied
from laila.proxies import Peer
from laila.volumes import service
from laila.volumes.check import run
from laila.volumes.nodes import AgentNode, PeerNode
from laila.volumes.service import VolumeService
from tests.peering.support import SECRET, node

PROBE = "0123456789abcdef"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    found = tmp_path / "volume"
    found.mkdir()
    return found


@contextmanager
def offering(*volumes: Path) -> Iterator[tuple[VolumeService, list[Peer]]]:
    """A node that offers them, and the peer that two other nodes see in it."""
    with node("server") as (server, protocol), node("one") as (one, _), node("two") as (two, _):
        offered = VolumeService(volumes)
        server.services.offer("volume", offered)
        policies = (one, two)
        yield (
            offered,
            [p.peers[p.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)] for p in policies],
        )
        offered.close()


def begin(path: Path, probe: str = PROBE) -> dict[str, str]:
    return {"do": "begin", "path": str(path), "probe": probe}


def test_a_check_with_a_peer(volume: Path) -> None:
    """A process on a line and a node over peering, the same steps, one verdict, kept by the one that may."""
    with offering(volume) as (_, (peer, _)), AgentNode(name="here") as here:
        verdict = run(str(volume), [PeerNode(peer, name="n2"), here], seconds=1.0)
    assert (verdict.answer, verdict.one_kernel) == ("SAFE", True), str(verdict)
    assert verdict.nodes == ("n2", "here")
    assert [place.name for place in (volume / ".laila").iterdir()] == ["volume.json"]
    assert verdict.evidence[-1].check == "link", (
        "that the first could not keep it is no news when the second did"
    )


def test_nothing_outside_its_volumes(volume: Path, tmp_path: Path) -> None:
    """Neither by path, nor through links, and the error says what to do."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (volume / "link").symlink_to(outside)
    with offering(volume) as (_, (peer, _)):
        for path in (outside, tmp_path, volume / "link", volume / "..", Path("/etc")):
            with pytest.raises(Denied, match="list it under `volumes` there"):
                peer.ask("volume", begin(path))
        peer.ask("volume", begin(volume))
        with pytest.raises(BadValue, match="no name for a file"):
            peer.ask("volume", {"do": "write", "file": "../../x", "text": ""})
        with pytest.raises(BadValue, match="no verdict is kept over peering"):
            peer.ask("volume", {"do": "keep", "path": str(volume), "verdict": {}})
    assert list(outside.iterdir()) == []


def test_a_check_belongs_to_the_peer_that_began_it(volume: Path) -> None:
    with offering(volume) as (_, (one, two)):
        one.ask("volume", begin(volume))
        with pytest.raises(BadValue, match="no check of this peer"):
            two.ask("volume", {"do": "write", "file": "x", "text": ""})
        two.ask("volume", {"do": "remove"})
        one.ask("volume", {"do": "write", "file": "x", "text": ""})


def test_what_is_given_up_is_ended(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next check, when nobody asked for a while, by a new one of the same peer, and with the node."""
    with offering(volume) as (offered, (one, two)):
        one.ask("volume", begin(volume, "1" * 16))
        two.ask("volume", begin(volume, "2" * 16))
        assert len(list((volume / ".laila").iterdir())) == 2
        monkeypatch.setattr(service, "IDLE", 0.0)
        two.ask("volume", begin(volume, "3" * 16))
        assert [place.name for place in (volume / ".laila").iterdir()] == ["probe-" + "3" * 16]
        offered.close()
        assert list((volume / ".laila").iterdir()) == []
        with pytest.raises(Busy, match="stopping"):
            one.ask("volume", begin(volume))


def test_checks_are_few_at_a_time(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_CHECKS", 1)
    with offering(volume) as (_, (one, two)):
        one.ask("volume", begin(volume))
        with pytest.raises(Busy, match="1 checks"):
            two.ask("volume", begin(volume))
        one.ask("volume", {"do": "remove"})
        two.ask("volume", begin(volume))


def test_a_beginning_that_failed_takes_no_place(volume: Path, tmp_path: Path) -> None:
    with offering(volume) as (offered, (one, _)):
        with pytest.raises(Denied):
            one.ask("volume", begin(tmp_path))
        assert offered._checks == {}


def test_access_rules_apply(volume: Path) -> None:
    with node("server") as (server, protocol), node("one") as (one, _):
        server.services.offer("volume", VolumeService((volume,)))
        server.communication.access.add("deny one service:volume")
        peer = one.peers[one.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        with pytest.raises(AccessDenied):
            peer.ask("volume", {"do": "hello"})
