"""What subjects of a cluster share: links to all of its nodes, as a peer of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from laila.artifacts.trust import known_secret
from laila.errors import BadConfig, BadValue, DeadlineExceeded
from laila.lab.client import CLIENT_NAME

if TYPE_CHECKING:
    from laila.macros.defaults import DefaultPolicy

_LOOK = 0.02


def option(options: Mapping[str, str], name: str) -> str:
    """Raises BadConfig when it is missing."""
    if name not in options:
        raise BadConfig(f"say --set {name}=…; given were {', '.join(options) or 'none'}")
    return options[name]


def table(options: Mapping[str, str], name: str) -> dict[str, str]:
    """An option that is a JSON object of texts. Raises BadConfig."""
    try:
        found = json.loads(option(options, name))
    except ValueError as error:
        raise BadConfig(f"{name} must be a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise BadConfig(f"{name} must be a JSON object, not {found!r}")
    return {str(key): str(value) for key, value in found.items()}


def join(nodes: Mapping[str, str], needed: int, timeout: float) -> DefaultPolicy:
    """A policy that keeps a link to every node (name to `host:port`), once `needed` of them are up."""
    from laila.macros.defaults import DefaultPolicy

    secret = known_secret()
    if secret is None:
        raise BadValue("LAILA_SECRET_FILE names no secret, so no node lets this program in")
    policy = DefaultPolicy(name=CLIENT_NAME)
    until = time.monotonic() + timeout
    try:
        for address in nodes.values():
            host, _, port = address.rpartition(":")
            policy.communication.maintain(host, int(port), secret)
        while sum(1 for _ in up(policy)) < needed:
            if time.monotonic() > until:
                missing = set(nodes) - {link.peer_name for link in up(policy)}
                raise DeadlineExceeded(f"no link to {', '.join(sorted(missing))}")
            time.sleep(_LOOK)
    except BaseException:
        policy.close()
        raise
    return policy


def up(policy: DefaultPolicy) -> Iterator[Any]:
    return (link for link in policy.communication.links() if link.state == "up")
