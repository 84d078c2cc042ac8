"""Worker threads that cannot be started: nothing that was taken is left undone, and what is refused is never done."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from laila.errors import Busy, Closed
from laila.lanes import Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    found = Lanes(4, "test")
    yield found
    found.close(10.0)


def no_threads(patch: pytest.MonkeyPatch) -> None:
    """As the system has it when a limit of processes is reached. Root knows no such limit, so Python says it here."""

    def refuse(*anything: object) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading, "_start_new_thread", refuse)


def test_who_is_there_does_it_all_when_no_more_can_be_started(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, all_done = threading.Event(), threading.Event(), threading.Event()
    done: list[int] = []

    def first() -> None:
        begun.set()
        go_on.wait(10)

    lanes.submit(first)
    assert begun.wait(10)
    no_threads(monkeypatch)
    for number in range(20):
        lanes.submit(lambda number=number: done.append(number), ["key"])  # type: ignore[misc]
    lanes.submit(all_done.set)
    assert not done
    go_on.set()
    assert all_done.wait(10)
    lanes.close(10.0)
    assert done == list(range(20))


def test_without_any_worker_it_is_refused_and_never_done(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    no_threads(monkeypatch)
    for _ in range(3):
        with pytest.raises(Busy, match="can't start new thread; ask again"):
            lanes.submit(lambda: done.append("refused"), ["key"])
    monkeypatch.undo()
    later = threading.Event()
    lanes.submit(lambda: (done.append("taken"), later.set()), ["key"])
    assert later.wait(10)
    lanes.close(10.0)
    assert done == ["taken"]


def test_who_is_closed_takes_no_more(lanes: Lanes) -> None:
    lanes.close()
    with pytest.raises(Closed):
        lanes.submit(lambda: None)
