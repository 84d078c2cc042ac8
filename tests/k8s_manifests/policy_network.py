"""What a NetworkPolicy lets through, as the API says: rules add up; in a rule, one peer and one port must fit."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from rendering import Thing, matches


def admits(
    spec: Thing,
    direction: str,
    namespace: Mapping[str, str] | None,
    who: Mapping[str, str] | str,
    port: int,
    own: Mapping[str, str],
) -> bool:
    """Whether a pod with labels `who` in a namespace with labels `namespace`, or an address, is let in or out."""
    side = {"ingress": "from", "egress": "to"}[direction]
    for rule in spec.get(direction, []):
        peers, ports = rule.get(side), rule.get("ports")
        if (not ports or any(one["port"] == port for one in ports)) and (
            not peers or any(_is(peer, namespace, who, own) for peer in peers)
        ):
            return True
    return False


def _is(
    peer: Thing, namespace: Mapping[str, str] | None, who: Mapping[str, str] | str, own: Mapping[str, str]
) -> bool:
    if "ipBlock" in peer:
        assert set(peer["ipBlock"]) == {"cidr"}
        return isinstance(who, str) and ipaddress.ip_address(who) in ipaddress.ip_network(
            peer["ipBlock"]["cidr"]
        )
    if isinstance(who, str) or namespace is None:
        return False
    there = matches(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else namespace == own
    return there and matches(peer.get("podSelector", {}), who)
