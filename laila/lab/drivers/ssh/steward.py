"""What the ssh driver runs on a host: it starts, signals, reads and removes what a run has there.

It needs Python and Linux, nothing else. `host` sends it over the connection, with the two modules that it imports.
`serve` takes operations as JSON lines, answers each with one, and ends with its input; `beside` becomes a program
beside a node; `end` ends what carries a token, for those who need root for it.

Nodes outlive this program. Above each is a keeper, a fork of it that waits for the node and writes down how it ended.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from laila.lab.drivers.ssh.place import (
    Place,
    Ports,
    Refused,
    make_volume,
    part,
    read_json,
    remove_tree,
    unmount,
    write_whole,
)
from laila.lab.drivers.ssh.process import (
    NODE,
    RUN,
    STEWARD,
    TOKEN,
    boot,
    end,
    end_agents,
    marked,
    signal_all,
    stat_of,
    until,
)

IDLE = 900.0
"""Seconds after which a steward ends that nobody asks: its connection is gone, and nobody told it."""
INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")


class Steward:
    """The methods named `op_…` are the operations; their arguments are the words of the request."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ports = Ports()

    def op_hello(self) -> dict[str, Any]:
        return {
            "root": str(self.place.root),
            "python": sys.executable,
            "version": list(sys.version_info[:3]),
            "system": os.uname().sysname,
            "machine": os.uname().machine,
            "kernel": os.uname().release,
            "connection": os.environ.get("SSH_CONNECTION", "").split(),
        }

    def op_laila(self) -> dict[str, Any]:
        """What version of laila runs here."""
        words = [sys.executable, "-m", "laila.cli.main", "version"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/")
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise Refused(f"{sys.executable} has no laila that works: {why}")
        return {"version": done.stdout.split()[1]}

    # -- the run

    def op_make(
        self,
        programs: dict[str, str],
        nodes: list[str],
        secrets: dict[str, str],
        volumes: list[dict[str, Any]],
        ipv6: bool,
    ) -> dict[str, Any]:
        root = self.place.root
        for directory in (root, *(root / name for name in ("nodes", "secrets", "volumes", "faults"))):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in programs.items():
            write_whole(root / name, text)
        for name, text in secrets.items():
            write_whole(root / "secrets" / name, text)
        for name in nodes:
            for directory in (self.place.node(name), self.place.node(name) / "state"):
                directory.mkdir(mode=0o700, exist_ok=True)
        hindrances = {spec["name"]: make_volume(spec) for spec in volumes}
        return {
            "ports": self.ports.choose(self.place, nodes, ipv6),
            "hindrances": {name: why for name, why in hindrances.items() if why},
        }

    def op_put(self, path: str, data: str) -> dict[str, Any]:
        """A file of the run's own; whoever has the old one open keeps it."""
        target = self.place.root / path
        new = target.with_name(target.name + ".new")
        new.write_bytes(base64.b64decode(data))
        new.replace(target)
        return {}

    def op_leave_mark(self, path: str, name: str) -> dict[str, Any]:
        (Path(path) / name).touch()
        return {}

    def op_marks(self, path: str) -> dict[str, Any]:
        return {"names": sorted(found.name for found in Path(path).iterdir())}

    def op_remains(self, volumes: list[str]) -> dict[str, Any]:
        helpers = marked((RUN, self.place.run), (STEWARD, "1"))
        mine = [pid for pid in marked((RUN, self.place.run)) if pid not in helpers]
        paths = [path for path in (str(self.place.root), *volumes) if Path(path).exists()]
        return {"found": [f"process {pid}" for pid in mine] + paths}

    def op_end_all(self, sudo: bool) -> dict[str, Any]:
        """End every process of this run here. Fault agents may undo what they did; keepers go before their nodes."""
        end_agents(self.place.run)
        self._end_as_root(sudo, "")
        tidy(self.place.root)
        self.ports.release()
        end(lambda: marked((RUN, self.place.run), (STEWARD, "1")))
        return {"left": [f"process {pid}" for pid in end(lambda: marked((RUN, self.place.run)))]}

    def op_clear(self, volumes: list[str]) -> dict[str, Any]:
        """Remove this run's files."""
        left = [one for path in (self.place.root, *map(Path, volumes)) for one in remove_tree(path)]
        with contextlib.suppress(OSError):  # others' runs are there
            self.place.root.parent.rmdir()
        return {"left": left}

    # -- one node

    def op_state(self, node: str) -> dict[str, Any]:
        return {"state": self.place.state(node)}

    def op_start(self, node: str, environment: dict[str, str]) -> dict[str, Any]:
        if (state := self.place.state(node)) not in ("absent", "exited"):
            raise Refused(f"cannot start {node}: it is {state}")
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        path = f"{Path(sys.executable).parent}:{inherited.get('PATH') or os.defpath}"
        marks = {RUN: self.place.run, NODE: node, "PYTHONUNBUFFERED": "1"}
        settings = {**inherited, "PATH": path, **environment, **marks}
        write_whole(self.place.node(node) / "environment", json.dumps(settings))
        (self.place.node(node) / "exit").unlink(missing_ok=True)
        if complaint := keep(self.place.node(node), settings):
            raise Refused(f"cannot start {node}: {complaint}")
        return {}

    def op_pid(self, node: str) -> dict[str, Any]:
        return {"pid": self.place.pid(node)}

    def op_terminate(self, node: str) -> dict[str, Any]:
        pid = self.place.pid(node)
        signal_all([] if pid is None else [pid], signal.SIGTERM)
        return {}

    def op_kill(self, node: str) -> dict[str, Any]:
        """The node first, and every program beside it."""
        pid = self.place.pid(node)
        signal_all([] if pid is None else [pid], signal.SIGKILL)
        return {"left": end(lambda: self._beside(node))}

    def op_exit_code(self, node: str) -> dict[str, Any]:
        written = self.place.node(node) / "exit"
        until(written.exists, 2.0)
        return {"code": read_json(written).get("code")}

    def op_pause(self, node: str) -> dict[str, Any]:
        def still() -> bool:
            moving = [pid for pid in self._beside(node) if (stat_of(pid) or "T")[0] not in "Tt"]
            signal_all(moving, signal.SIGSTOP)
            return not moving

        return {"still": until(still, 5.0)}

    def op_resume(self, node: str) -> dict[str, Any]:
        signal_all(self._beside(node), signal.SIGCONT)
        return {}

    def op_end(self, token: str, sudo: bool) -> dict[str, Any]:
        """A program beside a node, or an agent, with all that it started."""
        end_agents(self.place.run, token)
        self._end_as_root(sudo, token)
        return {"left": end(lambda: marked((RUN, self.place.run), (TOKEN, token)))}

    def _beside(self, node: str) -> list[int]:
        return marked((RUN, self.place.run), (NODE, node))

    def _end_as_root(self, sudo: bool, token: str) -> None:
        program = self.place.root / "steward.py"
        if sudo and os.getuid() and program.exists():
            words = ["sudo", "-n", sys.executable, "-BIS", str(program), "end", self.place.run, token]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    # -- files

    def op_write(self, node: str, path: str, data: str, first: bool) -> dict[str, Any]:
        target = self.place.inside(node, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb" if first else "ab") as file:
            file.write(base64.b64decode(data))
        return {}

    def op_read(self, node: str, path: str, offset: int, limit: int) -> dict[str, Any]:
        return part(self.place.inside(node, path), offset, limit)

    def op_log(self, node: str, offset: int, limit: int) -> dict[str, Any]:
        path = self.place.node(node) / "log"
        return part(path, offset, limit) if path.exists() else {"data": ""}

    # -- for faults

    def op_powers(self, agent: str) -> dict[str, Any]:
        """How one becomes root here, which of root's capabilities there are, and what a fault agent can do."""
        way = [] if os.getuid() == 0 else ["sudo", "-n"]
        try:
            status = subprocess.run(
                [*way, "cat", "/proc/self/status"], capture_output=True, text=True, timeout=15
            )
        except (OSError, subprocess.TimeoutExpired):
            return {"root": False}
        if status.returncode:
            return {"root": False}
        able = next(line.split()[1] for line in status.stdout.splitlines() if line.startswith("CapEff"))
        found = {"root": True, "sudo": bool(way), "capabilities": int(able, 16)}
        with tempfile.TemporaryDirectory() as place:
            program = Path(place) / "agent.py"
            program.write_text(agent, encoding="utf-8")
            words = [*way, sys.executable, "-BIS", str(program), "--try"]
            tried = subprocess.run(words, capture_output=True, text=True, timeout=60)
        if tried.returncode:
            raise Refused((tried.stderr.strip().splitlines() or ["the fault agent cannot be tried"])[-1])
        return {**found, "lacks": json.loads(tried.stdout)}

    def op_resolve(self, host: str) -> dict[str, Any]:
        try:
            return {"ips": sorted({str(found[4][0]) for found in socket.getaddrinfo(host, None)})}
        except OSError as error:
            raise Refused(f"cannot find the address of {host}: {error.strerror or error}") from None

    def op_sources(self, targets: list[str]) -> dict[str, Any]:
        """The own addresses from which packets to these go."""
        found = set()
        for target in targets:
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            # Where there is no way to it, nothing goes there.
            with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
                probe.connect((target, 9))  # sends nothing
                found.add(str(probe.getsockname()[0]))
        return {"ips": sorted(found)}


def keep(directory: Path, environment: dict[str, str]) -> str:
    """Start the node below a keeper of its own. Returns when it runs; what went wrong, empty when nothing did."""
    mine, theirs = os.pipe()
    if (child := os.fork()) == 0:
        if os.fork() == 0:
            os.close(mine)
            keeper(directory, environment, theirs)
        os._exit(0)  # so that the keeper is nobody's child here
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(mine, "rb") as told:
        return told.read().decode("utf-8", "replace")


def keeper(directory: Path, environment: dict[str, str], told: int) -> None:
    """Never returns. It must hold nothing of the connection, because sshd waits for whoever does."""
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number, handle in enumerate((nothing, nothing, nothing, told)):
            os.dup2(handle, number, inheritable=number < 3)
        os.closerange(4, 4096)
        os.chdir(directory)
        with open("log", "ab") as log:  # noqa: PTH123  below the working directory
            words = [sys.executable, "-m", "laila.cli.main", "node"]
            node = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        stat = stat_of(node.pid) or ("", "")
        process = {"pid": node.pid, "started": stat[1], "boot": boot()}
        write_whole(directory / "process", json.dumps(process))
        os.close(3)
        write_whole(directory / "exit", json.dumps({"code": node.wait()}))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(3, str(error).encode())
    finally:
        os._exit(0)


def serve(run: str, home: str) -> None:
    """Says who it is, and answers."""
    steward, pending = Steward(Place.of(home, run)), b""
    say(json.dumps({"id": 0, "ok": True, "result": steward.op_hello()}))
    while select.select([0], [], [], IDLE)[0] and (data := os.read(0, 1 << 20)):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            say(json.dumps(answer(steward, json.loads(line))))


def answer(steward: Steward, request: dict[str, Any]) -> dict[str, Any]:
    number, op = request.pop("id"), request.pop("op")
    try:
        return {"id": number, "ok": True, "result": getattr(steward, f"op_{op}")(**request)}
    except Refused as error:
        why = str(error)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except subprocess.TimeoutExpired as error:
        why = str(error)
    return {"id": number, "ok": False, "error": why}


def say(line: str) -> None:
    data = line.encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def beside(node: str, argv: list[str]) -> None:
    """Become this program beside a node. Says first, on a line of its own, that it does (+) or why not (!)."""
    place = Place(Path(__file__).resolve().parent)
    if place.state(node) not in ("running", "paused"):
        return say("! the node does not run any more")
    environment = {**read_json(place.node(node) / "environment"), TOKEN: os.environ[TOKEN]}
    if argv[0] == "laila":
        argv = [sys.executable, "-m", "laila.cli.main", *argv[1:]]
    os.chdir(place.node(node))
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        return say(f"! there is no program {argv[0]!r}")
    with contextlib.suppress(OSError):  # it leads a session already
        os.setsid()
    say("+")
    os.execve(program, argv, environment)  # noqa: S606  its argv is the caller's


def tidy(root: Path) -> None:
    """Undo what killed agents left: rules that are written down here, and mounts over what is here. Needs root."""
    agent, names = root / "ssh_agent.py", root / "faults"
    if os.getuid() != 0:
        return
    if names.exists() and any(names.iterdir()):
        subprocess.run([sys.executable, "-BIS", str(agent), "--clear"], capture_output=True, timeout=60)
    unmount(root)


def end_as_root(run: str, token: str) -> None:
    """The agents of a run, or one: what they did is undone first."""
    end_agents(run, token)
    if not token:
        tidy(Path(__file__).resolve().parent)


if __name__ == "__main__":
    way, *words = sys.argv[1:]
    if way == "serve":
        serve(*words)
    elif way == "beside":
        beside(words[0], json.loads(words[1]))
    else:
        end_as_root(*words)
