"""laila itself: two nodes that share a secret, the client using the public verbs as a user would."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contender import Address, Announce, Contender, Record

POOL = "store"


class Laila(Contender):
    """A library process with a memory pool serves; the client's active policy is the proxy of that peer."""

    def serve(self, announce: Announce) -> None:
        import laila
        from laila.macros.defaults import DefaultPolicy, DefaultPool, DefaultTCPIPProtocol

        policy = DefaultPolicy()
        laila.memory.extend(pool=DefaultPool(), pool_nickname=POOL)
        listener = DefaultTCPIPProtocol(host="127.0.0.1", port=0, peer_secret_key=secrets.token_hex(32))
        policy.communication.add_connection(listener)
        announce({"port": listener.port, "secret": listener.peer_secret_key})
        threading.Event().wait()

    def connect(self, address: Address) -> None:
        import laila
        from laila.macros.defaults import DefaultPolicy

        self.laila = laila
        policy = DefaultPolicy()
        peer = policy.communication.add_tcpip_peer("127.0.0.1", address["port"], address["secret"])
        proxy = policy.peers[peer]
        if threading.current_thread() is threading.main_thread():
            laila.active_policy = proxy
        else:  # one of many clients in this process: each thread has its own node and link
            self.scope = contextlib.ExitStack()
            self.scope.enter_context(laila.using(proxy))

    def put(self, value: Record) -> str:
        entry = self.laila.constant(value)
        self.laila.memorize(entry, pool_nickname=POOL).wait()
        return str(entry.global_id)

    def get(self, key: str) -> Record:
        found: Record = self.laila.remember(key, pool_nickname=POOL).data
        return found

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        remember = self.laila.remember
        futures = [remember(key, pool_nickname=POOL) for key in keys]
        return [future.data for future in futures]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        found: list[Record] = self.laila.remember(entry_ids=list(keys), pool_nickname=POOL).data
        return found

    def prepare(self, array: Any) -> Any:
        return self.laila.constant(array, copy=False)  # handed over, as one does with an array that is done

    def forget(self, key: str) -> None:
        self.laila.forget(key, pool_nickname=POOL).wait()

    def put_array(self, prepared: Any) -> str:
        self.laila.memorize(prepared, pool_nickname=POOL).wait()
        return str(prepared.global_id)

    def get_array(self, key: str) -> Any:
        return self.laila.remember(key, pool_nickname=POOL).data


class LailaNode(Laila):
    """The daemon, `laila node`, with a memory pool: for its memory at rest."""

    def serve(self, announce: Announce) -> None:
        folder = Path(tempfile.mkdtemp(prefix="laila-bench-node-"))
        secret = secrets.token_hex(32)
        secret_file = folder / "secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(secret)
        port, status = _free_port(), _free_port()
        settings = {
            "LAILA_NAME": "bench",
            "LAILA_LISTEN": f"127.0.0.1:{port}",
            "LAILA_STATUS": f"127.0.0.1:{status}",
            "LAILA_SECRET_FILE": str(secret_file),
            "LAILA_STATE_DIR": str(folder / "state"),
            "LAILA_POOLS": f"{POOL}=memory",
        }
        announce({"port": port, "secret": secret})
        os.dup2(2, 1)  # the daemon's own lines are not answers to the harness
        program = str(Path(sys.executable).with_name("laila"))
        os.execve(program, [program, "node"], {**os.environ, **settings})  # noqa: S606  # the daemon takes this pid

    def connect(self, address: Address) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", address["port"]), timeout=1):
                    break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        super().connect(address)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
