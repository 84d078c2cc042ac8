"""What `/metrics` says, made when it is asked for from the counters that the node keeps anyway.

A request costs the node nothing extra for being measured here: `collect` reads `Stats`, links and pools and
hands them to the Prometheus client library, which knows the exposition format. That library is imported at
the first scrape. No label takes values from peers without bound: peers that come and go are counted,
configured ones are named.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from laila.node.replica_map import STATES
from laila.stats import BOUNDS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from laila.node.status import NodeState
    from laila.policy import DefaultPolicy

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LINKS = tuple((state, direction) for state in ("up", "lost") for direction in ("dialed", "accepted"))

# metric after laila_replica_ -> (field of the view, help); what is not known yet has no sample
_REPLICA_GAUGES = {
    "names": ("names", "Names that the replica here has."),
    "lag": ("lag", "Names of which the replica here lacks the newest version, by the last comparison."),
    "owed": ("owed", "Names that this node noted other replicas to have missed."),
    "suspect": ("suspect", "Names that do not count here until they are repaired."),
    "quarantined": ("quarantined", "Names under which damaged bytes lie in quarantine here."),
    "membership": ("number", "Number of the membership; rises with each change."),
    "quorum": ("quorum", "1 if enough replicas count, 0 if not."),
    "compared_timestamp_seconds": ("compared", "When replicas were compared last (epoch)."),
}
_REPLICA_COUNTERS = {
    "puts": "Versions taken for peers.",
    "fetches": "Versions served to peers.",
    "repairs": "Versions that this node brought to replicas that lacked them.",
    "quorum_failures": "Times that too few replicas answered this node.",
}


class Metrics:
    """The collector of one node's metrics, with a registry of its own."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._registry: CollectorRegistry | None = None

    def exposition(self) -> bytes:
        """All metrics in Prometheus text format. May wait for the disks of the pools."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            registry = CollectorRegistry(auto_describe=False)
            registry.register(self)
            ProcessCollector(registry=registry)
            self._registry = registry
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry for each scrape."""
        yield from self._about()
        if (policy := self._state.policy) is not None:
            yield from self._links(policy)
            yield from self._requests(policy.communication.stats)
            yield from self._pools()
            yield from self._replicas()
        yield from self._dialers()

    def _about(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        build = {"version": self._state.version, "python": platform.python_version()}
        yield InfoMetricFamily("laila_build", "What this node runs.", value=build)
        yield GaugeMetricFamily(
            "laila_start_time_seconds", "When this node started (epoch).", self._state.started
        )
        ready = 0 if self._state.reasons() else 1
        yield GaugeMetricFamily("laila_ready", "1 if the node listens and its pools are usable.", ready)

    def _links(self, policy: DefaultPolicy) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        links, stats = policy.communication.links(), policy.communication.stats
        counts = Counter((link.state, link.direction) for link in links)
        gauge = GaugeMetricFamily("laila_links", "Links to peers.", labels=("state", "direction"))
        for pair in dict.fromkeys((*_LINKS, *counts)):
            gauge.add_metric(pair, counts[pair])
        yield gauge
        changes = CounterMetricFamily(
            "laila_link_changes", "Links that came up or went away.", labels=("change",)
        )
        changes.add_metric(("opened",), stats.links_opened)
        changes.add_metric(("lost",), stats.links_lost)
        yield changes
        moved = CounterMetricFamily(
            "laila_bytes", "Bytes over all links, ended ones too.", labels=("direction",)
        )
        moved.add_metric(("in",), stats.bytes_in + sum(link.bytes_in for link in links))
        moved.add_metric(("out",), stats.bytes_out + sum(link.bytes_out for link in links))
        yield moved
        refused = CounterMetricFamily("laila_refused_handshakes", "Peers not let in.", labels=("reason",))
        for reason, count in dict(stats.refused).items():
            refused.add_metric((reason,), count)
        yield refused

    def _requests(self, stats: Any) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "laila_requests", "Requests answered, by who asked.", labels=("direction", "op", "outcome")
        )
        for key, count in dict(stats.requests).items():
            requests.add_metric(key, count)
        yield requests
        errors = CounterMetricFamily(
            "laila_errors", "Requests that failed, by kind of error.", labels=("kind",)
        )
        for kind, count in dict(stats.errors).items():
            errors.add_metric((kind,), count)
        yield errors
        latency = HistogramMetricFamily(
            "laila_request_seconds", "Time to serve a peer's request.", labels=("op",)
        )
        for op, histogram in dict(stats.latency).items():
            latency.add_metric((op,), *_cumulative(list(histogram.buckets), histogram.total))
        yield latency

    def _pools(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        labels = ("pool", "kind")
        usable = GaugeMetricFamily("laila_pool_usable", "1 if the pool can be used.", labels=labels)
        entries = GaugeMetricFamily("laila_pool_entries", "Entries in the pool.", labels=labels)
        stored = GaugeMetricFamily("laila_pool_bytes", "Bytes of the pool's entries.", labels=labels)
        for pool in self._state.pools():
            names = (pool.name, pool.kind)
            usable.add_metric(names, 0 if pool.error else 1)
            if pool.count is not None and pool.bytes is not None:
                entries.add_metric(names, pool.count)
                stored.add_metric(names, pool.bytes)
        yield from (usable, entries, stored)

    def _replicas(self) -> Iterator[Metric]:
        if not (views := self._state.replica_views()):
            return
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, (field, text) in _REPLICA_GAUGES.items():
            gauge = GaugeMetricFamily(f"laila_replica_{name}", text, labels=("store",))
            for view in views:
                if (value := getattr(view, field)) is not None:
                    gauge.add_metric((view.store,), value)
            yield gauge
        members = GaugeMetricFamily(
            "laila_replica_members",
            "Replicas of the store, as this node sees them.",
            labels=("store", "state"),
        )
        counters = {
            name: CounterMetricFamily(f"laila_replica_{name}", text, labels=("store",))
            for name, text in _REPLICA_COUNTERS.items()
        }
        moved = CounterMetricFamily(
            "laila_replica_bytes", "Bytes of versions taken and served.", labels=("store", "direction")
        )
        for view in views:
            counts = Counter(member.state for member in view.members)
            for state in STATES:
                members.add_metric((view.store, state), counts[state])
            for name, counter in counters.items():
                counter.add_metric((view.store,), getattr(view, name))
            moved.add_metric((view.store, "in"), view.bytes_in)
            moved.add_metric((view.store, "out"), view.bytes_out)
        yield from (members, *counters.values(), moved)

    def _dialers(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        gauge = GaugeMetricFamily(
            "laila_peer_links", "Links that are up to a configured peer.", labels=("peer",)
        )
        found: Counter[str] = Counter()
        for item in self._state.discovery.view() if self._state.discovery is not None else ():
            found[item["peer"]] += item["state"] == "up"
        for peer, count in found.items():
            gauge.add_metric((peer,), count)
        yield gauge


def _cumulative(buckets: list[int], total: float) -> tuple[list[tuple[str, float]], float]:
    """The library's form of a histogram: upper bounds as text, counts that include all smaller ones."""
    named, so_far = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
        so_far += count
        named.append((bound, float(so_far)))
    return named, total
