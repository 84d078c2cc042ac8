"""What the compose driver's tests need: an engine, small projects, and an image with a Redis server in it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from laila.lab import drivers, registry
from laila.lab.drivers import compose_file, engine
from laila.lab.drivers.base import Driver
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, load, replicated

ROOT = Path(__file__).parents[2]
FOREIGN = Path(__file__).with_name("foreign")
IMAGE = replicated().image
REDIS_IMAGE = "laila-lab-redis:dev"


def need_engine(image: str = IMAGE) -> None:
    """Skip, in CI fail, where no engine has this image or there is no compose."""
    why = engine.hindrance(image) or compose_file.hindrance()
    if why:
        if os.environ.get("CI"):
            pytest.fail(f"container tests must run in CI, but {why}")
        pytest.skip(why)


def new_run(shape: Topology) -> registry.Run:
    """A registered run of this process."""
    controller = ProcessId.of(os.getpid())
    run = registry.Run(registry.new_run_id(), "compose", shape.to_dict(), "check", controller)
    run.save()
    return run


@contextmanager
def running(file: Path) -> Iterator[Driver]:
    """The nodes of a topology file, made and not started."""
    shape = load(str(file))
    driver = drivers.make(new_run(shape), shape)
    try:
        driver.prepare()
        yield driver
    finally:
        left = driver.remove()
        driver.close()
    assert left == []


@contextmanager
def project(file: Path) -> Iterator[str]:
    """Somebody's compose project, up; its name."""
    name = f"laila-test-{uuid.uuid4().hex[:8]}"
    words = ["docker", "compose", "--progress", "quiet", "-p", name, "-f", str(file)]
    try:
        subprocess.run([*words, "up", "--detach"], check=True, timeout=120)
        yield name
    finally:
        subprocess.run([*words, "down", "--volumes", "--timeout", "1"], check=False, timeout=120)


def write(folder: Path, services: str, topology: str = "", name: str = "app") -> Path:
    """A compose file beside a topology that names it; the topology's path."""
    (folder / "compose.yaml").write_text(services)
    path = folder / f"{name}.toml"
    path.write_text(f'compose = "compose.yaml"\n{topology}')
    return path


def redis_image() -> str:
    """The name of an image with Debian's redis-server of this machine, its libraries, and Python. Made in seconds, of
    what is here; the label says what it was made of.
    """
    programs = [shutil.which(name) for name in ("redis-server", "redis-cli")]
    if not all(programs):
        why = "there is no redis-server; tools/debian-packages says which package has it"
        if os.environ.get("CI"):
            pytest.fail(f"these tests must run in CI, but {why}")
        pytest.skip(why)
    base = subprocess.run(
        [ROOT / "tools" / "base-image"], capture_output=True, text=True, check=True, timeout=300
    ).stdout.strip()
    files = {f"/opt/redis/{Path(str(one)).name}": Path(str(one)) for one in programs}
    files |= {f"/opt/redis/{path.name}": path for path in _libraries(str(programs[0]), str(programs[1]))}
    _commit(base, files)
    return REDIS_IMAGE


_RUN = '#!/bin/sh\nexec /opt/redis/ld.so --library-path /opt/redis "/opt/redis/${0##*/}" "$@"\n'
"""The programs bring their own C library: the base image may have an older one."""


def _libraries(*programs: str) -> set[Path]:
    found = set()
    for program in programs:
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        found |= {Path(word) for word in listed.split() if word.startswith("/")}
    return found


def _commit(base: str, files: dict[str, Path]) -> None:
    client = engine.connect()
    try:
        parts = [client.images.get(base).id, _RUN]
        parts += [
            f"{place} {path.stat().st_size} {path.stat().st_mtime_ns}"
            for place, path in sorted(files.items())
        ]
        recipe = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        known = client.images.list(filters={"label": f"dev.laila.recipe={recipe}"})
        if any(REDIS_IMAGE in image.tags for image in known):
            return
        carrier = client.containers.create(base, network_mode="none")
        try:
            carrier.put_archive("/", _packed(files))
            changes = ["WORKDIR /data", 'CMD ["redis-server"]', f"LABEL dev.laila.recipe={recipe}"]
            name, tag = REDIS_IMAGE.split(":")
            before = client.images.list(name=REDIS_IMAGE)
            carrier.commit(name, tag, changes=changes)
            for image in before:  # it has no name any more
                client.images.remove(image.id, force=True)
        finally:
            carrier.remove(force=True)
    finally:
        client.close()


def _packed(files: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for place, path in files.items():
            loader = path.name.startswith("ld-") or path.name.startswith("ld.so")
            archive.add(path, arcname="opt/redis/ld.so" if loader else place.lstrip("/"))
        for name in ("redis-server", "redis-cli"):
            info = tarfile.TarInfo(f"usr/local/bin/{name}")
            info.size, info.mode, info.mtime = len(_RUN), 0o755, int(time.time())
            archive.addfile(info, io.BytesIO(_RUN.encode()))
    return buffer.getvalue()
