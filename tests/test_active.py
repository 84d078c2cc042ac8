"""The active policy, and what the package itself promises: names, lightness, no writes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import laila
from laila.errors import BadValue
from laila.macros.defaults import DefaultPolicy


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, **environment},
    )
    return done.stdout.strip()


def test_public_names() -> None:
    """Adding a name is a decision: it is pinned here."""
    assert sorted(laila.__all__) == [
        "DistributedAgent", "Entry", "Future", "FutureGroup", "LailaError", "Limits", "ReplicatedStore",
        "SharedArtifactStore", "__version__", "constant", "exists", "forget",
        "guarantee", "guarantee_async", "keys", "local_policies",
        "memorize", "new_secret", "register", "remember", "terminate", "universe", "using", "variable",
    ]  # fmt: skip
    for name in [*laila.__all__, "active_policy", "memory", "communication", "peers", "alpha_pool"]:
        assert hasattr(laila, name), name


def test_the_first_policy_becomes_active_and_memory_is_its() -> None:
    out = run(
        "import laila\n"
        "from laila.macros.defaults import DefaultPolicy, DefaultPool\n"
        "policy = DefaultPolicy(); other = DefaultPolicy()\n"
        "pool = DefaultPool(); laila.memory.extend(pool=pool, pool_nickname='p')\n"
        "print(laila.active_policy is policy, policy.memory.pool('p') is pool, len(laila.local_policies()))\n"
        "laila.active_policy = other\n"
        "print(laila.memory is other.memory)\n"
    )
    assert out.split() == ["True", "True", "2", "True"]


def test_without_a_policy_one_is_made() -> None:
    assert run("import laila; print(laila.memorize(laila.constant(1, nickname='x')).data)") != ""


def test_using_is_for_this_thread_only() -> None:
    with DefaultPolicy(name="one") as one, DefaultPolicy(name="two") as two:
        seen: dict[str, object] = {}

        def work(policy: DefaultPolicy) -> None:
            with laila.using(policy):
                for _ in range(1000):
                    laila.memorize(laila.constant(policy.name, nickname="who")).wait()
                    seen[policy.name] = laila.remember(nickname="who").data
                    if seen[policy.name] != policy.name:
                        return

        threads = [threading.Thread(target=work, args=[policy]) for policy in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == {"one": "one", "two": "two"}


def test_only_policies_and_peers_can_be_active() -> None:
    with pytest.raises(BadValue, match="policy or a peer"):
        laila.active_policy = "node1"  # type: ignore[assignment]
    with pytest.raises(BadValue, match="policy or a peer"), laila.using(5):  # type: ignore[arg-type]
        pass


def test_import_is_light(tmp_path: Path) -> None:
    """No numpy, no asyncio, no TLS, no container tools, and nothing written to HOME."""
    home = tmp_path / "home"
    home.mkdir()
    modules = run("import sys, laila; print(' '.join(sys.modules))", HOME=str(home)).split()
    heavy = {
        "numpy",
        "asyncio",
        "ssl",
        "cryptography",
        "docker",
        "sqlite3",
        "prometheus_client",
        "logging",
        "rich",
    }
    assert heavy & set(modules) == set()
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a read-only file system")
def test_it_works_on_a_read_only_file_system() -> None:
    """Two nodes in one process peer where nothing can be written, HOME included."""
    program = (
        "import laila\n"
        "from laila.macros.defaults import *\n"
        "a, b = DefaultPolicy(), DefaultPolicy()\n"
        "at = b.communication.add_connection(DefaultTCPIPProtocol())\n"
        "peer = a.peers[a.communication.add_tcpip_peer('127.0.0.1', at.port, at.peer_secret_key)]\n"
        "peer.memorize(laila.constant(1, nickname='x')).wait()\n"
        "try:\n"
        "    open('/tmp/written', 'w'); print('writable')\n"
        "except OSError:\n"
        "    print(b.remember(nickname='x').data)\n"
        "laila.terminate()\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$0" -c "$1"', sys.executable, program],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "HOME": "/nonexistent"},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "1", "")
