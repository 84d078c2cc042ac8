"""Ready means: every directed link has shaken hands, by each node's own word."""

from __future__ import annotations

from laila.errors import DeadlineExceeded
from laila.lab.checks.base import Stage
from laila.lab.checks.logs import complaint
from laila.lab.watch import name_missing


def start(stage: Stage) -> str:
    """Start all nodes at once, and a client beside each."""
    for name in stage.names:
        stage.driver.start(name)
        stage.history.event("up", f"{name} started", node=name)
    stage.tell("waiting for nodes to answer their clients")

    def join(name: str) -> None:
        stage.watch.follow(stage.join(name))

    stage.each(join, stage.names)
    return f"{len(stage.names)} nodes, each with a client beside it"


def start_foreign(stage: Stage) -> str:
    """Nodes that are not laila's: they run, and their driver says that they are ready."""
    for name in stage.names:
        stage.driver.start(name)
        stage.history.event("up", f"{name} started", node=name)
    stage.tell("waiting for nodes to be ready")
    stage.each(lambda name: stage.driver.wait_ready(name, stage.effort.ready_within), stage.names)
    return f"{len(stage.names)} nodes are ready"


def shake_hands(stage: Stage) -> str:
    links = stage.topology.directed_links()

    def done() -> bool:
        up = sum(stage.watch.up(a, b) for a, b in links)
        stage.tell(f"{up} of {len(links)} links are up")
        return up == len(links)

    within = stage.effort.ready_within
    try:
        stage.watch.wait(done, within, lambda: name_missing(stage.watch, links))
    except DeadlineExceeded:
        down = [(a, b) for a, b in links if not stage.watch.up(a, b)]
        missing = [f"{a} does not see {b}{complaint(stage, a, b)}" for a, b in down]
        stage.fail(
            f"{len(missing)} of {len(links)} directed links did not come up within {within:g} s", missing
        )
    last = max(stage.watch.matrix()[link].seen for link in links) - stage.history.began
    return f"{len(links)} of {len(links)} directed links up, the last one {last:.1f} s into the run"


def both_ends_list(stage: Stage) -> str:
    """Three witnesses for each node: itself, its status page, and every other node asked through its own."""
    wrong, views = [], 0
    for name in stage.names:
        expected = sorted(set(stage.names) - {name})
        witnesses = {"itself": stage.must(name, "peers")["peers"]}
        witnesses["its status page"] = stage.must(name, "status")["status"]["peers"]
        for other in expected:
            witnesses[f"asked through {other}"] = stage.must(other, "peers", at=name)["peers"]
        for witness, found in witnesses.items():
            views += 1
            listed = sorted(str(item.get("peer_name")) for item in found if item.get("state") == "up")
            if listed != expected:
                wrong.append(f"{name}, by {witness}, lists {listed or 'nobody'} instead of {expected}")
    if wrong:
        stage.fail(f"{len(wrong)} of {views} views are wrong", wrong)
    return f"{views} views agree: the node's own, its status page's, and through every other node"
