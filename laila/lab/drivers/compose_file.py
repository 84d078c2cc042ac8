"""Compose files: read by compose itself, and made fit for a run of their own.

`docker compose config` resolves variables, includes and extensions into one table, in which `fit` changes what would
let two runs meet, or a run and its neighbours: fixed names and host ports go, everything carries the run's labels, and
nothing comes back to life by itself, because that is what the lab does. The rest stays as its author wrote it. The
table is written down as JSON, which compose takes too.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laila.errors import BadConfig, DeadlineExceeded, LabError

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
STARTED, HEALTHY, COMPLETED = "service_started", "service_healthy", "service_completed_successfully"
READING = 60.0
MAKING = 900.0
"""Seconds that compose may take to make a project: it may have to pull and build images."""
INSTALL = (
    "install Docker's own package docker-compose-plugin, or your distribution's (docker-compose-v2; on Debian "
    "docker-compose, of release 2 or later)"
)

_LONG = 240
"""Characters of a line that are told."""

MARK = "LAILA_NAME"
"""The setting by which a service is known as a node of laila's."""

Table = dict[str, Any]


class Unusable(LabError):
    """There is no compose on this machine."""


def hindrance() -> str:
    """Why compose cannot be used here, with what to install; empty when it can."""
    if shutil.which("docker") is None:
        return f"there is no program `docker`: {INSTALL}, with the command `docker`"
    done = subprocess.run(
        ["docker", "compose", "version", "--short"],
        capture_output=True,
        text=True,
        check=False,
        timeout=READING,
        stdin=subprocess.DEVNULL,
    )
    version = done.stdout.strip().removeprefix("v")
    if done.returncode or not version:
        return f"`docker` has no compose plugin: {INSTALL}"
    return f"compose {version} is too old: {INSTALL}" if version.startswith(("0.", "1.")) else ""


def run(words: Sequence[str], *, timeout: float, environment: Mapping[str, str] | None = None) -> str:
    """Run `docker compose WORDS` to its end; what it wrote to stdout. Raises LabError with compose's own words.

    It has a session of its own, so an interrupt is ours to pass on, and nothing of it outlives us.
    """
    try:
        process = subprocess.Popen(
            ["docker", "compose", "--progress", "quiet", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise Unusable(f"the compose driver cannot work here: {hindrance() or error}") from error
    with process:
        try:
            out, complaints = process.communicate(timeout=timeout)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise DeadlineExceeded(
                    f"waited {timeout:g} s for `docker compose {' '.join(words)}`"
                ) from None
            raise
    if process.returncode:
        if why := hindrance():
            raise Unusable(f"the compose driver cannot work here: {why}")
        raise LabError(last_words(complaints) or f"`docker compose {' '.join(words)}` failed")
    return out


def last_words(text: str, count: int = 4) -> str:
    """The end of what a program complained about, in one line, without compose's warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("time=")]
    return "; ".join(line if len(line) <= _LONG else f"{line[: _LONG - 1]}…" for line in lines[-count:])


def read(file: str, environment: Mapping[str, str] | None = None) -> Table:
    """A compose file as one resolved table. Raises BadConfig in compose's own words, LabError without compose."""
    if not Path(file).is_file():
        raise BadConfig(f"there is no compose file {file}")
    try:
        text = run(["-f", file, "config", "--format", "json"], timeout=READING, environment=environment)
    except Unusable:
        raise
    except LabError as error:
        raise BadConfig(f"compose does not take {file}: {error}") from error
    table: Table = json.loads(text)
    if not table.get("services"):
        raise BadConfig(f"{file} has no services")
    return table


def needs(service: Mapping[str, Any]) -> dict[str, str]:
    """The services that one depends on, and in which condition they must be."""
    found = service.get("depends_on") or {}
    return {name: how.get("condition", STARTED) for name, how in found.items() if how.get("required", True)}


def in_order(services: Mapping[str, Any]) -> list[str]:
    """Names of services, each after those that it depends on (compose refuses circles)."""
    found: list[str] = []

    def add(name: str) -> None:
        for other in sorted(needs(services[name])):
            if other in services and other not in found:
                add(other)
        if name not in found:
            found.append(name)

    for name in sorted(services):
        add(name)
    return found


def completed(table: Mapping[str, Any], folder: Path) -> Table:
    """A topology's table with absolute paths (they are relative to `folder`), with nodes when it names none, and with
    the word whose they are.
    """
    fields = dict(table)
    for key in ("compose", "attach"):
        if not isinstance(fields.get(key, ""), str):
            raise BadConfig(f"{key} is a text, not {fields[key]!r}")
    if fields.get("compose"):
        fields["compose"] = str((folder / fields["compose"]).resolve())
    if isinstance(client := fields.get("client"), dict):
        fields["client"] = {**client, "directory": str((folder / client.get("directory", "")).resolve())}
    known = fields.get("nodes") and (client or "theirs" in fields)
    if (fields.get("compose") or fields.get("attach")) and not known:
        fields |= _asked(fields)
    return fields


def _asked(fields: Mapping[str, Any]) -> Table:
    """What the services say: whether they are laila's nodes, and which are nodes where nobody says it."""
    services, given = _services_of(fields), fields.get("nodes") or ()
    named = [str(node.get("service") or node.get("name")) for node in given if isinstance(node, dict)]
    laila = not fields.get("client") and any(services.get(name, False) for name in named or services)
    theirs = fields.get("theirs", not laila)
    if not given:
        chosen = [name for name, is_laila in services.items() if theirs or is_laila]
        given = [{"name": node_name(name), "service": name} for name in chosen]
    return {"theirs": theirs, "nodes": given}


def _services_of(fields: Mapping[str, Any]) -> dict[str, bool]:
    """Services in the order in which they can be started, and whether each is a node of laila's."""
    if fields.get("attach"):
        from laila.lab.drivers.compose_project import services_running

        return services_running(fields["attach"])
    services = read(fields["compose"])["services"]
    return {name: MARK in (services[name].get("environment") or {}) for name in in_order(services)}


def node_name(service: str) -> str:
    """The name of a node for a service: compose allows more letters."""
    return re.sub(r"[^a-z0-9-]", "-", service.lower())


@dataclass(frozen=True, slots=True)
class Fit:
    """What makes a compose file one of this run's."""

    project: str
    labels: Mapping[str, str]
    nodes: Mapping[str, Mapping[str, str]]
    """More labels for the services that are nodes."""
    publish: int = 0
    """A port that each node publishes, at any port of this machine's loopback; 0: none but those of the file."""


def fit(table: Table, how: Fit) -> Table:
    """The table of the same system as a project of its own. Raises BadConfig for what can be no node."""
    changed = copy.deepcopy(table)
    original, changed["name"] = table.get("name", "compose"), how.project
    for name, service in changed["services"].items():
        _fit_service(name, service, how, f"{original}-{name}")
    for kind in ("networks", "volumes"):
        for name, one in (changed.get(kind) or {}).items():
            if not (one or {}).get("external"):
                kept = {key: value for key, value in (one or {}).items() if key != "name"}
                changed[kind][name] = {**kept, "labels": {**kept.get("labels", {}), **how.labels}}
    for kind in ("secrets", "configs"):
        for one in (changed.get(kind) or {}).values():
            if not one.get("external"):
                one.pop("name", None)
    return changed


def _fit_service(name: str, service: Table, how: Fit, image: str) -> None:
    service.pop("container_name", None)
    service["restart"] = "no"
    deploy = service.get("deploy") or {}
    deploy.pop("restart_policy", None)
    service["labels"] = {**(service.get("labels") or {}), **how.labels, **how.nodes.get(name, {})}
    if service.get("build") and not service.get("image"):
        service["image"] = image  # the name that compose gives it by itself, so that it is built once
    ports = service.get("ports") or []
    known = {(port["target"], port.get("protocol", "tcp")) for port in ports}
    if how.publish and name in how.nodes:
        known.add((how.publish, "tcp"))
    if known:
        service["ports"] = [
            {"target": target, "protocol": protocol, "host_ip": "127.0.0.1"}
            for target, protocol in sorted(known)
        ]
    if name in how.nodes and (count := service.get("scale", deploy.get("replicas", 1))) != 1:
        raise BadConfig(
            f"the service {name} has {count} containers, and a node is one: write that many services, or scale: 1"
        )


def without(table: Table, unwanted: Iterable[str]) -> Table:
    """The table without some services, and nobody depends on them."""
    gone = set(unwanted)
    services = {name: dict(one) for name, one in table["services"].items() if name not in gone}
    for service in services.values():
        if depends := service.get("depends_on"):
            service["depends_on"] = {name: how for name, how in depends.items() if name not in gone}
    return {**table, "services": services}


def write(table: Table, path: Path) -> None:
    """For its owner only: an environment may hold passwords."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(table, indent=1), encoding="utf-8")
