"""The programs that take workloads' operations for laila's own parts, each through its own lines."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from laila.errors import BadConfig
from laila.lab import subjects
from laila.lab.subjects.base import answer, named, run, valued
from laila.lab.workloads import WORKLOADS

TEXTS = ("element-node1/set/0#1.7", "under_score", "ünïcode ☃", "x", "", "UPPER lower")


def ask(subject: Any, op: str, **words: Any) -> dict[str, Any]:
    return answer(subject.operations, {"id": 1, "op": op, **words})


def made(name: str, options: Mapping[str, str]) -> Any:
    return subjects.kind(name)(options)


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_a_name_and_back(text: str) -> None:
    assert valued(named(text)) == text
    assert set(named(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_every_operation_that_workloads_ask_for_has_a_subject() -> None:
    offered = {op for name in subjects.names() for op in subjects.kind(name).ops}
    assert {op for workload in WORKLOADS.values() for op in workload.ops} <= offered


def test_an_unknown_subject_is_answered_with_those_that_exist() -> None:
    with pytest.raises(BadConfig, match="there are memory, replicas, shared, locks, agents"):
        subjects.kind("nothing")


def test_artifacts_are_a_register_with_compare_and_set(tmp_path: Path) -> None:
    store = made("shared", {"directory": str(tmp_path / "store")})
    assert ask(store, "read", key="a")["result"] == {"value": None}
    assert ask(store, "cas", key="a", old="1", new="2")["result"] == {"swapped": False}
    assert ask(store, "cas", key="a", old=None, new="1")["result"] == {"swapped": True}
    assert ask(store, "cas", key="a", old="1", new="2")["result"] == {"swapped": True}
    assert ask(store, "cas", key="a", old="1", new="3")["result"] == {"swapped": False}
    assert ask(store, "write", key="a", value="4")["ok"]
    for _ in range(2):  # past the cache, and through it
        assert ask(store, "read", key="a")["result"] == {"value": "4"}
    store.close()


def test_locks_exclude_and_say_for_certain_when_they_were_not_had(tmp_path: Path) -> None:
    one, other = (made("locks", {"service": str(tmp_path)}) for _ in range(2))
    token = ask(one, "acquire", key="a", wait=1)["result"]["token"]
    refused = ask(other, "acquire", key="a", wait=0.05)
    assert (refused["ok"], refused["error"]["executed"]) == (False, "no")
    assert ask(one, "release", key="a")["ok"]
    assert ask(other, "acquire", key="a", wait=1)["result"]["token"] > token
    assert ask(one, "release", key="a")["error"]["executed"] == "no"
    for subject in (one, other):
        subject.close()


def test_agents_are_a_set(tmp_path: Path) -> None:
    agents = made("agents", {"directory": str(tmp_path)})
    assert ask(agents, "list", key="all")["result"] == {"values": []}
    for text in TEXTS[:3]:
        assert ask(agents, "add", key="all", value=text)["ok"]
    assert sorted(ask(agents, "list", key="all")["result"]["values"]) == sorted(TEXTS[:3])


def test_the_program_answers_lines_and_rubbish(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "op": "hello"}',
        "no json",
        '{"id": 2, "op": "dance"}',
        '{"id": 3, "op": "read", "key": 7}',
    ]
    out = io.StringIO()
    code = run(
        subjects.kind("shared"), {"directory": str(tmp_path)}, streams=(io.StringIO("\n".join(lines)), out)
    )
    answers = {one["id"]: one for one in map(json.loads, out.getvalue().splitlines())}
    assert code == 0
    assert answers[1]["result"]["ops"] == ["read", "write", "cas"]
    assert "a request is an object" in answers[None]["error"]["message"]
    assert not answers[2]["ok"]
    assert "`key` must be a text" in answers[3]["error"]["message"]


def test_a_subject_that_cannot_be_opened_ends_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(subjects.kind("shared"), {}, streams=(io.StringIO(), io.StringIO())) == 2
    assert "say --set directory=" in capsys.readouterr().err
