"""The report in a real browser: a person sees the verdict, what was broken, what was done, and why it was wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_support import until
from report_support import CUT, NODES, Made, Window, clients_at_work, run_folder, with_a_stale_read

from laila.lab import report
from laila.lab.checkers.operations import FAIL, UNKNOWN, Op
from laila.lab.history import History
from laila.lab.remote import Outcome
from laila.lab.result import Result, StepResult

SECONDS = 30.0
LONG = 60.0


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    from browser import missing

    if (reason := missing()) is not None:
        assert not os.environ.get("CI"), f"CI must have a browser: {reason}"
        pytest.skip(reason)
    found = Window(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return run_folder(tmp_path_factory.mktemp("runs") / "good", clients_at_work(4000, SECONDS), SECONDS)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Made:
    ops = with_a_stale_read(clients_at_work(4000, SECONDS), SECONDS / 2)
    return run_folder(tmp_path_factory.mktemp("runs") / "bad", ops, SECONDS)


@pytest.fixture(scope="module")
def big_and_bad(tmp_path_factory: pytest.TempPathFactory) -> Made:
    ops = with_a_stale_read(clients_at_work(100_000, LONG), LONG / 2)
    return run_folder(tmp_path_factory.mktemp("runs") / "bigandbad", ops, LONG)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Made:
    ops = clients_at_work(100_000, LONG)
    assert len(ops) >= 95_000
    return run_folder(tmp_path_factory.mktemp("runs") / "big", ops, LONG)


def view(window: Window) -> tuple[float, float, str]:
    """From when to when, and whether operations are drawn one by one (bars) or counted (columns)."""
    window.settle()
    start, end, mode = window.run("return [timeline.from, timeline.to, timeline.mode]")
    return start, end, mode


def place(window: Window, node: str, seconds: float, part: str = "life") -> tuple[int, int]:
    """Where the picture is in the window: of a node's lane, at a time."""
    window.run("document.getElementById('plot').scrollIntoView({block: 'start', behavior: 'instant'})")
    window.settle()
    script = (
        f"const at = geometry.places[{NODES.index(node)}], box = canvas.getBoundingClientRect();"
        f"return [box.left + xOf({seconds}), box.top + at.{part} + 4]"
    )
    x, y = window.run(script)
    return int(x), int(y)


def colour(window: Window, node: str, seconds: float, part: str, down: int = 0) -> list[int]:
    """What is painted there: red, green, blue."""
    window.settle()
    script = (
        f"const at = geometry.places[{NODES.index(node)}], pen = canvas.getContext('2d');"
        f"const x = xOf({seconds}) * ratio, y = (at.{part} + {down}) * ratio;"
        "return Array.from(pen.getImageData(x, y, 1, 1).data).slice(0, 3)"
    )
    found: list[int] = window.run(script)
    return found


def variable(window: Window, name: str) -> list[int]:
    """A colour of the page's style sheet."""
    text: str = window.run(
        f"return getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
    )
    return [int(text[at : at + 2], 16) for at in (1, 3, 5)]


def test_the_verdict_stands_first_with_what_was_shown(window: Window, good: Made) -> None:
    window.open(good.page)
    assert window.text("h1") == "OK"
    assert window.text("header p") == good.result.sentence
    shown = window.text("#shown")
    assert "linearizable register" in shown
    assert "register-0, register-1, register-2, register-3" in shown
    assert window.run("return document.getElementById('whys').children.length") == 0
    assert window.errors() == []


def test_what_was_not_shown_is_told_with_its_reason(window: Window, tmp_path: Path) -> None:
    facts = {"skipped_faults": {"oom": "no memory controller"}}
    window.open(run_folder(tmp_path / "run", clients_at_work(200, 4.0), 4.0, facts=facts).page)
    assert window.text("#notshown").split("\n") == ["–", "the fault oom", "no memory controller"]  # noqa: RUF001


def test_each_node_has_a_lane_and_faults_are_shaded_in_theirs(window: Window, good: Made) -> None:
    window.open(good.page)
    assert "5 nodes from 0.00 s to 30.0 s" in window.run("return canvas.getAttribute('aria-label')")
    for node in NODES:
        assert colour(window, node, 15.0, "life", 4) == variable(window, "alive"), node
    calm, broken = (
        {tuple(colour(window, "node2", seconds + step * 0.05, "bottom", -1)) for step in range(8)}
        for seconds in (15.0, (CUT[0] + CUT[1]) / 2 * SECONDS)
    )
    assert calm == {tuple(variable(window, "card"))}, "nothing is broken then"
    assert not calm & broken
    elsewhere = colour(window, "node1", (CUT[0] + CUT[1]) / 2 * SECONDS, "bottom", -1)
    assert elsewhere == variable(window, "card"), "another node's lane is not shaded"


def test_a_fault_says_how_it_is_known(window: Window, good: Made) -> None:
    window.open(good.page)
    window.point(*place(window, "node2", CUT[0] * SECONDS + 1, "top"))
    window.settle()
    tip = window.text("#tip")
    assert tip.startswith("node2: partition\nknown by: cut\nover: whole\n")
    window.click(*place(window, "node4", 0.65 * SECONDS, "top"))
    window.settle()
    assert "latency ms=200" in window.text("#picked")
    assert "known by: 203 ms" in window.text("#picked")
    table = window.text("#faults")
    assert "partition" in table
    assert "Over: 1 ms" in table


def test_wheel_drag_buttons_and_keys_look_closer(window: Window, good: Made) -> None:
    window.open(good.page)
    assert view(window) == (0, pytest.approx(SECONDS + 0.1, abs=0.2), "columns")
    at = place(window, "node3", 15.0)

    window.wheel(*at, -600, "\ue009")  # with Ctrl
    start, end, _ = view(window)
    assert end - start < SECONDS / 2
    assert start < 15.0 < end, "it zooms to where the mouse is"

    window.run("timeline.all()")
    window.drag(place(window, "node3", 10.0), place(window, "node3", 12.0))
    start, end, mode = view(window)
    assert (start, end) == (pytest.approx(10.0, abs=0.1), pytest.approx(12.0, abs=0.1))
    assert mode == "bars", "so few are drawn one by one"

    window.run("canvas.focus()")
    window.press("\ue014")  # right
    moved = view(window)
    assert moved[0] == pytest.approx(start + (end - start) / 10, abs=0.01)
    window.press("-")
    assert view(window)[1] - view(window)[0] == pytest.approx(2 * (end - start), rel=0.01)
    window.press("0")
    assert view(window)[0] == 0
    window.run("document.querySelector('#zoom [aria-label=\"zoom in\"]').click()")
    start, end, _ = view(window)
    assert end - start == pytest.approx((SECONDS + 0.1) / 2, abs=0.2)


def test_without_ctrl_the_wheel_moves_the_page(window: Window, good: Made) -> None:
    window.open(good.page)
    at = place(window, "node1", 15.0)
    before = view(window)
    top = window.run("return scrollY")
    window.wheel(*at, 200)
    assert view(window) == before
    until(lambda: window.run("return scrollY") != top, "the page to move")


def test_an_operation_is_a_bar_in_its_clients_row_and_says_what_it_was(window: Window, good: Made) -> None:
    window.open(good.page)
    op = max((op for op in good.ops if op.ok and op.op == "write" and op.node == "node3"), key=length)
    middle = (op.start + op.end) / 2
    window.run(f"timeline.show({op.start - 0.3}, {op.end + 0.3})")
    row = int(op.client[-1])
    script = f"const at = geometry.places[2]; return [at.work + at.row * ({row} + .5) - at.life - 4]"
    down = int(window.run(script)[0])
    assert colour(window, "node3", op.end - 0.002, "life", 4 + down) == variable(window, "op")
    x, y = place(window, "node3", middle)
    window.point(x, y + down)
    window.settle()
    tip = window.text("#tip")
    assert tip.startswith(f"{op.client}: write {op.value[:20]}")
    assert f"{op.start:.4f} s to {op.end:.4f} s" in tip


def length(op: Op) -> float:
    return op.end - op.start


def test_filters_count_what_they_leave(window: Window, good: Made) -> None:
    window.open(good.page)
    ops = good.ops

    def choose(name: str, value: str) -> str:
        window.run(
            f"const s = document.getElementById('by-{name}'); s.value = {value!r}; s.dispatchEvent(new Event('change'))"
        )
        return window.text("#count")

    assert window.text("#count") == f"{len(ops):,} operations"
    one = [op for op in ops if op.key == "register-1"]
    assert choose("key", "register-1") == f"{len(one):,} of {len(ops):,} operations"
    two = [op for op in one if op.client.partition("#")[0] == "node2/register/0"]
    assert choose("client", "node2/register/0") == f"{len(two):,} of {len(ops):,} operations"
    choose("key", "")
    choose("client", "")
    for number, outcome in ((1, FAIL), (2, UNKNOWN)):
        window.run(f"document.querySelectorAll('#by-outcome button')[{number}].click()")
        assert any(op.outcome == outcome for op in ops)
    left = [op for op in ops if op.ok]
    assert window.text("#count") == f"{len(left):,} of {len(ops):,} operations"
    for number in (1, 2):
        window.run(f"document.querySelectorAll('#by-outcome button')[{number}].click()")
    window.run(
        "const s = document.getElementById('by-text'); s.value = 'quorumlost'; s.dispatchEvent(new Event('input'))"
    )
    found = [op for op in ops if "QuorumLost" in op.error]
    expected = f"{len(found):,} of {len(ops):,} operations"
    until(lambda: window.text("#count") == expected, f"{expected} to be found")


def test_a_filter_takes_operations_out_of_the_picture(window: Window, good: Made) -> None:
    window.open(good.page)

    def painted() -> int:
        blue = variable(window, "op")
        script = (
            "const at = geometry.places[0], pen = canvas.getContext('2d');"
            "const d = pen.getImageData(0, at.work * ratio, canvas.width, at.high * ratio).data, want = "
            f"{blue}; let n = 0;"
            "for (let i = 0; i < d.length; i += 4) n += want.every((part, at) => d[i + at] === part);"
            "return n"
        )
        window.settle()
        count: int = window.run(script)
        return count

    before = painted()
    window.run("document.querySelectorAll('#by-outcome button')[0].click()")
    assert before > 1000
    assert painted() == 0


def test_the_first_bad_operation_is_explained_and_found_in_the_picture(window: Window, bad: Made) -> None:
    window.open(bad.page)
    why = next(one.why for one in bad.judgements if one.why is not None)
    assert window.text("h1") == "FAILED"
    rows = window.run(
        "return [...document.querySelectorAll('#whys .acts .said')].map(one => one.textContent)"
    )
    assert len(rows) == len(why.operations)
    offender = window.text("#whys .acts .bad .said")
    assert offender.startswith(f"{why.offender.client} reads {why.offender.result[:20]}")
    assert window.text("#whys .card p") == f"{why.text}."
    lefts = window.run(
        "return [...document.querySelectorAll('#whys .bar')].map(one => one.getBoundingClientRect().left)"
    )
    starts = [op.start for op in why.operations]
    assert sorted(range(len(lefts)), key=lambda n: lefts[n]) == sorted(
        range(len(starts)), key=lambda n: starts[n]
    )

    at = why.offender
    beside = at.end + 0.004 * SECONDS
    assert colour(window, at.node, beside, "life", 4) == variable(window, "failed"), (
        "it is marked in its lane"
    )
    window.run("document.querySelector('#whys .card button').click()")
    start, end, _ = view(window)
    first = min(op.start for op in why.operations)
    assert start < first
    assert end > at.end
    window.run("timeline.all()")
    window.run(
        "[...document.querySelectorAll('#zoom button')].find(one => one.textContent.startsWith('First')).click()"
    )
    assert view(window)[0] > 0
    assert why.text in window.text("#picked")
    assert window.errors() == []


def test_keys_go_from_one_operation_to_the_next(window: Window, good: Made) -> None:
    window.open(good.page)
    window.run("timeline.show(5, 6); canvas.focus()")
    window.press("n")
    window.settle()
    first = window.text("#picked")
    window.press("n")
    window.settle()
    second = window.text("#picked")
    expected = [op for op in good.ops if op.start >= 5][:2]
    assert [first.split(":")[0], second.split(":")[0]] == [op.client for op in expected]


def test_a_check_without_a_trial_has_the_same_picture(window: Window, tmp_path: Path) -> None:
    """Steps, nodes that were killed, operations on memory, and who saw whom."""
    step = StepResult("crash", "kill -9 under load, and heal", "failed", "a wrong value", 1.0, 8.0)
    made = Result("r", "replicated", "process", "", NODES, 7, "again", 1.8e9, 10.0, (step,))
    with History(tmp_path / "history.jsonl") as history:
        began = history.began
        history.event("up", "started", node="node1", at=began + 0.1)
        history.event("link", "node1 sees node2", node="node1", peer="node2", at=began + 0.5)
        history.event("kill", "killed", node="node1", at=began + 4)
        history.event("up", "started", node="node1", at=began + 6)
        history.event("bad", "a wrong value was read", node="node1", at=began + 3)
        for number in range(40):
            outcome = Outcome(began + 1 + number / 20, began + 1.02 + number / 20)
            history.op("remember", outcome, client="node2", at="node1", phase="before", pool="durable")
        (tmp_path / "report.html").write_text(report.render(made, history, {}), encoding="utf-8")
    window.open((tmp_path / "report.html").as_uri())
    assert window.text("#count") == "40 operations"
    assert "kill -9 under load, and heal: failed" in window.text("#problems")
    window.point(*place(window, "node1", 5.0))
    window.settle()
    assert re.fullmatch(r"node1 did not run at (4\.9|5\.0)\d s: killed at 4\.00 s", window.text("#tip"))
    window.point(*place(window, "node1", 3.0))
    window.settle()
    assert window.text("#tip").startswith("a wrong value was read")
    assert "sees it" in window.text("#links")
    assert window.errors() == []


def test_a_hundred_thousand_operations_stay_fluent(window: Window, big: Made) -> None:
    """Bounds are generous: a busy machine is no failure, a page that counts in the wrong way is."""
    assert (big.path / "report.html").stat().st_size < 60 * len(big.ops) + 200_000
    window.open(big.page)
    assert window.text("#count") == f"{len(big.ops):,} operations"
    paints = window.run("return performance.getEntriesByType('paint').map(one => one.startTime)")
    assert paints[0] < 10_000, "milliseconds until there is something to see"
    took = window.run(
        "const took = [];"
        "for (const share of [1, .5, .2, .1, .05, .02, .01, .001]) {"
        "  const half = timeline.whole * share / 2, middle = timeline.whole / 2;"
        "  timeline.from = middle - half; timeline.to = middle + half;"
        "  const began = performance.now(); draw(); overview(); took.push(performance.now() - began);"
        "} return took"
    )
    assert sorted(took)[len(took) // 2] < 200, f"milliseconds of a zoom step: {took}"
    assert view(window)[2] == "bars"
    assert window.errors() == []


def test_what_is_wrong_among_a_hundred_thousand_operations_stands_first_and_is_found(
    window: Window, big_and_bad: Made
) -> None:
    """The few operations that contradict each other are told before anything else; one click shows them."""
    why = next(one.why for one in big_and_bad.judgements if one.why is not None)
    assert len(big_and_bad.ops) >= 95_000
    window.open(big_and_bad.page)
    assert window.text("h1") == "FAILED"
    assert window.text("#count") == f"{len(big_and_bad.ops):,} operations"
    paints = window.run("return performance.getEntriesByType('paint').map(one => one.startTime)")
    assert paints[0] < 10_000, "milliseconds until there is something to see"
    rows = window.run("return document.querySelectorAll('#whys .acts .said').length")
    assert rows == len(why.operations)
    assert why.offender.client in window.text("#whys .acts .bad")
    places = "return ['#whys', '#plot'].map(one => document.querySelector(one).getBoundingClientRect().top)"
    assert sorted(tops := window.run(places)) == tops
    assert view(window) == (0, pytest.approx(LONG + 0.1, abs=0.2), "columns")
    window.run(
        "[...document.querySelectorAll('#zoom button')].find(one => /First bad/.test(one.textContent)).click()"
    )
    start, end, mode = view(window)
    assert (mode, start <= why.offender.start <= why.offender.end <= end) == ("bars", True)
    assert window.errors() == []


def test_dark_is_dark_and_paper_is_white(window: Window, good: Made) -> None:
    window.open(good.page)
    light = colour(window, "node1", 15.0, "top", -3)
    window.dark(True)
    try:
        until(lambda: sum(colour(window, "node1", 15.0, "top", -3)) < 200, "the picture to become dark")
    finally:
        window.dark(False)
    until(lambda: colour(window, "node1", 15.0, "top", -3) == light, "the picture to become light again")
    assert sum(light) > 700


def test_only_the_pages_own_scripts_run(window: Window, good: Made) -> None:
    """What is in the data must not run, should it ever get into the page."""
    window.open(good.page)
    window.run(
        "const s = document.createElement('script'); s.textContent = 'window.intruder = true'; document.body.append(s)"
    )
    assert window.run("return window.intruder === undefined")
    assert any("Content Security Policy" in line for line in window.errors())


def test_the_command_can_be_copied_and_what_the_run_left_is_linked(window: Window, good: Made) -> None:
    window.open(good.page)
    assert window.text("#command").startswith(good.result.command)
    window.run("document.querySelector('.command button').click()")
    until(lambda: window.text(".command button") in ("Copied", "Press Ctrl+C"), "the command to be copied")
    links = window.run(
        "return [...document.querySelectorAll('#files a')].map(one => one.getAttribute('href'))"
    )
    assert {"history.jsonl", "result.json", "junit.xml", "logs/node1.log"} <= set(links)
    assert all((good.path / link).is_file() for link in links)
