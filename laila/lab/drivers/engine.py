"""The Docker engine itself: finding it, what it knows of our runs by their labels, archives for containers."""

from __future__ import annotations

import importlib
import io
import os
import platform
import socket
import tarfile
import time
from collections.abc import Iterator
from typing import Any

from laila.errors import LabError

RUN_LABEL = "laila.lab.run"
NODE_LABEL = "laila.lab.node"
MODE_LABEL = "laila.lab.mode"
CONTROLLER_LABEL = "laila.lab.controller"


def connect(timeout: int = 60) -> Any:
    """A client of the engine that the environment names. Raises LabError with what to do."""
    try:
        docker = importlib.import_module("docker")
    except ImportError as error:
        raise LabError("the docker driver needs the Docker SDK: pip install 'laila-kit[lab]'") from error
    _knock()
    try:
        client = docker.from_env(timeout=timeout)
    except docker.errors.DockerException as error:
        raise _nobody(short(error)) from error
    try:
        client.ping()
    except Exception as error:  # the SDK lets errors of requests and urllib3 through here
        client.close()
        raise _nobody(short(error)) from error
    return client


def _knock() -> None:
    """Try the engine's local socket before the SDK does, which leaves sockets open when nobody is there."""
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise _nobody(f"{host}: {error.strerror or error}") from error


def _nobody(reason: str) -> LabError:
    return LabError(f"no container engine answers ({reason}); start one, or use --driver process")


def hindrance(*images: str) -> str | None:
    """Why containers of these images cannot be used here, or None when they can."""
    try:
        client = connect(timeout=10)
    except LabError as error:
        return str(error)
    try:
        return next((absent(image) for image in images if not client.images.list(name=image)), None)
    finally:
        client.close()


def elsewhere(client: Any) -> str:
    """Why the engine's containers are not processes of this machine, seen and mounted for by root here; empty when they
    are.
    """
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not host.startswith("unix://"):
        return f"the engine is on another machine ({host})"
    info = client.info()
    if info.get("KernelVersion") != platform.release() or "Docker Desktop" in str(
        info.get("OperatingSystem")
    ):
        return "the engine runs in a virtual machine of its own"
    walls = [str(option) for option in info.get("SecurityOptions") or ()]
    if any("name=rootless" in option or "name=userns" in option for option in walls):
        return "the engine has users of its own (rootless, or userns-remap)"
    return ""


def absent(image: str) -> str:
    tools = {
        "laila-volumes": "tools/volumes-image",
        "laila-faults": "tools/faults-image",
        "laila-sshd": "tools/sshd-image",
    }
    tool = tools.get(image.partition(":")[0], "tools/node-image")
    return f"the engine has no image {image}; build it with {tool}"


def short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[-1][:200] if text else type(error).__name__


def labelled_runs(client: Any) -> Iterator[tuple[str, str, str]]:
    """(run id, mode, controller) of everything labelled, for gc."""
    seen = set()
    listed = [
        c.labels for c in client.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True)
    ]
    listed += [n.attrs.get("Labels") or {} for n in client.networks.list(filters={"label": RUN_LABEL})]
    listed += [v.attrs.get("Labels") or {} for v in client.volumes.list(filters={"label": RUN_LABEL})]
    for labels in listed:
        found = (labels[RUN_LABEL], labels.get(MODE_LABEL, ""), labels.get(CONTROLLER_LABEL, ""))
        if found not in seen:
            seen.add(found)
            yield found


def tar_of(name: str, data: bytes, mode: int, uid: int) -> bytes:
    """An archive with one file, or with the directory itself when the name is `.`, for the user `uid`."""
    info = tarfile.TarInfo(name)
    info.uid = info.gid = uid
    info.mode = mode
    info.mtime = int(time.time())
    if name == ".":
        info.type = tarfile.DIRTYPE
    info.size = len(data)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
