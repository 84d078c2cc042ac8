"""The client program, against a real node in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.lab import client, values
from laila.macros.defaults import DefaultPolicy, DefaultPool, DefaultTCPIPProtocol

SECRET = "9f3c61e2b7d84a05c1e96f2038ab47d5"  # noqa: S105  opens nothing


@pytest.fixture
def node() -> Iterator[DefaultTCPIPProtocol]:
    with DefaultPolicy(name="node1") as policy:
        policy.memory.extend(DefaultPool(), pool_nickname="scratch")
        listening = DefaultTCPIPProtocol("127.0.0.1", 0, SECRET)
        policy.communication.add_connection(listening)
        yield listening


@pytest.fixture
def link(node: DefaultTCPIPProtocol, tmp_path: Path) -> Iterator[client.NodeLink]:
    made = client.NodeLink(f"127.0.0.1:{node.port}", str(secret_file(tmp_path)), "127.0.0.1:1")
    yield made
    made.policy.close()


def secret_file(folder: Path, text: str = SECRET) -> Path:
    path = folder / "secret"
    path.write_text(text + "\n", encoding="ascii")
    return path


def ask(link: client.NodeLink, op: str, **words: Any) -> Any:
    answer = client.answer(link, {"id": 1, "op": op, **words})
    assert answer["ok"], answer
    return answer["result"]


def test_what_is_stored_is_what_is_got(link: client.NodeLink) -> None:
    entries = [{"nickname": name, "value": {"kind": "typed", "name": name}} for name in values.TYPED]
    stored = ask(link, "memorize", entries=entries, pool="scratch")
    assert ask(link, "remember", ids=stored["ids"], pool="scratch")["prints"] == stored["prints"]
    assert ask(link, "exists", ids=[*stored["ids"], "nope"], pool="scratch")["exists"][-2:] == [True, False]
    ask(link, "forget", ids=stored["ids"], pool="scratch")
    assert not any(ask(link, "exists", ids=stored["ids"], pool="scratch")["exists"])


def test_a_node_that_lies_is_found_out(link: client.NodeLink) -> None:
    """The fingerprint is of what the node gave, not of what was asked for."""
    entry = {"nickname": "a", "value": {"kind": "small", "seed": 1}}
    stored = ask(link, "memorize", entries=[entry], pool="scratch")
    ask(link, "memorize", entries=[{**entry, "value": {"kind": "small", "seed": 2}}], pool="scratch")
    assert ask(link, "remember", ids=stored["ids"], pool="scratch")["prints"] != stored["prints"]


def test_programs_like_this_one_are_no_peers(link: client.NodeLink) -> None:
    assert ask(link, "peers")["peers"] == []


def test_it_says_hello_and_pings(link: client.NodeLink) -> None:
    assert ask(link, "hello")["node_id"] == link.own
    assert 0 < ask(link, "ping")["rtt"] < 5


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("text", "BadValue"),
        ({"op": "explode"}, "BadValue"),
        ({"op": "peers", "timeout": 0}, "BadValue"),
        ({"op": "peers", "timeout": True}, "BadValue"),
        ({"op": "remember", "ids": "abc"}, "BadValue"),
        ({"op": "remember", "ids": ["nope"], "pool": "scratch"}, "EntryNotFound"),
        ({"op": "remember", "ids": ["nope"], "pool": "nowhere"}, "UnknownPool"),
        ({"op": "peers", "at": "nobody"}, "UnknownPeer"),
        ({"op": "memorize", "entries": [{}]}, "KeyError"),
        ({"op": "memorize", "entries": [{"nickname": "a", "value": {"kind": "magic"}}]}, "BadValue"),
    ],
)
def test_every_failure_is_an_answer(link: client.NodeLink, request_: Any, code: str) -> None:
    answer = client.answer(link, request_)
    assert (answer["ok"], answer["error"]["code"]) == (False, code), answer


def test_the_program_answers_every_line_and_ends_with_its_input(
    node: DefaultTCPIPProtocol, tmp_path: Path
) -> None:
    lines = ["rubbish", json.dumps({"id": 1, "op": "hello"}), json.dumps({"id": 2, "op": "peers"})]
    out = io.StringIO()
    where = (f"127.0.0.1:{node.port}", str(secret_file(tmp_path)), "127.0.0.1:1")
    assert client.run(*where, streams=(io.StringIO("\n".join(lines) + "\n"), out)) == 0
    answers = {answer["id"]: answer["ok"] for answer in map(json.loads, out.getvalue().splitlines())}
    assert answers == {None: False, 1: True, 2: True}


def test_a_wrong_secret_ends_it_at_once_and_says_so(
    node: DefaultTCPIPProtocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = secret_file(tmp_path, SECRET[::-1])
    assert (
        client.run(f"127.0.0.1:{node.port}", str(wrong), "", wait=30, streams=(io.StringIO(), io.StringIO()))
        == 2
    )
    assert "AuthenticationFailed" in capsys.readouterr().err


def test_a_node_that_is_not_there_is_waited_for_no_longer_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("127.0.0.1:1", str(secret_file(tmp_path)), "")
    assert client.run(*where, wait=0.2, streams=(io.StringIO(), io.StringIO())) == 2
    assert "Unreachable" in capsys.readouterr().err
