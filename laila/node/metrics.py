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

from laila.stats import BOUNDS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from laila.node.status import NodeState
    from laila.policy import DefaultPolicy

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LINKS = tuple((state, direction) for state in ("up", "lost") for direction in ("dialed", "accepted"))


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
