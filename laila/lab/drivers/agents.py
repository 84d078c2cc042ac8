"""Where the fault agents of containers run: on this host, in the container's namespaces; else in a side container.

An engine of this machine tells the process id of a container, and root may enter what that process sees. Where that is
not so (a person who is not root, Docker Desktop, an engine elsewhere), a container with the right NET_ADMIN shares the
node's network; it sees none of the node's files, so mounts are out of its reach. LAILA_LAB_AGENTS=host or =side takes
one of the two and never the other.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import laila.lab.procid as procid
from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Channel
from laila.lab.drivers.engine import absent, elsewhere, short, tar_of
from laila.lab.drivers.exec_stream import ExecChannel
from laila.lab.drivers.process_channel import ProcessChannel

AGENT = Path(__file__).parents[1] / "faults" / "agent.py"
IMAGE = "laila-faults:dev"
CHOICE = "LAILA_LAB_AGENTS"
AGENT_LABEL = "laila.lab.agent"
_SYSTEM_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED = {21: "SYS_ADMIN", 12: "NET_ADMIN"}
"""Capabilities by number."""


def start_here(pid: int, run_id: str, *, lease: float = 0.0) -> Channel:
    """An agent on this host, in the namespaces of that process. In a session of its own: Ctrl-C in a terminal must
    not end it before its controller has healed. Raises LabError.
    """
    complaints = tempfile.TemporaryFile()  # noqa: SIM115  the channel closes it
    environment = {"PATH": f"{os.environ.get('PATH', '')}:{_SYSTEM_PATHS}", procid.RUN_VARIABLE: run_id}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", str(AGENT), "--pid", str(pid), "--lease", f"{lease:g}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        complaints.close()
        raise LabError(f"cannot start a fault agent: {error.strerror}") from error
    return ProcessChannel(process, complaints)


def living(run_id: str) -> list[int]:
    """Pids of the agents of a run on this host."""
    found = []
    for pid in procid.marked(run_id):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if str(AGENT).encode() in command:
            found.append(pid)
    return found


def end(run_id: str, timeout: float = 5.0) -> None:
    """End the agents of a run on this host: first by a word, so that they undo what they did."""
    for pid in (pids := living(run_id)):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    deadline = time.monotonic() + timeout
    while set(living(run_id)) & set(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in living(run_id):
        procid.ProcessId.of(pid).end()


@functools.cache
def trial() -> Mapping[str, str]:
    """What this machine's kernel and programs can do with packets: for each feature why not, or nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(AGENT), "--try"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found: dict[str, str] = json.loads(done.stdout)
        return found
    except (subprocess.SubprocessError, ValueError) as error:
        return {"drop": f"the fault agent cannot be tried here: {short(error)}"}


def no_rights() -> str:
    """Why this process cannot enter a container of this machine; empty when it can."""
    if sys.platform != "linux":
        return f"containers are not processes of this machine ({sys.platform})"
    if os.geteuid() != 0:
        return "you are not root here"
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [name for number, name in _NEEDED.items() if not effective >> number & 1]
    return f"this process lacks {' and '.join(missing)}" if missing else ""


class ContainerAgents:
    """The agents of one run's containers. `labels` and `name` are those of what the run makes."""

    def __init__(
        self, engine: Any, labels: Callable[..., dict[str, str]], name: Callable[[str], str], run_id: str
    ) -> None:
        self._engine = engine
        self._labels = labels
        self._name = name
        self._run_id = run_id
        self._choice = os.environ.get(CHOICE, "auto")
        if self._choice not in ("auto", "host", "side"):
            raise BadConfig(f"{CHOICE} must be auto, host or side, not {self._choice!r}")

    # -- what can be done

    def packets(self) -> str:
        """Why no agent can work on packets here, with what to do; empty when one can."""
        return self.lacks("drop")

    def lacks(self, feature: str) -> str:
        """The same for one of the things that the agent does with packets."""
        not_here = self.not_here()
        if not not_here:
            why = trial().get(feature, "")
            if not why or self._choice == "host":
                return why and f"{why} (root's own iptables and tc on this host are used)"
            not_here = why
        if self._choice == "host":
            return f"{not_here}, and {CHOICE}=host allows no other way"
        if not self._engine.images.list(name=IMAGE):
            return f"{not_here}; a side container would do it, but {absent(IMAGE)}"
        return ""

    def mounts(self) -> str:
        """Why no agent can mount in a container here; empty when one can."""
        why = self.not_here()
        return why and f"{why}: only root beside the engine can mount over a directory of a container"

    def not_here(self) -> str:
        """Why the agents cannot be processes of this host; empty when they can."""
        if self._choice == "side":
            return f"{CHOICE}=side keeps agents out of this host"
        return no_rights() or self._elsewhere

    @functools.cached_property
    def _elsewhere(self) -> str:
        name = str(self._engine.info().get("Name", ""))
        other = "" if name == socket.gethostname() else f"this is no process of the engine's machine ({name})"
        return elsewhere(self._engine) or other

    # -- doing it

    def open(self, node: str, container: Any) -> Channel:
        """An agent for a running container. Raises LabError."""
        container.reload()
        pid = int(container.attrs["State"]["Pid"])
        not_here = self.not_here() or (
            "" if _is(pid, container.id) else f"process {pid} is not {node}'s here"
        )
        if not not_here and (self._choice == "host" or not trial().get("drop")):
            return start_here(pid, self._run_id)
        if self._choice == "host":
            raise LabError(f"no fault agent for {node}: {not_here}")
        return self._open_beside(node, container)

    def _open_beside(self, node: str, container: Any) -> Channel:
        """In a side container, which is made anew when the node was started anew: its network is another one then."""
        side_name, started = self._name(f"agent-{node}"), str(container.attrs["State"]["StartedAt"])
        found = self._engine.containers.list(all=True, filters={"name": f"^/?{side_name}$"})
        for old in found:
            if old.labels.get(AGENT_LABEL) == started and old.status == "running":
                return self._converse(old)
            old.remove(force=True)
        if not self._engine.images.list(name=IMAGE):
            raise LabError(f"no fault agent for {node}: {absent(IMAGE)}")
        made = self._engine.containers.create(
            IMAGE,
            name=side_name,
            labels=self._labels(**{AGENT_LABEL: started}),
            network_mode=f"container:{container.id}",
            cap_drop=["ALL"],
            cap_add=["NET_ADMIN", "NET_RAW"],  # the second for an older iptables
            security_opt=["no-new-privileges"],
            mem_limit="256m",
            pids_limit=256,
        )
        made.put_archive("/", tar_of(AGENT.name, AGENT.read_bytes(), 0o444, 0))
        made.start()
        return self._converse(made)

    def _converse(self, side: Any) -> Channel:
        return ExecChannel(self._engine.api, side.id, ["python3", "-I", f"/{AGENT.name}"])

    def end(self) -> None:
        end(self._run_id)

    def remains(self) -> list[str]:
        return [f"fault agent {pid}" for pid in living(self._run_id)]


def _is(pid: int, container: str) -> bool:
    """Whether the process of this machine with that pid is of that container, and not just of the same number."""
    try:
        seen = [Path(f"/proc/{pid}/{name}").read_text(errors="replace") for name in ("cgroup", "mountinfo")]
    except OSError:
        return False
    return any(container in text for text in seen)
