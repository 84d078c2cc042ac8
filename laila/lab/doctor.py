"""What this machine can do for the lab and what not, with reasons and remedies. Nothing is started."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import util

from laila.errors import LailaError
from laila.lab import drivers, faults, registry
from laila.lab.drivers.base import Driver
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, replicated

NEEDS_HOSTS = frozenset({"ssh"})
"""Drivers whose machines a topology names, so that nothing can be said without one."""
PROGRAMS: Mapping[str, str] = {
    "nsenter": "entering a container's namespaces (Debian: util-linux)",
    "iptables": "partitions, loss, refusal in containers and on hosts (Debian: iptables)",
    "tc": "limiting bandwidth (Debian: iproute2)",
    "losetup": "disks that can be full or lose power (Debian: mount)",
    "mkfs.ext4": "disks that can be full or lose power (Debian: e2fsprogs)",
    "cc": "clocks that jump (Debian: gcc and libc6-dev)",
}
MODULES: Mapping[str, str] = {
    "docker": "the drivers docker and compose",
    "paramiko": "the driver ssh",
    "kubernetes": "the driver kubernetes",
    "rich": "live progress",
    "pytest": "the pytest plugin laila.testing",
}
EXTRAS: Mapping[str, str] = {"pytest": "test", "kubernetes": "kubernetes"}
"""Of packages that the extra `lab` does not bring."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is what to do where it is missing."""

    about: str
    what: str
    fine: bool | None
    """None where that cannot be told."""
    detail: str = ""
    remedy: str = ""


def examine(topology: Topology | None = None) -> list[Finding]:
    """Everything, machine first, then drivers, then each driver's faults."""
    shape = topology or replace(replicated(), state_mib=64, clocks=True)
    return [*_machine(), *_tools(), *_drivers(shape)]


def _machine() -> Iterator[Finding]:
    yield Finding("machine", "system", sys.platform == "linux", platform.platform(), "faults need Linux")
    root = os.geteuid() == 0
    yield Finding(
        "machine",
        "root",
        root,
        "yes" if root else f"no, uid {os.geteuid()}",
        "faults inside containers need root here, or a side container (tools/faults-image); disks and mounts need root",
    )
    yield Finding(
        "machine", "processors", (os.cpu_count() or 1) >= 2, str(os.cpu_count()), "timing will be coarse"
    )


def _tools() -> Iterator[Finding]:
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    for program, purpose in PROGRAMS.items():
        found = shutil.which(program, path=path)
        yield Finding("program", program, found is not None, found or "absent", f"needed for {purpose}")
    for module, purpose in MODULES.items():
        there = util.find_spec(module) is not None
        extra = EXTRAS.get(module, "lab")
        remedy = f"needed for {purpose}: pip install 'laila-kit[{extra}]'"
        yield Finding("package", module, there, "installed" if there else "absent", remedy)


def _drivers(shape: Topology) -> Iterator[Finding]:
    for name, text in drivers.DRIVERS.items():
        run = registry.Run(registry.new_run_id(), name, shape.to_dict(), "check", ProcessId.of(os.getpid()))
        try:
            if name in NEEDS_HOSTS and not any(node.host for node in shape.nodes):
                yield _without_hosts(name, text)
                continue
            drivers.choose(name, shape)
            driver = drivers.make(run, shape)
        except LailaError as error:
            yield Finding("driver", name, False, str(error))
            continue
        yield Finding("driver", name, True, text)
        yield from _faults(driver)


def _without_hosts(name: str, text: str) -> Finding:
    """No machine is known, so nothing can be told of any. Raises LabError without the package that it needs."""
    from laila.lab.drivers.ssh import connection

    connection.library()
    return Finding(
        "driver", name, None, text, "ask again with a topology that names hosts: laila lab doctor mine.toml"
    )


def _faults(driver: Driver) -> Iterator[Finding]:
    try:
        for kind, fault in faults.KINDS.items():
            why = fault.hindrance(driver)
            yield Finding(driver.name, kind, not why, why or fault.summary, why)
    finally:
        driver.close()
