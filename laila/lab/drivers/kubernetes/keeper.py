"""The first process of a node's pod in a lab: it starts, signals and outlives the node, so that a node which was killed
stays dead until the lab starts it, on the same files, in the same pod.

It needs Python and Linux, nothing else: the driver sends it in a ConfigMap. `keep` is the pod's own command; `talk`
carries JSON lines between its input and the keeper; `beside` becomes a program beside the node. When the pod is told to
end, the node is, as without a keeper, and its exit code becomes the pod's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACE = Path(os.environ.get("LAILA_LAB_PLACE", "/run/laila-lab"))
TOKEN = "LAILA_LAB_TOKEN"  # noqa: S105  a variable's name
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}


class Refused(Exception):
    """What was asked cannot be done; why is for people."""


def stat_of(pid: int) -> str:
    """R, S, D, T, Z …; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def processes() -> list[int]:
    """Pids that live, without what is dead and not yet buried."""
    every = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in every if stat_of(pid) not in ("", "Z")]


def becoming(pid: int) -> bool:
    """Whether it is the runtime's own, about to become a program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").startswith("runc:[")
    except OSError:
        return False


def marked(token: str) -> list[int]:
    mark, found = f"{TOKEN}={token}".encode(), []
    for pid in processes():
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def until(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Keeper:
    """The methods named `op_…` are the operations; their arguments are the words of the request."""

    def __init__(self, argv: list[str], state: Path) -> None:
        self.argv = argv
        self.home = state
        self.pid = 0
        self.code: int | None = None
        self.starts = 0
        self.ending = False
        self.talking: dict[int, int] = {}
        """Pids of those who carry what is asked here: they live on when all others are ended."""
        self._lock = threading.Lock()

    # -- the node

    def start(self) -> None:
        program = shutil.which(self.argv[0])
        if program is None:
            raise Refused(f"there is no program {self.argv[0]!r}")
        with self._lock:
            self.code, self.starts = None, self.starts + 1
            # `setsid`: what the node is sent by its terminal's group is not sent to the keeper.
            self.pid = os.posix_spawn(program, self.argv, os.environ, setsid=True, setsigmask=[])

    def reap(self) -> None:
        """Bury who died; among them may be the node, and programs whose parents went first."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            with self._lock:
                if pid == self.pid:
                    self.pid, self.code = 0, os.waitstatus_to_exitcode(status)

    def beside(self) -> list[int]:
        """The node and every program beside it. What is only becoming one is left alone: the container's runtime waits
        for it, and it asks for itself (`beside`).
        """
        if os.getpid() != 1:  # no container: what lives here is not all ours
            return [self.pid] if self.pid else []
        spared = {os.getpid(), *self.talking}
        return [pid for pid in processes() if pid not in spared and not becoming(pid)]

    def terminate(self) -> None:
        send(self.beside(), signal.SIGCONT)
        send([self.pid] if self.pid else [], signal.SIGTERM)

    # -- what is asked

    def op_hello(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "starts": self.starts,
            "python": sys.version.split()[0],
            "kernel": os.uname().release,
        }

    def op_state(self) -> dict[str, Any]:
        pid = self.pid
        state = "exited" if not pid else "paused" if stat_of(pid) in ("T", "t") else "running"
        return {"state": state, "pid": pid, "code": self.code}

    def op_start(self) -> dict[str, Any]:
        if self.pid:
            raise Refused("it runs already")
        self.start()
        return self.op_state()

    def op_stop(self, grace: float) -> dict[str, Any]:
        self.terminate()
        if not until(lambda: not self.pid, grace):
            self.op_kill()
        return self.op_state()

    def op_kill(self) -> dict[str, Any]:
        """The node first, and every program beside it."""
        send([self.pid] if self.pid else [], signal.SIGKILL)

        def gone() -> bool:
            send(left := self.beside(), signal.SIGKILL)
            return not left and not self.pid

        until(gone, 5.0)
        return {"left": self.beside(), **self.op_state()}

    def op_pause(self) -> dict[str, Any]:
        def still() -> bool:
            moving = [pid for pid in self.beside() if stat_of(pid) not in ("T", "t", "")]
            send(moving, signal.SIGSTOP)
            return not moving

        return {"still": until(still, 5.0)}

    def op_resume(self) -> dict[str, Any]:
        send(self.beside(), signal.SIGCONT)
        return {}

    def op_end(self, token: str) -> dict[str, Any]:
        """A program beside the node, with all that it started."""

        def gone() -> bool:
            send(left := marked(token), signal.SIGKILL)
            return not left

        return {"gone": until(gone, 5.0)}

    def op_write(self, path: str, data: str, first: bool) -> dict[str, Any]:
        target = self.home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb" if first else "ab") as file:
            file.write(base64.b64decode(data))
        return {}

    def op_read(self, path: str, offset: int, limit: int) -> dict[str, Any]:
        with (self.home / path).open("rb") as file:
            file.seek(offset)
            return {"data": base64.b64encode(file.read(limit)).decode()}

    def answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        try:
            return {"ok": True, "result": getattr(self, f"op_{request.pop('op')}")(**request)}
        except Refused as error:
            why = str(error)
        except OSError as error:
            why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return {"ok": False, "error": why}

    # -- its life

    def listen(self, door: Path) -> None:
        door.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(door))
        server.listen(16)
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def _serve(self, server: socket.socket) -> None:
        while True:
            client, _ = server.accept()
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def _converse(self, client: socket.socket) -> None:
        size = struct.calcsize("3i")
        pid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
        self.talking[pid] = self.talking.get(pid, 0) + 1
        try:
            with client, client.makefile("rb") as lines:
                for line in lines:
                    client.sendall(json.dumps(self.answer(line)).encode() + b"\n")
        except OSError:
            return
        finally:
            self.talking.pop(pid, None)

    def keep(self) -> int:
        """Until the pod is told to end; the exit code."""
        while True:
            number = signal.sigwait(WATCHED)
            if number == signal.SIGCHLD:
                self.reap()
            else:
                self.ending = True
                self.terminate()
            if self.ending and not self.pid:
                code = self.code or 0
                return code if code >= 0 else 128 - code


def keep(argv: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    keeper = Keeper(argv, Path(os.environ.get("LAILA_STATE_DIR", "/var/lib/laila")))
    keeper.listen(PLACE / "keeper")
    try:
        keeper.start()
    except (Refused, OSError) as error:
        print(f"the lab's keeper cannot start the node: {error}", file=sys.stderr, flush=True)
    return keeper.keep()


def ask(op: str) -> dict[str, Any]:
    """One question to the keeper."""
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.connect(str(PLACE / "keeper"))
        keeper.sendall(json.dumps({"op": op}).encode() + b"\n")
        with keeper.makefile("rb") as answers:
            result: dict[str, Any] = json.loads(answers.readline())["result"]
            return result


def talk() -> int:
    """Lines to the keeper and back, until the input ends."""
    with socket.socket(socket.AF_UNIX) as keeper:
        keeper.connect(str(PLACE / "keeper"))
        with keeper.makefile("rb") as answers:
            for line in sys.stdin.buffer:
                keeper.sendall(line)
                sys.stdout.buffer.write(answers.readline())
                sys.stdout.buffer.flush()
    return 0


def beside(token: str, argv: list[str]) -> int:
    """Become this program. Says first, in a line on stdout, that it does (+) or why not (!)."""
    if (state := ask("state")["state"]) == "exited":
        os.write(1, b"! the node does not run any more\n")
        return 127
    if shutil.which(argv[0]) is None:
        os.write(1, f"! there is no program {argv[0]!r} beside the node\n".encode())
        return 127
    with contextlib.suppress(OSError):
        os.setsid()
    if state == "paused":
        os.kill(os.getpid(), signal.SIGSTOP)
    os.write(1, b"+\n")
    os.execvpe(argv[0], argv, {**os.environ, TOKEN: token})  # noqa: S606  its argv is the caller's


def main() -> int:
    way, *words = sys.argv[1:]
    if way == "keep":
        return keep(words)
    return talk() if way == "talk" else beside(words[0], words[1:])


if __name__ == "__main__":
    sys.exit(main())
