"""A real node with another secret knocks on every door: it must be refused by all, and harm nobody.

Refused is shown from four sides: the nodes count the refusal, none lists the stranger, the stranger lists
nobody, and a client program beside the stranger gets AuthenticationFailed at every door. Unharmed: no link
went down or was made anew, and every operation between the nodes went through while the stranger was there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from laila.errors import DeadlineExceeded
from laila.lab.checks.base import Stage
from laila.lab.remote import Outcome, client_argv

_COUNTED_WITHIN = 20.0


def is_refused(stage: Stage) -> str:
    name = stage.topology.stranger.name
    links_before = {link: sight for link, sight in stage.watch.matrix().items() if link[1] in stage.names}
    refused_before = {node: refusals(stage, node) for node in stage.names}
    outcomes: list[Outcome] = []
    over = threading.Event()
    work = threading.Thread(target=_keep_working, args=(stage, over, outcomes), name="work beside a stranger")
    stage.driver.start(name)
    stage.history.event("up", f"{name} started, with another secret", node=name)
    work.start()
    try:
        stage.watch.follow(stage.join(name))
        counted = _wait_until_counted(stage, refused_before)
        _knock(stage, name)
        time.sleep(stage.effort.stranger_stays)
        _nobody_listed(stage, name)
    finally:
        over.set()
        work.join()
        stage.leave(name)
    stage.driver.stop(name, grace=5)
    stage.history.event("down", f"{name} stopped", node=name)
    _undisturbed(stage, links_before, outcomes)
    times = sum(counted.values())
    return f"refused {times} times, listed by nobody; {len(outcomes)} operations beside it went through"


def refusals(stage: Stage, node: str) -> float:
    """How many handshakes this node has refused, by its own metrics."""
    samples = stage.must(node, "metrics", prefix="laila_refused")["samples"]
    return float(sum(number for name, number in samples.items() if "_created" not in name))


def _wait_until_counted(stage: Stage, before: dict[str, float]) -> dict[str, int]:
    counted = dict.fromkeys(stage.names, 0)
    deadline = time.monotonic() + _COUNTED_WITHIN
    while not all(counted.values()) and time.monotonic() < deadline:
        for node in stage.names:
            if _lists(stage, node, stage.topology.stranger.name):
                stage.fail(f"{node} took the stranger for a peer")
            new = int(refusals(stage, node) - before[node])
            if new and not counted[node]:
                stage.history.event("refused", f"{node} refused {stage.topology.stranger.name}", node=node)
            counted[node] = new
        stage.tell(f"refused by {sum(map(bool, counted.values()))} of {len(counted)} nodes")
        time.sleep(0.2)
    if silent := [node for node, count in counted.items() if not count]:
        lines = [f"{node} counted no refusal" for node in silent]
        stage.fail(f"within {_COUNTED_WITHIN:g} s, not every node refused the stranger", lines)
    return counted


def _knock(stage: Stage, name: str) -> None:
    """With the stranger's secret, from the stranger's place, at each door; it must be told why."""
    wrong = []
    for node in stage.names:
        argv = client_argv(stage.driver, name, 0.0, connect=stage.driver.door(node, seen_from=name))
        try:
            left = stage.driver.exec(name, argv, timeout=20)
        except DeadlineExceeded as error:
            wrong.append(f"{node}: {error}")
            continue
        words = left.stderr.decode("utf-8", "replace").strip().splitlines()
        if left.code == 0:
            wrong.append(f"{node} let a client with the wrong secret in")
        elif not words or "AuthenticationFailed" not in words[-1]:
            wrong.append(f"{node}: no AuthenticationFailed, but {words[-1:] or 'nothing'} (exit {left.code})")
    if wrong:
        stage.fail("a client with the wrong secret was not refused as it should be", wrong)


def _nobody_listed(stage: Stage, name: str) -> None:
    wrong = [f"{node} lists {name}" for node in stage.names if _lists(stage, node, name)]
    if found := stage.must(name, "peers")["peers"]:
        wrong.append(f"{name} lists {', '.join(str(item.get('peer_name')) for item in found)}")
    if wrong:
        stage.fail("the stranger is a peer", wrong)


def _lists(stage: Stage, node: str, name: str) -> bool:
    return any(item.get("peer_name") == name for item in stage.must(node, "peers")["peers"])


def _keep_working(stage: Stage, over: threading.Event, outcomes: list[Outcome]) -> None:
    """Small reads and writes in every direction, one after another."""
    links, turn = stage.topology.directed_links(), 0
    while not over.is_set():
        worker, owner = links[turn % len(links)]
        entry = {"nickname": f"beside-a-stranger-{turn}", "value": {"kind": "small", "seed": turn}}
        pool = stage.topology.node(owner).pools[0].name
        stored = stage.op(worker, "memorize", at=owner, entries=[entry], pool=pool)
        outcomes.append(stored)
        if stored.ok:
            words = {"ids": stored.result["ids"], "pool": pool}
            outcomes.append(stage.op(worker, "remember", at=owner, **words))
            outcomes.append(stage.op(worker, "forget", at=owner, **words))
        turn += 1
        over.wait(0.02)


def _undisturbed(stage: Stage, before: Mapping[tuple[str, str], object], outcomes: list[Outcome]) -> None:
    now = stage.watch.matrix()
    wrong = [
        f"the link {a}→{b} changed while the stranger was there"
        for (a, b), was in before.items()
        if now.get((a, b)) != was
    ]
    wrong += [f"an operation failed: {outcome}" for outcome in outcomes if not outcome.ok][:5]
    if wrong:
        stage.fail("the stranger disturbed the others", wrong)
    if len(outcomes) < len(before):
        stage.fail(f"only {len(outcomes)} operations were done beside the stranger")
