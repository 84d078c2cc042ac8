"""Services as compose's table has them: adding what a run needs of them. All change the table in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laila.errors import BadConfig
from laila.lab.drivers.compose_file import Table


def environment(service: Table, more: Mapping[str, str]) -> None:
    """What is said here is right, whatever the file says."""
    service["environment"] = {**(service.get("environment") or {}), **more}


def volumes(table: Table) -> dict[str, Any]:
    """The volumes that the file names."""
    if table.get("volumes") is None:
        table["volumes"] = {}
    found: dict[str, Any] = table["volumes"]
    return found


def mount(table: Table, service: Table, volume: str, target: str, **how: Any) -> None:
    """Mount a volume, which is made if it is not there. Not where the service mounts something already."""
    mounts = service.setdefault("volumes", [])
    if any(one["target"] == target for one in mounts):
        return
    volumes(table).setdefault(volume, {})
    mounts.append({"type": "volume", "source": volume, "target": target, **how})


def driver_options(table: Table, volume: str, options: Mapping[str, str]) -> None:
    """The engine's own, for the file system of a volume."""
    volumes(table)[volume] = {**(volumes(table).get(volume) or {}), "driver_opts": dict(options)}


def volume_at(table: Table, service: str, target: str) -> str:
    """The volume that a service mounts there, or mounts alone when there is no target, and shares with nobody. Raises
    BadConfig.
    """
    mine = [one for one in _mounted(table, service) if not target or one["target"] == target]
    if len(mine) != 1:
        where = f"at {target}" if target else "and no other"
        raise BadConfig(
            f"{service} has no disk of its own: it must mount one named volume {where}; say `state`"
        )
    name = str(mine[0]["source"])
    others = [other for other in table["services"] if other != service]
    if shared := [other for other in others if any(one["source"] == name for one in _mounted(table, other))]:
        raise BadConfig(
            f"{service} has no disk of its own: it shares the volume {name} with {', '.join(shared)}"
        )
    return name


def _mounted(table: Table, service: str) -> list[Table]:
    """Named volumes that a service may write."""
    every = table["services"][service].get("volumes") or []
    return [
        one for one in every if one["type"] == "volume" and one.get("source") and not one.get("read_only")
    ]
