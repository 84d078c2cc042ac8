"""Operations on agents that share a directory: register many, each with a result, and list what is there."""

from __future__ import annotations

import time
from typing import Any

from laila.agents import DistributedAgent
from laila.errors import BadValue, LailaError
from laila.lab.client import describe
from laila.lab.worker.bench import Bench, Words, number, text

EXPIRY = 3600.0
"""Seconds: agents of a check do not beat, and must not expire while it runs."""


def register_some(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Register `count` agents, one after another, and publish a result of each; told as
    `[agent, began, registered, published]`, and what failed.
    """
    place, prefix = str(bench.path(text(words, "agents"))), text(words, "prefix")
    done: list[list[Any]] = []
    errors: list[dict[str, Any]] = []
    for turn in range(int(number(words, "count"))):
        name, began = f"{prefix}-{turn}", time.monotonic()
        try:
            with DistributedAgent(name, place, expiry=EXPIRY, timeout=timeout, capabilities=["lab"]) as agent:
                agent.register()
                registered = time.monotonic()
                agent.publish_result(name, {"of": name})
            done.append([name, began, registered, time.monotonic()])
        except LailaError as error:
            errors.append({**describe(error), "agent": name, "began": began})
    return {"done": done, "errors": errors}


def list_all(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Who is active (`what` agents), or for which tasks there are good results (`what` results)."""
    place, what = str(bench.path(text(words, "agents"))), text(words, "what")
    with DistributedAgent("lab-reader", place, expiry=EXPIRY) as reader:
        if what == "agents":
            return {"members": [one["agent_id"] for one in reader.get_active_agents(capability="lab")]}
        if what == "results":
            return {"members": [one["task_id"] for one in reader.results() if one["status"] == "ok"]}
    raise BadValue(f"`what` is agents or results, not {what!r}")


OPERATIONS = {operation.__name__: operation for operation in (register_some, list_all)}
