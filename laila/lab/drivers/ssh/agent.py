"""Starts the fault agent on a machine behind ssh so that no fault cuts the lab's own way to it, and none stays.

Faults act on packets to and from the addresses of peers. When one of these is also where the controller is, its
connections to sshd are excepted: `--spare ADDRESS,PORT` names both. The names of all faults are written down beside
this file before anything is done, so that `--clear` can undo what a killed agent left, and nothing of others' runs. It
lies beside `agent.py` on the host, gives it all other words, and needs no more than that does.
"""

from __future__ import annotations

import importlib
import ipaddress
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = "faults"
"""The directory of names, an empty file each."""
RETURN = "-j RETURN"


def spared(address: str, port: int) -> list[str]:
    """Rules that let the connections from there to this port of ours out of a chain."""
    return [f"-p tcp -s {address} --dport {port} {RETURN}", f"-p tcp -d {address} --sport {port} {RETURN}"]


def teach(agent: Any, place: Path, address: str = "", port: int = 0) -> None:
    """From now on each chain that the agent makes is written down, and begins with those rules."""
    version = ipaddress.ip_address(address).version if address else 0

    class Tables(agent.Tables):  # type: ignore[misc]  # a module that is found when this runs
        def install(self, name: str, table: str, hooks: list[str], rules: Iterable[tuple[int, str]]) -> None:
            every = list(rules)
            mine = spared(address, port) if any(family == version for family, _ in every) else []
            (place / name).touch()
            super().install(name, table, hooks, [*((version, rule) for rule in mine), *every])

        def counters(self, name: str) -> list[dict[str, Any]]:
            return [one for one in super().counters(name) if RETURN not in one["rule"]]

    agent.Tables = Tables


def clear(agent: Any, place: Path) -> None:
    """Undo every fault that is written down and still there."""
    here = agent.Agent(0, 0.0)
    for name in here.left({})["faults"]:
        if (place / name).exists():
            here.clear({"fault": name})


def main() -> int:
    """The agent's own exit code."""
    home = Path(__file__).resolve().parent
    sys.path.insert(0, str(home))
    agent = importlib.import_module("agent")
    place = home / NAMES
    if sys.argv[1:] == ["--clear"]:
        clear(agent, place)
        return 0
    words = sys.argv[1:3]
    if words[:1] == ["--spare"]:
        address, _, port = words[1].rpartition(",")
        del sys.argv[1:3]
        teach(agent, place, address, int(port))
    else:
        teach(agent, place)
    return int(agent.main())


if __name__ == "__main__":
    sys.exit(main())
