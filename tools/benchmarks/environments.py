"""The virtual environments and the redis-server that the run needs, made once under `.build/bench/`.

Each group has one, into which the checkout is installed editable, beside its peers. laila-core has another: its
import name is `laila` too. redis-server is found on PATH; as root on a Debian-like system it is
fetched with apt, from the package that holds the program and starts no service.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BUILD = CHECKOUT / ".build" / "bench"

PEERS = ("Pyro5>=5.15", "rpyc>=6.0", "pyzmq>=26", "grpcio>=1.60", "redis>=5.0", "numpy>=1.26", "msgpack>=1.1")
REQUIREMENTS = {
    "peers": (*PEERS, "cryptography>=44"),
    "artifacts": ("numpy>=1.26", "msgpack>=1.1", "cryptography>=44"),
    "locks": ("portalocker>=3", "fasteners>=0.19", "filelock>=3.16", "redis>=5.0", "msgpack>=1.1"),
    "replicas": ("redis>=5.0", "grpcio>=1.60", "msgpack>=1.1", "cryptography>=44"),
    "laila-core": ("laila-core==1.0.12", "numpy>=1.26", "msgpack>=1.1"),
}

Say = Callable[[str], None]


class SetupFailed(RuntimeError):
    """Something the run needs cannot be made; the message says what and how to go on without it."""


def python(environment: str) -> str:
    """The interpreter of an environment."""
    return str(BUILD / environment / "bin" / "python")


def ensure(environment: str, say: Say, *, checkout: bool) -> None:
    """Make the environment unless it is there and current; install the checkout into it if asked."""
    folder = BUILD / environment
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    wanted = "\n".join((sys.version, *REQUIREMENTS[environment]))
    _once(folder / "stamp-peers", wanted, lambda: _make(environment, say))
    if checkout:
        # `compat` puts the checkout on the path plainly; the default hook costs start-up time
        options = ("--config-settings", "editable_mode=compat", "-e", str(CHECKOUT))
        facts = hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest()
        _once(folder / "stamp-checkout", facts, lambda: _install(environment, options, say, "the checkout"))


def _once(stamp: Path, wanted: str, act: Callable[[], None]) -> None:
    if not stamp.exists() or stamp.read_text() != wanted:
        act()
        stamp.write_text(wanted)


def _make(environment: str, say: Say) -> None:
    say(f"making the environment {environment!r}, once")
    shutil.rmtree(BUILD / environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(BUILD / environment)], check=True)
    _install(environment, REQUIREMENTS[environment], say, "its packages")


def _install(environment: str, what: tuple[str, ...], say: Say, words: str) -> None:
    say(f"installing {words} into {environment!r}")
    command = [python(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", *what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise SetupFailed(f"pip could not install {words} into {environment!r}: {last}")


def versions(environment: str) -> dict[str, str]:
    """What is installed, for the record."""
    command = [python(environment), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {package["name"]: package["version"] for package in listed}


def redis_server(say: Say) -> str:
    """The path of a redis-server."""
    found = shutil.which("redis-server")
    link = BUILD / "redis-server"
    if found:
        return found
    if not link.exists():
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise SetupFailed("there is no redis-server: install it, or leave redis out with --only")
        say("installing redis-tools with apt-get")
        _apt("update", "-qq")
        _apt("install", "-y", "-qq", "--no-install-recommends", "redis-tools")
        link.unlink(missing_ok=True)
        # one program under several names: it serves when it is called redis-server
        link.symlink_to("/usr/bin/redis-check-rdb")
    said = subprocess.run([str(link), "--version"], capture_output=True, text=True).stdout
    if not said.startswith("Redis server"):
        raise SetupFailed(
            "redis-tools has no server here: install redis-server, or leave redis out with --only"
        )
    return str(link)


def _apt(*arguments: str) -> None:
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=180", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = " | ".join(done.stderr.strip().splitlines()[-2:])
        raise SetupFailed(f"apt-get {arguments[0]} failed ({last}): install redis-server, or leave redis out")
