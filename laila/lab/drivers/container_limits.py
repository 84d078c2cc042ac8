"""Limits of a container that runs, or has exited: what an engine can change without making it anew."""

from __future__ import annotations

from typing import Any

from laila.lab.drivers.base import Ending, Usage


def usage(api: Any, container: str) -> Usage:
    """What it uses now, and may. `api` is the SDK's low-level client."""
    stats = api.stats(container, stream=False, one_shot=True)
    limits = api.inspect_container(container)["HostConfig"]
    return Usage(
        memory=int(stats.get("memory_stats", {}).get("usage", 0)),
        pids=int(stats.get("pids_stats", {}).get("current", 0)),
        memory_limit=int(limits.get("Memory") or 0),
        swap_limit=max(0, int(limits.get("MemorySwap") or 0)),
        pids_limit=max(0, int(limits.get("PidsLimit") or 0)),
    )


def limit(api: Any, container: str, memory: int | None, swap: int | None, pids: int | None) -> None:
    """See Driver.limit. An engine cannot take a limit of memory away: then it becomes all that the machine has."""
    wanted: dict[str, int] = {}
    if memory is not None:
        wanted["Memory"] = memory or int(api.info()["MemTotal"])
        wanted["MemorySwap"] = (swap or -1) if memory == 0 or swap is not None else memory
    if pids is not None:
        wanted["PidsLimit"] = pids or -1
    # The SDK's own `update_container` knows no limit of processes.
    api._raise_for_status(api._post_json(api._url("/containers/{0}/update", container), data=wanted))


def ending(attributes: dict[str, Any]) -> Ending:
    """From what the engine says of a container."""
    state = attributes["State"]
    return Ending(int(state["ExitCode"]), bool(state["OOMKilled"]))
