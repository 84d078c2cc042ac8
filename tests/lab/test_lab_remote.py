"""Calls to a client program always come to an end, and say which."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from lab_support import TestedEnd, until

from laila.errors import LabError
from laila.lab import remote
from laila.lab.drivers.base import Channel
from laila.lab.remote import Outcome, RemoteClient


class Beside:
    """A driver as far as a RemoteClient needs one: it opens a channel whose other end is the test."""

    def __init__(self) -> None:
        self.end = TestedEnd()

    def open(self, name: str, argv: Any) -> Channel:
        return self.end


def client() -> tuple[RemoteClient, TestedEnd]:
    beside = Beside()
    return RemoteClient(beside, "node1", argv=["a program"]), beside.end  # type: ignore[arg-type]  # `open` is all it takes


def calls(made: RemoteClient, *ops: str) -> tuple[list[threading.Thread], dict[str, Outcome]]:
    found: dict[str, Outcome] = {}

    def call(op: str) -> None:
        found[op] = made.call(op, timeout=5)

    threads = [threading.Thread(target=call, args=(op,)) for op in ops]
    for thread in threads:
        thread.start()
    return threads, found


def test_answers_find_their_questions_in_any_order() -> None:
    made, end = client()
    threads, found = calls(made, "one", "two", "three")
    asked = [json.loads(end.sent.get(timeout=5)) for _ in threads]
    for request in reversed(asked):
        end.says.put(json.dumps({"id": request["id"], "ok": True, "result": {"op": request["op"]}}).encode())
    for thread in threads:
        thread.join(5)
    assert {op: outcome.result["op"] for op, outcome in found.items()} == {
        op: op for op in ("one", "two", "three")
    }
    made.close()


def test_an_error_keeps_its_class_and_whether_it_may_have_run() -> None:
    made, end = client()
    threads, found = calls(made, "memorize")
    number = json.loads(end.sent.get(timeout=5))["id"]
    error = {"code": "PeerLost", "message": "gone", "executed": "maybe"}
    end.says.put(json.dumps({"id": number, "ok": False, "error": error}).encode())
    threads[0].join(5)
    outcome = found["memorize"]
    assert (outcome.ok, outcome.error, outcome.executed, str(outcome)) == (
        False,
        "PeerLost",
        "maybe",
        "PeerLost: gone",
    )
    made.close()


def test_silence_is_a_hang_after_the_bound_and_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MARGIN", 0.1)
    made, _ = client()
    outcome = made.call("remember", timeout=0.1)
    assert outcome.error == "NoAnswer"
    assert "bounded by 0.1 s" in outcome.message
    assert 0.2 <= outcome.seconds < 2
    made.close()


def test_the_end_of_the_program_ends_calls_under_way_and_later_ones() -> None:
    made, end = client()
    threads, found = calls(made, "one", "two")
    until(lambda: end.sent.qsize() == 2, "two requests")
    end.says.put(None)
    for thread in threads:
        thread.join(5)
    assert {outcome.error for outcome in found.values()} == {"ClientGone"}
    assert made.gone
    assert made.call("three", timeout=5).error == "ClientGone"
    made.close()


@pytest.mark.parametrize(
    "rubbish",
    [b"Segmentation fault", b"[]", b"\xff\xfe", b"7", b"[" * 200_000, b'{"id": true, "ok": true}'],
    ids=["words", "list", "bytes", "number", "deep", "id"],
)
def test_a_program_that_prints_rubbish_is_given_up(rubbish: bytes) -> None:
    made, end = client()
    threads, found = calls(made, "one")
    end.sent.get(timeout=5)
    end.says.put(rubbish)
    threads[0].join(5)
    assert found["one"].error == "ClientGone"
    assert "no answer" in found["one"].message
    made.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"ok": True, "result": "x"}, remote.BAD_ANSWER),
        ({"ok": "false", "result": {}}, remote.BAD_ANSWER),
        ({"ok": False, "error": "x"}, remote.BAD_ANSWER),
        ({"ok": False}, "an error without a code"),
        ({"ok": True, "clock": 5}, ""),
    ],
)
def test_an_answer_that_is_none_is_told_from_an_error(answer: dict[str, Any], error: str) -> None:
    made, end = client()
    threads, found = calls(made, "one")
    number = json.loads(end.sent.get(timeout=5))["id"]
    end.says.put(json.dumps({"id": number, **answer}).encode())
    threads[0].join(5)
    assert found["one"].error == error
    made.close()


def test_must_says_where_and_why() -> None:
    made, end = client()
    end.closed = True
    with pytest.raises(LabError, match=r"peers beside node1: ClientGone: .* \(last words\)"):
        made.must("peers", timeout=1)
    made.close()
