"""One host as the ssh driver sees it: connections that are made when they are needed, and a steward that answers there.

The steward is sent over the connection and lives as long as it does. A connection that was lost is
made anew by the next request; a request that was under way is an error, because nobody knows whether it was done. What
sshd allows for one connection (ten sessions, usually) is no limit: another connection is made.
"""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import shlex
import threading
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from laila.errors import DeadlineExceeded, LabError, LailaError
from laila.lab.drivers.ssh import connection
from laila.lab.drivers.ssh.channel import SshProgram
from laila.lab.topology import HostSpec

LEASE = 10.0
"""Seconds after which a fault agent undoes everything, unless it is told again that its controller reaches it."""
OLDEST_PYTHON = (3, 11)
_STARTS_WITHIN = 20.0
_FORGIVES = 3.0
"""Seconds for which a host that could not be reached is not tried again: many may ask at once."""
_BOOT = 'import sys;n=int(sys.argv.pop(1));exec(compile(sys.stdin.buffer.read(n),"steward","exec"))'
_PYTHON = "-BIS"
"""No bytecode files, nothing of the environment, no site packages: the standard library."""


def source(*path: str) -> str:
    """A file of ours that is sent to hosts."""
    return files("laila.lab").joinpath(*path).read_text(encoding="utf-8")


@functools.cache
def steward_program() -> str:
    """The steward and what it imports, as one program that needs no laila."""
    modules = {name: source("drivers", "ssh", f"{name}.py") for name in ("process", "place")}
    lines = ["import sys, types"]
    for name, text in modules.items():
        full = f"laila.lab.drivers.ssh.{name}"
        lines.append(f"module = sys.modules[{full!r}] = types.ModuleType({full!r})")
        lines.append(f"exec(compile({text!r}, {name!r}, 'exec'), module.__dict__)")
    lines.append(f"exec(compile({source('drivers', 'ssh', 'steward.py')!r}, 'steward', 'exec'))")
    return "\n".join(lines) + "\n"


def programs() -> dict[str, str]:
    """What lies in a run's directory, by name."""
    agents = {"agent.py": source("faults", "agent.py"), "ssh_agent.py": source("drivers", "ssh", "agent.py")}
    return {"steward.py": steward_program(), **agents}


class SshHost:
    """Safe under threads."""

    def __init__(self, spec: HostSpec, run_id: str) -> None:
        self.spec = spec
        self.where = connection.where(spec)
        self._run = run_id
        self._clients: list[Any] = []
        self._steward: _Steward | None = None
        self._failed: tuple[float, str] = (0.0, "")
        self._connecting = threading.RLock()
        self._asking = threading.Lock()
        self._powers: dict[str, Any] | None = None

    # -- asking the steward

    def ask(self, op: str, *, timeout: float = 30.0, **words: Any) -> dict[str, Any]:
        """What the steward answers. Raises LabError with its words, or with those of the connection."""
        with self._asking:
            steward = self._steward
            if steward is None or not steward.lives:
                steward = self._steward = self._employ()
            try:
                answer = steward.ask(op, timeout, words)
            except LabError:
                steward.program.close()
                self._steward = None
                raise
        if not answer["ok"]:
            raise LabError(f"{self.where}: {answer['error']}")
        return dict(answer["result"])

    def hello(self) -> dict[str, Any]:
        """What the steward said of this host. Raises LabError."""
        with self._asking:
            if self._steward is None or not self._steward.lives:
                self._steward = self._employ()
            return self._steward.hello

    @property
    def root(self) -> str:
        """This run's directory there."""
        return str(self.hello()["root"])

    def powers(self) -> dict[str, Any]:
        """What fault agents can do there; asked once."""
        if self._powers is None:
            self._powers = self.ask("powers", agent=source("faults", "agent.py"), timeout=90)
        return self._powers

    def _employ(self) -> _Steward:
        marks = {"LAILA_LAB_RUN": self._run, "LAILA_LAB_STEWARD": "1"}
        text = steward_program().encode()
        words = [_PYTHON, "-c", _BOOT, str(len(text)), "serve", self._run, self.spec.home]
        program = self._start(marks, [self.spec.python, *words], "")
        steward = _Steward(program, self.where)
        try:
            steward.greet(text, self.spec.python)
            return steward
        except BaseException:
            program.close()
            raise

    # -- other programs

    def beside(self, node: str, argv: Sequence[str], root: str) -> tuple[SshProgram, bytes]:
        """A program beside a node, and what it has printed so far. Raises LabError when it cannot be started."""
        token = secrets.token_hex(8)
        marks = {"LAILA_LAB_RUN": self._run, "LAILA_LAB_NODE": node, "LAILA_LAB_TOKEN": token}
        words = [self.spec.python, _PYTHON, f"{root}/steward.py", "beside", node, json.dumps(list(argv))]
        program = self._start(marks, words, token)
        deadline, said = time.monotonic() + _STARTS_WITHIN, b""
        try:
            while b"\n" not in said and (data := program.read(deadline)):
                said += data
        except LailaError as error:
            with contextlib.suppress(LabError):  # out of reach: its own connection ends it, or `remove` does
                program.end()
            program.close()
            raise LabError(f"{argv[0]!r} beside {node} on {self.where} did not start: {error}") from error
        word, _, rest = said.partition(b"\n")
        if word == b"+":
            return program, rest
        program.wait(2.0)
        complaint = b"".join(program.complaints()).decode("utf-8", "replace").strip().splitlines()
        program.close()
        why = word.decode("utf-8", "replace").removeprefix("! ") or (complaint or ["nobody says why"])[-1]
        raise LabError(f"cannot run {argv[0]!r} beside {node} on {self.where}: {why}")

    def agent(self, root: str, *, mounts: bool) -> SshProgram:
        """A fault agent with root rights there, which goes on for LEASE seconds at a time."""
        powers, ours = self.powers(), self.hello()["connection"]
        token = secrets.token_hex(8)
        marks = {"LAILA_LAB_RUN": self._run, "LAILA_LAB_STEWARD": "agent", "LAILA_LAB_TOKEN": token}
        spare = ["--spare", f"{ours[0]},{ours[3]}"] if len(ours) == 4 else []
        words = [self.spec.python, _PYTHON, f"{root}/ssh_agent.py", *spare, "--lease", f"{LEASE:g}"]
        # The shell above it is a process that it may enter: in the host's namespaces, and alive as long as it is.
        script = f"{shlex.join(words)} {'--pid $$' if mounts else ''}; exit $?"
        if powers["sudo"]:  # which takes the environment away
            environment = [f"{name}={value}" for name, value in marks.items()]
            script = shlex.join(["exec", "sudo", "-n", "env", *environment, "/bin/sh", "-c", script])
        return self._execute(_set(marks) + script, token)

    def _start(self, marks: dict[str, str], words: Sequence[str], token: str) -> SshProgram:
        """Below a shell that tells a signal by 128 and its number."""
        return self._execute(f"{_set(marks)}{shlex.join(words)}; exit $?", token)

    def _execute(self, script: str, token: str) -> SshProgram:
        """Whatever shell the user has there, a plain one runs it."""
        raw = self._session()
        try:
            raw.exec_command(f"exec /bin/sh -c {shlex.quote(script)}")
        except Exception as error:  # paramiko's own, and those of sockets
            raw.close()
            raise LabError(f"{self.where} does not run programs for us: {error}") from error
        return SshProgram(raw, self.where, lambda: self._end(token))

    def _end(self, token: str) -> None:
        if token:
            sudo = bool(self._powers and self._powers.get("sudo"))
            self.ask("end", token=token, sudo=sudo)

    # -- connections

    def _session(self) -> Any:
        """A fresh session, of a fresh connection where that is needed. Raises LabError."""
        try:
            return self._transport(fresh=False).open_session(timeout=connection.CONNECT_WITHIN)
        except LabError:
            raise
        except Exception:  # paramiko's own, and those of sockets
            transport = self._transport(fresh=True)
        try:
            return transport.open_session(timeout=connection.CONNECT_WITHIN)
        except Exception as error:  # as above
            raise LabError(f"{self.where} opens no session: {error}") from error

    def _transport(self, *, fresh: bool) -> Any:
        with self._connecting:
            for client in [one for one in self._clients if not one.get_transport().is_active()]:
                self._clients.remove(client)
                client.close()
            if fresh or not self._clients:
                at, why = self._failed
                if time.monotonic() - at < _FORGIVES:
                    raise LabError(why)
                try:
                    self._clients.append(connection.connect(self.spec))
                except LabError as error:
                    self._failed = (time.monotonic(), str(error))
                    raise
            return self._clients[-1].get_transport()

    def close(self) -> None:
        """Programs that still run there lose their input; nodes go on."""
        with self._connecting:
            for client in self._clients:
                client.close()
            self._clients.clear()
        self._steward = None


def _set(marks: dict[str, str]) -> str:
    """Variables for the command that follows, in shell."""
    return "".join(f"{name}={shlex.quote(value)} " for name, value in marks.items())


class _Steward:
    """The controller's end of its conversation: one question at a time."""

    def __init__(self, program: SshProgram, where: str) -> None:
        self.program = program
        self._where = where
        self._number = 0
        self._pending = b""
        self.hello: dict[str, Any] = {}

    @property
    def lives(self) -> bool:
        raw = self.program.raw
        return not raw.closed and not raw.exit_status_ready() and bool(raw.get_transport().is_active())

    def greet(self, text: bytes, python: str) -> None:
        """Send the program; take its first answer."""
        with contextlib.suppress(OSError):  # it ended first; its complaint says why
            self.program.raw.sendall(text)
        try:
            answer = self._answer(time.monotonic() + connection.CONNECT_WITHIN)
        except DeadlineExceeded:
            raise LabError(f"{python} on {self._where} says nothing") from None
        if answer is None:
            self.program.wait(2.0)
            said = b"".join(self.program.complaints()).decode("utf-8", "replace").strip().splitlines()
            raise LabError(f"{python} on {self._where} cannot be used: {(said or ['it ends at once'])[-1]}")
        self.hello = answer["result"]
        if tuple(self.hello["version"]) < OLDEST_PYTHON:
            has = ".".join(map(str, self.hello["version"]))
            raise LabError(
                f"{python} on {self._where} is Python {has}; laila needs {'.'.join(map(str, OLDEST_PYTHON))}"
            )

    def ask(self, op: str, timeout: float, words: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "op": op, **words}
        self.program.raw.settimeout(timeout)
        try:
            self.program.raw.sendall(json.dumps(request).encode() + b"\n")
            answer = self._answer(time.monotonic() + timeout)
        except (DeadlineExceeded, TimeoutError):
            raise LabError(f"{self._where} did not answer within {timeout:g} s ({op})") from None
        except OSError as error:
            raise LabError(f"the connection to {self._where} was lost ({op}): {error}") from error
        if answer is None:
            raise LabError(f"the steward of this run on {self._where} ended ({op})")
        return answer

    def _answer(self, deadline: float) -> dict[str, Any] | None:
        """None when it has ended."""
        while b"\n" not in self._pending:
            if not (data := self.program.read(deadline)):
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return dict(json.loads(line))
