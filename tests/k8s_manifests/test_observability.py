"""Dashboard, rules and scraping use metrics and labels that a node has, and the ports and names of the manifests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import Manifests, matches

from laila.node.config import load
from laila.node.daemon import Node, Secrets
from laila.secret import new_secret

SCRAPED = {"job", "namespace", "pod", "instance", "service", "endpoint"}
"""Labels that Prometheus gives to every sample of a target."""
OTHERS = {
    "up": set(),
    "kubelet_volume_stats_available_bytes": {"persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"persistentvolumeclaim"},
}
"""Metrics that are not the node's."""
WORDS = {
    "and",
    "or",
    "unless",
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
}
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right) \(([^)]*)\)")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every time series of a node with all that there is to measure -> its labels."""
    place = tmp_path_factory.mktemp("node")
    (place / "secret").write_text(new_secret())
    (place / "secret").chmod(0o600)
    flags = {
        "name": "n1",
        "listen": "127.0.0.1:0",
        "status": "127.0.0.1:0",
        "secret_file": str(place / "secret"),
        "state_dir": str(place / "state"),
        "peers": "127.0.0.1:1",
        "pools": f"kept=sqlite:{place}/kept.sqlite",
        "replicas": f"store={place}/replica",
    }
    config = load(flags, {})
    node = Node(config, Secrets.read(config))
    try:
        node.start()
        return dict(_series(node))
    finally:
        node.close()


def _series(node: Node) -> Iterator[tuple[str, set[str]]]:
    from prometheus_client import CollectorRegistry, ProcessCollector

    from laila.node.metrics import Metrics

    process = ProcessCollector(registry=CollectorRegistry())
    for family in (*Metrics(node.state).collect(), *process.collect()):
        labels = set(family._labelnames)  # of a family without a sample nothing else tells them
        match family.type:
            case "counter":
                yield f"{family.name}_total", labels
            case "info":
                yield f"{family.name}_info", set(family.samples[0].labels)
            case "histogram":
                yield f"{family.name}_bucket", labels | {"le"}
                yield f"{family.name}_sum", labels
                yield f"{family.name}_count", labels
            case _:
                yield family.name, labels


def check(expression: str, metrics: dict[str, set[str]], texts: tuple[str, ...] = ()) -> None:
    """Every metric is one, every label in a matcher, a grouping or a text is one of a metric in the expression."""
    known = {**metrics, **OTHERS}
    groups = " ".join(GROUPING.findall(expression))
    rest = GROUPING.sub(" ", re.sub(r'"[^"]*"', '""', expression))
    used: set[str] = set()
    for name, call, matchers in re.findall(
        r"([a-z_]\w*)\s*(\(?)(\{[^}]*\})?", re.sub(r"\[[^\]]*\]", "", rest)
    ):
        if (
            call
            or name in WORDS
            or name in re.sub(r"[^\w]", " ", "".join(re.findall(r"\{[^}]*\}", rest))).split()
        ):
            continue
        assert name in known, f"{name} is no metric of a node"
        used |= {name}
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            assert label in known[name] | SCRAPED, f"{name} has no label {label}"
    assert used, f"{expression!r} asks for nothing"
    labels = set().union(*(known[name] for name in used)) | SCRAPED
    assert set(re.findall(r"\w+", groups)) <= labels, f"no label in {groups!r}"
    for text in texts:
        for label in re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text):
            assert label in labels, f"{text!r} names {label!r}"


def rules(observability: Manifests) -> list[dict[str, Any]]:
    return [
        rule for group in observability.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]
    ]


def dashboard(observability: Manifests) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(observability.one("ConfigMap")["data"]["laila.json"])
    return found


def test_rules_are_about_metrics_that_are_there(
    observability: Manifests, metrics: dict[str, set[str]]
) -> None:
    found = rules(observability)
    assert len({rule["alert"] for rule in found}) == len(found) >= 10
    for rule in found:
        check(rule["expr"], metrics, tuple(rule["annotations"].values()))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.fullmatch(r"\d+m", rule["for"])


def test_panels_are_about_metrics_that_are_there(
    observability: Manifests, metrics: dict[str, set[str]]
) -> None:
    panels = [panel for panel in dashboard(observability)["panels"] if panel["type"] != "row"]
    assert len(panels) >= 20
    for panel in panels:
        assert panel["description"]
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m")
            check(expression, metrics, (target["legendFormat"],))


def test_every_metric_of_ours_is_on_the_dashboard(
    observability: Manifests, metrics: dict[str, set[str]]
) -> None:
    """Or it is named here with the reason why not."""
    elsewhere = {
        "laila_peer_links",  # of the one configured peer, the headless name: laila_links says the same
        "laila_request_seconds_sum",  # its buckets are there
        "laila_request_seconds_count",
    }
    shown = set(re.findall(r"\blaila_\w+", json.dumps(dashboard(observability)["panels"])))
    assert {name for name in metrics if name.startswith("laila_")} - shown == elsewhere


def test_the_dashboard_can_be_laid_out(observability: Manifests) -> None:
    """Ids are unique, no panel covers another, everything hangs on the variables."""
    document = dashboard(observability)
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not own & cells, panel["title"]
        cells |= own
    variables = {one["name"] for one in document["templating"]["list"]}
    assert variables == {"datasource", "namespace", "pod"}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(panels)))
    assert used == variables


def test_scraping_finds_the_nodes(observability: Manifests, clusters: dict[str, Manifests]) -> None:
    """By the Service's labels, at the port that has that name there, for the job that the rules ask about."""
    monitor = observability.one("ServiceMonitor")["spec"]
    for m in clusters.values():
        service = m.one("Service")
        labels = service["metadata"]["labels"]
        assert matches(monitor["selector"], labels)
        assert labels[monitor["jobLabel"]] == "laila"
        (endpoint,) = monitor["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert endpoint["path"] == m.nodes["template"]["metadata"]["annotations"]["prometheus.io/path"]
    jobs = {job for rule in rules(observability) for job in re.findall(r'job="([^"]*)"', rule["expr"])}
    assert jobs == {"laila"}


@pytest.mark.parametrize(
    ("expression", "texts"),
    [
        ("laila_reedy == 0", ()),
        ("rate(laila_requests[5m])", ()),
        ('laila_links{stat="up"}', ()),
        ("sum by (shop) (laila_replica_lag)", ()),
        ("laila_ready == 0", ("{{ $labels.store }}",)),
        ("1 + 1", ()),
    ],
)
def test_a_wrong_name_is_found(metrics: dict[str, set[str]], expression: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        check(expression, metrics, texts)


def test_the_dashboard_is_found_by_grafana(observability: Manifests, k8s: Path) -> None:
    """Its sidecar looks for that label; the name stays, so that a new version takes the place of the old one."""
    found = observability.one("ConfigMap")["metadata"]
    assert (found["name"], found["labels"]["grafana_dashboard"]) == ("laila-dashboard", "1")
    assert len(yaml.safe_dump(observability.one("ConfigMap"))) < 200_000  # what kubectl apply can remember
    assert json.loads((k8s / "observability/dashboard.json").read_text()) == dashboard(observability)
