"""What happened is in the file at once, or soon; what is kept in memory is bounded, and read back it is the same."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_support import until

from laila.lab import history as module
from laila.lab import saved
from laila.lab.checkers.operations import Op
from laila.lab.history import History, Told
from laila.lab.remote import Outcome
from laila.lab.sample import Sample


def op(number: int, outcome: str = "ok") -> Op:
    end = math.inf if outcome == "unknown" else number + 0.5
    return Op(
        f"a/w/{number % 3}",
        "a",
        "write",
        "k",
        f"v{number}",
        None,
        float(number),
        end,
        outcome,
        "why" * (outcome != "ok"),
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_in_the_file_at_once_with_all_that_came_before(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.workload("register", {"keys": 4})
        history.invoke("register", op(1))
        history.event("fault", "pause@a", node="a")
        assert [line["what"] for line in lines(path)] == ["workload", "invoke", "fault"]


def test_an_operation_is_in_the_file_soon_though_nothing_else_happens(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:
        history.invoke("register", op(1))
        until(lambda: path.stat().st_size, "the line to be written", 5.0)
        assert lines(path) == [{"what": "invoke", "workload": "register", **op(1).to_record()}]
        history.invoke("register", op(2))
        until(lambda: len(lines(path)) == 2, "the second one", 5.0)


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:

        def work(number: int) -> None:
            for turn in range(500):
                history.invoke("register", op(number * 1000 + turn))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({line["value"] for line in lines(path)}) == 4000
    assert history.through.seen == 4000


def test_after_the_end_nothing_is_taken_any_more(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        history.event("note", "the last")
    history.event("note", "too late")
    history.invoke("register", op(1))
    assert [event["text"] for event in history.events] == ["the last"]
    assert history.through.seen == 0
    assert len(lines(tmp_path / "history.jsonl")) == 1


def test_a_full_disk_is_told_to_whoever_writes_next(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    history = History(full)
    try:
        history.invoke("register", op(1))
        with pytest.raises(OSError, match="No space left"):
            until(lambda: history.invoke("register", op(2)), "the error", 5.0)
    finally:
        with pytest.raises(OSError, match="No space left"):
            history.close()


def test_what_is_kept_is_bounded_and_failures_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWN", 100)
    with History(tmp_path / "history.jsonl") as history:
        for number in range(1000):
            history.invoke(
                "register",
                op(number, "fail" if number % 50 == 0 else "unknown" if number % 50 == 1 else "ok"),
            )
    assert len(history.through.kept) <= 100
    assert (history.through.seen, history.through.every) == (960, 16)
    assert len(history.others.kept) == 40, "each of those that did not go through"
    assert len(lines(tmp_path / "history.jsonl")) == 1000, "the file has all"


def test_read_back_it_is_what_was_kept(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        history.workload("register", {"keys": 4})
        for number in range(50):
            history.invoke("register", op(number, ("ok", "fail", "unknown")[number % 3]))
        history.event("up", "a started", node="a", at=history.began + 1)
        outcome = Outcome(
            history.began, history.began + 1, error="PeerLost", message="gone", executed="maybe"
        )
        history.op("remember", outcome, client="a", at="b", phase="crash")
        history.keep("hold", {"client": "a", "node": "a"}, phase="exclusion")
    again = saved.read(tmp_path).told
    for name in ("events", "ops", "counts", "records", "workloads", "through", "others"):
        assert getattr(again, name) == getattr(history, name), name


def test_a_line_that_lacks_what_its_kind_has_is_refused() -> None:
    for record in ({"what": "op"}, {"what": "up", "t": 1.0}, {"what": "invoke", "workload": "w"}, {"t": 1.0}):
        with pytest.raises(KeyError):
            Told().take(record)


@given(count=st.integers(0, 400), most=st.integers(1, 50))
def test_a_sample_is_even_and_bounded(count: int, most: int) -> None:
    sample = Sample[int](most)
    for number in range(count):
        sample.add(number)
    assert sample.kept == list(range(0, count, sample.every))
    assert len(sample.kept) <= most
    assert sample.seen == count
    assert sample.every == 1 or len(sample.kept) * sample.every * 2 >= count, (
        "it does not drop more than it must"
    )
