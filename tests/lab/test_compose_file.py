"""Compose files: what a run changes in them so that it meets nobody, and what it says about those that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from laila.errors import BadConfig, LabError
from laila.lab import drivers
from laila.lab.drivers import compose_file
from laila.lab.drivers.compose_file import Fit, completed, fit, in_order, node_name, without
from laila.lab.topology import from_toml, load, replicated

LABELS = {"laila.lab.run": "R"}


def table(**services: dict[str, Any]) -> dict[str, Any]:
    """As compose tells it."""
    return {"name": "shop", "services": services}


def fitted(service: dict[str, Any], **more: Any) -> dict[str, Any]:
    return fit({**table(web=service), **more}, Fit("laila-R", LABELS, {"web": {"laila.lab.node": "web"}}))


def web(service: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = fitted(service)["services"]["web"]
    return found


def test_the_project_is_the_runs() -> None:
    assert fitted({"image": "x"})["name"] == "laila-R"


def test_what_one_run_fixes_for_all_goes() -> None:
    """A container's name, host ports, names of networks and volumes: a second run would meet them."""
    changed = fitted(
        {
            "image": "x",
            "container_name": "web",
            "ports": [{"target": 80, "published": "8080", "protocol": "tcp", "mode": "ingress"}],
        },
        networks={"front": {"name": "front-of-all", "internal": True}},
        volumes={"data": {"name": "data-of-all"}, "plain": None},
    )
    service = changed["services"]["web"]
    assert "container_name" not in service
    assert service["ports"] == [{"target": 80, "protocol": "tcp", "host_ip": "127.0.0.1"}]
    assert changed["networks"] == {"front": {"internal": True, "labels": LABELS}}
    assert changed["volumes"] == {"data": {"labels": LABELS}, "plain": {"labels": LABELS}}


def test_what_is_of_others_stays_theirs() -> None:
    outside = {"all": {"name": "of-others", "external": True}}
    changed = fitted({"image": "x"}, networks=dict(outside), volumes=dict(outside))
    assert (changed["networks"], changed["volumes"]) == (outside, outside)


def test_nothing_comes_back_to_life_by_itself() -> None:
    changed = web({"image": "x", "restart": "always", "deploy": {"restart_policy": {"condition": "any"}}})
    assert changed["restart"] == "no"
    assert "restart_policy" not in changed["deploy"]


def test_labels_are_added_to_those_that_are_there() -> None:
    changed = web({"image": "x", "labels": {"team": "blue"}})
    assert changed["labels"] == {"team": "blue", **LABELS, "laila.lab.node": "web"}


def test_an_image_that_compose_builds_keeps_the_name_that_it_has_without_a_lab() -> None:
    """Else every run would build it anew, and leave it behind."""
    assert web({"build": {"context": "/src"}})["image"] == "shop-web"
    assert web({"build": {"context": "/src"}, "image": "mine:1"})["image"] == "mine:1"


def test_what_a_client_here_needs_is_published_once() -> None:
    service = {"image": "x", "ports": [{"target": 6379, "published": "6379", "protocol": "tcp"}]}
    how = Fit("laila-R", LABELS, {"web": {}}, publish=6379)
    changed = fit(table(web=service, other={"image": "y"}), how)
    assert [port["target"] for port in changed["services"]["web"]["ports"]] == [6379]
    assert "ports" not in changed["services"]["other"]


@pytest.mark.parametrize("many", [{"scale": 2}, {"deploy": {"replicas": 3}}])
def test_a_node_is_one_container(many: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match="the service web has [23] containers, and a node is one"):
        fitted({"image": "x", **many})


def test_the_table_that_was_read_stays_as_it_was() -> None:
    service = {"image": "x", "container_name": "web", "deploy": {"restart_policy": {"condition": "any"}}}
    before = table(web=service)
    fit(before, Fit("p", LABELS, {}))
    assert before == table(
        web={"image": "x", "container_name": "web", "deploy": {"restart_policy": {"condition": "any"}}}
    )


def test_services_stand_after_those_that_they_need() -> None:
    needs = {"condition": "service_started", "required": True}
    services = {
        "a": {"depends_on": {"c": needs}},
        "b": {},
        "c": {"depends_on": {"d": needs, "x": needs}},
        "d": {},
    }
    assert in_order(services) == ["d", "c", "a", "b"]


def test_nobody_depends_on_a_service_that_is_left_out() -> None:
    left = without(table(a={"depends_on": {"b": {"condition": "service_started"}}}, b={}), ["b"])
    assert left["services"] == {"a": {"depends_on": {}}}


def test_names_of_services_become_names_of_nodes() -> None:
    assert node_name("My_app.1") == "my-app-1"


def test_paths_are_relative_to_the_topology_file(tmp_path: Path) -> None:
    text = 'compose = "up/compose.yaml"\n[client]\nargv = ["x"]\n[[nodes]]\nname = "redis"\n'
    shape = from_toml(text, source=str(tmp_path / "mine.toml"))
    assert shape.compose == str(tmp_path / "up" / "compose.yaml")
    assert shape.client is not None
    assert shape.client.directory == str(tmp_path)
    assert (shape.name, shape.names) == ("mine", ("redis",))


def test_it_is_the_same_after_a_trip_through_a_record(tmp_path: Path) -> None:
    from laila.lab.topology import from_dict

    text = 'compose = "c.yaml"\n[client]\nargv = ["x"]\nfiles = ["y"]\n[[nodes]]\nname = "redis"\nservice = "Redis"\n'
    shape = from_toml(text, source=str(tmp_path / "mine.toml"))
    assert from_dict(shape.to_dict()) == shape


def test_a_topology_of_services_takes_the_compose_driver(tmp_path: Path) -> None:
    text = 'compose = "c.yaml"\n[client]\nargv = ["x"]\n[[nodes]]\nname = "redis"\n'
    shape = from_toml(text, source=str(tmp_path / "mine.toml"))
    with pytest.raises(BadConfig, match="take --driver compose, not docker"):
        drivers.choose("docker", shape)


def test_a_client_without_nodes_of_its_own_is_refused() -> None:
    shape = from_toml('name = "x"\n[client]\nargv = ["x"]\n[[nodes]]\nname = "a"\n')
    with pytest.raises(BadConfig, match='say where they come from with `compose = "FILE"`'):
        drivers.choose("auto", shape)


@pytest.mark.parametrize(("key", "value"), [("compose", 3), ("attach", ["x"])])
def test_keys_are_texts(key: str, value: object) -> None:
    with pytest.raises(BadConfig, match=f"{key} is a text"):
        completed({key: value}, Path())


def test_a_topology_that_names_no_file_is_not_for_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose_file, "hindrance", lambda: "")
    shape = from_toml('name = "pair"\n[[nodes]]\nname = "a"\n[[nodes]]\nname = "b"\n')
    with pytest.raises(BadConfig, match='names no compose file: write `compose = "FILE"` into it, or take'):
        drivers.choose("compose", shape)


class TestPrograms:
    """What is said where compose is not what it must be."""

    @pytest.fixture
    def bin(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The only directory of programs."""
        path = tmp_path / "bin"
        path.mkdir()
        monkeypatch.setenv("PATH", str(path))
        return path

    def docker(self, folder: Path, script: str) -> None:
        program = folder / "docker"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def test_without_docker(self, bin: Path) -> None:
        with pytest.raises(LabError, match="there is no program `docker`: install .*docker-compose-plugin"):
            drivers.choose("compose", replicated())

    def test_without_the_plugin(self, bin: Path) -> None:
        self.docker(bin, 'echo "docker: unknown command: docker compose" >&2; exit 1')
        with pytest.raises(LabError, match="`docker` has no compose plugin: install"):
            drivers.choose("compose", replicated())

    def test_with_the_old_one(self, bin: Path) -> None:
        self.docker(bin, "echo 1.29.2")
        with pytest.raises(LabError, match="compose 1.29.2 is too old: install"):
            drivers.choose("compose", replicated())

    def test_a_file_cannot_be_read_without_it(self, bin: Path, tmp_path: Path) -> None:
        (tmp_path / "compose.yaml").write_text("services: {a: {image: x}}")
        (tmp_path / "mine.toml").write_text('compose = "compose.yaml"')
        with pytest.raises(LabError, match="there is no program `docker`: install"):
            load(str(tmp_path / "mine.toml"))
