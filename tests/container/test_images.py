"""All images say what they are; the node's needs no shell, takes any user, and what is in it can be listed.

LAILA_IMAGE_TAG chooses another set of images than `dev`, as it does for tools/*-image.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import laila
from laila.lab.drivers import engine as docker_engine

ROOT = Path(__file__).parents[2]
TAG = os.environ.get("LAILA_IMAGE_TAG", "dev")
NODE = f"laila-node:{TAG}"
NAMES = ("node", "volumes", "sshd", "faults")
PREFIX = "org.opencontainers.image."
MB = 10**6
TMPFS = {"/tmp": "size=16m"}  # noqa: S108  inside the container
pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


@pytest.fixture(params=NAMES)
def image(request: pytest.FixtureRequest, engine: Any) -> Any:
    name = f"laila-{request.param}:{TAG}"
    why_not = docker_engine.hindrance(name)
    if why_not is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why_not)
    return engine.images.get(name)


def test_it_says_what_it_is(image: Any, engine: Any) -> None:
    labels = {
        key.removeprefix(PREFIX): value for key, value in image.labels.items() if key.startswith(PREFIX)
    }
    assert all(labels.values()), "none is empty"
    assert labels.keys() >= {"title", "description", "documentation", "base.name"}
    assert labels["licenses"] == "MIT"
    assert labels["version"] == laila.__version__
    assert re.fullmatch(r"[0-9a-f]{40}|unknown", labels["revision"])
    created = datetime.fromisoformat(labels["created"])
    assert created == datetime.fromisoformat(image.attrs["Created"]), "the label and the image's own time"
    assert (ROOT / labels["documentation"]).is_file()
    base = engine.images.get(labels["base.name"])
    if base.attrs["RepoDigests"]:
        assert base.attrs["RepoDigests"][0].endswith(labels["base.digest"])
    assert "@" not in labels.get("source", ""), "no name and no password"


def test_the_size_table_is_roughly_true(image: Any, engine: Any) -> None:
    """docs/images.md, by tools/image-sizes: what an image adds to its base, within a fifth or 3 MB."""
    name = image.tags[0].partition(":")[0].removeprefix("laila-")
    rows = re.findall(
        r"^\| `(\w+)` \| \d+ MB \| (\d+) MB \|", (ROOT / "docs/images.md").read_text(), re.MULTILINE
    )
    base = engine.images.get(image.labels[f"{PREFIX}base.name"])
    own = (image.attrs["Size"] - base.attrs["Size"]) / MB
    assert own == pytest.approx(int(dict(rows)[name]), rel=0.2, abs=3)


@contextmanager
def node(engine: Any, tmp_path: Path, image: str = NODE, **options: Any) -> Iterator[Any]:
    """One node on a read-only root, without any right, with its secret as a file that everybody may read."""
    secret = tmp_path / "secret"
    if not secret.exists():
        secret.write_text(laila.new_secret())
        secret.chmod(0o444)
    mounts = {str(secret): {"bind": "/run/secrets/laila_secret", "mode": "ro"}, **options.pop("volumes", {})}
    container = engine.containers.run(
        image,
        detach=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        volumes=mounts,
        labels={"laila.test": "images"},
        **options,
    )
    try:
        yield container
    finally:
        container.remove(force=True)


def wait_until_healthy(container: Any, seconds: float = 90) -> None:
    """By the engine's own verdict, which is that of the image's HEALTHCHECK."""
    end = time.monotonic() + seconds
    while True:
        container.reload()
        if container.attrs["State"]["Health"]["Status"] == "healthy":
            return
        assert container.status == "running", container.logs().decode()
        assert time.monotonic() < end, container.attrs["State"]["Health"]
        time.sleep(0.2)


def test_health_needs_no_shell(engine: Any, tmp_path: Path) -> None:
    """With every shell of the image taken away the node starts, and the engine finds it healthy."""
    removal = (
        "import os; [os.remove(d + n) for d in ('/bin/', '/usr/bin/') for n in ('sh', 'dash', 'bash', 'rbash')"
        " if os.path.lexists(d + n)]"
    )
    maker = engine.containers.create(NODE, ["-c", removal], entrypoint="/opt/laila/bin/python", user="0")
    try:
        maker.start()
        assert maker.wait(timeout=60)["StatusCode"] == 0, maker.logs().decode()
        made = maker.commit(
            conf={
                "Entrypoint": ["laila"],
                "Cmd": ["node"],
                "User": "10001:0",
                "Labels": {"laila.test": "images"},
            }
        )
    finally:
        maker.remove(force=True)
    try:
        with node(engine, tmp_path, made.id, tmpfs=TMPFS | {"/var/lib/laila": "mode=1777"}) as container:
            wait_until_healthy(container)
            assert container.exec_run(["sh", "-c", "true"]).exit_code in (126, 127), "there was a shell"
    finally:
        engine.images.remove(made.id, force=True)


def test_any_user_keeps_its_state_in_a_named_volume(engine: Any, tmp_path: Path) -> None:
    """As OpenShift runs it: a user that the image does not know, in group 0, on a read-only root.

    The next container with the same volume is the same node.
    """
    volume = engine.volumes.create(labels={"laila.test": "images"})
    try:
        identities = []
        for _ in range(2):
            with node(
                engine,
                tmp_path,
                user="4242:0",
                volumes={volume.name: {"bind": "/var/lib/laila", "mode": "rw"}},
                environment={"LAILA_POOLS": "kept=sqlite:/var/lib/laila/kept.sqlite"},
                tmpfs=TMPFS,
            ) as container:
                wait_until_healthy(container)
                status = container.exec_run(["laila", "status", "--json"])
                assert status.exit_code == 0, status.output
                identities.append(json.loads(status.output)["id"])
                assert (
                    container.exec_run(["stat", "-c", "%u:%g", "/var/lib/laila/identity.key"]).output
                    == b"4242:0\n"
                )
        assert len(set(identities)) == 1
    finally:
        volume.remove(force=True)


def test_a_volume_that_may_not_be_written_is_one_sentence(engine: Any, tmp_path: Path) -> None:
    """A user outside group 0 cannot keep state: the node ends at once and names the place."""
    with node(engine, tmp_path, user="4242:4242", tmpfs=TMPFS) as container:
        assert container.wait(timeout=60)["StatusCode"] == 2
        log = container.logs().decode().strip()
        assert "/var/lib/laila" in log
        assert len(log.splitlines()) == 1, log


def test_its_contents_can_be_listed(engine: Any) -> None:
    """tools/sbom lists what Python in the image finds, with the same versions, and the Debian packages beneath."""
    done = subprocess.run(
        [str(ROOT / "tools/sbom"), NODE],
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert listed["metadata"]["component"]["version"] == laila.__version__
    program = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    said = engine.containers.run(
        NODE, ["-c", program], entrypoint="/opt/laila/bin/python", remove=True, network_mode="none"
    )
    installed = json.loads(said)
    assert installed.keys() >= {"cryptography", "msgpack", "laila-kit"}
    found = {part["name"]: part["version"] for part in listed["components"]}
    assert {name: found.get(name) for name in installed} == installed
    packages = {part["name"] for part in listed["components"] if part.get("purl", "").startswith("pkg:deb/")}
    assert packages >= {"base-files", "tzdata"}


def test_a_scan_says_what_it_could_not_ask(engine: Any) -> None:
    """Nothing found, something found, or what was not asked: never silence."""
    done = subprocess.run(
        [str(ROOT / "tools/scan"), NODE],
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
    )
    beginning = {0: "nothing found", 1: "FOUND: ", 3: "not asked: "}
    assert done.returncode in beginning, done.stderr
    assert done.stdout.startswith(beginning[done.returncode])
