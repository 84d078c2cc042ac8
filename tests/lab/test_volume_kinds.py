"""Which driver has which volumes, where a node finds them, and what it is told of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from laila.errors import BadConfig, LabError
from laila.lab import drivers, registry
from laila.lab.drivers.base import Driver, node_environment
from laila.lab.procid import ProcessId
from laila.lab.topology import NETWORK_KINDS, PLAIN, VOLUME_KINDS, Topology, replicated, shared_volume


def registered(shape: Topology) -> registry.Run:
    run = registry.Run(registry.new_run_id(), "process", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    run.save()
    return run


@pytest.fixture
def lab() -> Iterator[Driver]:
    shape = shared_volume(2)
    with drivers.make(registered(shape), shape) as driver:
        driver.prepare()
        yield driver


def test_what_a_driver_can_mount_is_data() -> None:
    assert drivers.capabilities("process").volume_kinds == (PLAIN,)
    assert drivers.capabilities("docker").volume_kinds == VOLUME_KINDS


@pytest.mark.parametrize("kind", NETWORK_KINDS)
def test_processes_refuse_a_network_volume_and_say_who_has_it(kind: str) -> None:
    shape = shared_volume(2, kind=kind)
    with pytest.raises(BadConfig, match=f"the process driver has no {kind} volume.*use --driver docker$"):
        drivers.choose("process", shape)
    with pytest.raises(BadConfig, match="use --driver docker"):
        drivers.make(registered(shape), shape)


def test_without_an_engine_no_other_driver_steps_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` falls back to processes only where they can do the same."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    assert drivers.choose("auto", shared_volume(2)).name == "process"
    with pytest.raises(LabError, match="no container engine answers"):
        drivers.choose("auto", shared_volume(2, kind="glusterfs"))


def test_programs_beside_every_node_find_the_same_directory(lab: Driver) -> None:
    first, second = (Path(lab.volume_path(name, "shared")) for name in lab.topology.names)
    (first / "file").write_text("here")
    assert (second / "file").read_text() == "here"


def test_a_volume_that_a_node_does_not_mount_is_refused(lab: Driver) -> None:
    with pytest.raises(BadConfig, match="node1 mounts no volume 'other'; it has shared"):
        lab.volume_path("node1", "other")
    with pytest.raises(BadConfig, match="no node 'nope'"):
        lab.volume_path("nope", "shared")


@pytest.mark.parametrize(("shape", "told"), [(shared_volume(2), "/mnt/shared"), (replicated(2), None)])
def test_a_node_is_told_of_the_volumes_that_it_mounts(shape: Topology, told: str | None) -> None:
    places = {"state": "/state", "secret": "/secret", "shared": "/mnt/shared"}
    environment = node_environment(
        shape.nodes[0], shape, listen=":1", advertise=":1", status=":2", peers=[], places=places
    )
    assert environment.get("LAILA_VOLUMES") == told
