"""A run's place on a host, as its steward keeps it: files, ports, volumes. Sent to hosts."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from laila.lab.drivers.ssh.process import PROC, boot, stat_of, until

FOLDER = "laila-lab"
FIRST_PEER, FIRST_STATUS, NUMBERED = 7400, 7480, 80
"""A node gets 7400 and 7480 where these are free, else 7401 and 7481, and so on; after 80 of them any."""


class Refused(Exception):
    """What cannot be done, for the controller to say."""


def write_whole(path: Path, text: str) -> None:
    """So that a reader sees the old text or the new one; for its owner only."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Empty when there is no such file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def part(path: Path, offset: int, limit: int) -> dict[str, Any]:
    with path.open("rb") as file:
        file.seek(offset)
        return {"data": base64.b64encode(file.read(limit)).decode()}


class Place:
    """One run's directory on this host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root.name

    @classmethod
    def of(cls, home: str, run: str) -> Place:
        return cls(Path.home() / Path(home or "~").expanduser() / FOLDER / run)

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name

    def inside(self, name: str, path: str) -> Path:
        """A path in a node's state directory; links that lead out of it are refused too."""
        state = (self.node(name) / "state").resolve()
        target = (state / path).resolve()
        if target != state and state not in target.parents:
            raise Refused(f"{path!r} is not inside the state directory of {name}")
        return target

    def pid(self, name: str) -> int | None:
        """Of the node, while it lives."""
        found = read_json(self.node(name) / "process")
        if not found or found["boot"] != boot():
            return None
        stat = stat_of(found["pid"])
        return int(found["pid"]) if stat is not None and stat[1] == found["started"] else None

    def state(self, name: str) -> str:
        if not (self.node(name) / "process").exists():
            return "absent"
        pid = self.pid(name)
        stat = stat_of(pid) if pid is not None else None
        return "exited" if stat is None else "paused" if stat[0] in "Tt" else "running"


class Ports:
    """Chosen here, under a lock of all runs of this user. Kept from other runs by a file; from everybody else by a
    socket that is bound and never listens, for as long as this program lives.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def choose(self, place: Place, names: list[str], ipv6: bool) -> dict[str, list[int]]:
        chosen: dict[str, list[int]] = {}
        with locked(place.root.parent):
            taken = set(claimed(place.root.parent))
            for name in names:
                chosen[name] = self._pair(taken, ipv6)
                taken.update(chosen[name])
                write_whole(place.node(name) / "ports", json.dumps({"ports": chosen[name]}))
        return chosen

    def release(self) -> None:
        for held in self._held:
            held.close()
        self._held.clear()

    def _pair(self, taken: set[int], ipv6: bool) -> list[int]:
        for step in range(NUMBERED):
            pair = [FIRST_PEER + step, FIRST_STATUS + step]
            if not taken & set(pair) and self._hold(pair, ipv6):
                return pair
        for _ in range(100):
            if self._hold([0, 0], ipv6):
                pair = [held.getsockname()[1] for held in self._held[-2:]]
                if not taken & set(pair):
                    return pair
        raise Refused("no free ports are left here")

    def _hold(self, ports: list[int], ipv6: bool) -> bool:
        """All of them, or none."""
        made: list[socket.socket] = []
        try:
            for port in ports:
                made.append(socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET))
                made[-1].bind(("", port))  # fails when anybody has it, listening or not
                made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a node may bind it beside us
        except OSError:
            for one in made:
                one.close()
            return False
        self._held += made
        return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems do not lock directories
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def claimed(folder: Path) -> Iterator[int]:
    """Ports of all runs of this user."""
    for path in folder.glob("*/nodes/*/ports"):
        yield from read_json(path).get("ports", [])


def make_volume(spec: dict[str, Any]) -> str:
    """A directory of this run's own on what is mounted at `at`; why it is not as it should be, empty when it is."""
    path, limited = Path(spec["path"]), bool(spec["size_mib"])
    if not limited and not spec["read_only_of"] and not Path(spec["at"]).is_dir():
        raise Refused(f"there is no directory {spec['at']}: mount the volume {spec['name']!r} there first")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if limited:
        return "over ssh a volume is what is mounted on the hosts, and its size is theirs"
    if not spec["read_only_of"]:
        return ""
    if os.getuid() != 0:
        return "only root can mount"
    for words in (["--bind", spec["original"], str(path)], ["-o", "remount,bind,ro", str(path)]):
        done = subprocess.run(["mount", *words], capture_output=True, text=True, timeout=20)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["mount failed"])[-1]
    return ""


def mounted(below: Path) -> list[str]:
    lines = (PROC / "self/mounts").read_text(errors="surrogateescape").splitlines()
    places = [line.split()[1].replace("\\040", " ") for line in lines]
    return [place for place in places if below in Path(place).parents]


def unmount(below: Path) -> list[str]:
    """Unmount all that is mounted there; what could not be."""
    for place in reversed(mounted(below)):
        subprocess.run(["umount", place], capture_output=True, timeout=20)
    return [f"mount {place}" for place in mounted(below)]


def remove_tree(path: Path) -> list[str]:
    """What is left of it. Nothing is removed through a mount."""
    if still := unmount(path):
        return still

    def gone() -> bool:
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    return [] if until(gone, 2.0) else [str(path)]
