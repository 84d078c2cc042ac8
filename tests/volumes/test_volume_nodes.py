"""Ways to reach a node: how they are written, and what happens when they fail."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from laila.errors import (
    BadConfig,
    BadValue,
    DeadlineExceeded,
    PeerLost,
    ProtocolError,
    RemoteError,
    StorageError,
)
from laila.volumes.nodes import AgentNode, Nodes, NodeSpec, command, parse

AGENT = ["laila", "volume", "probe"]
WRITTEN = [
    ("local", NodeSpec("local", "", None, "local"), None),
    ("local=/mnt/x", NodeSpec("local", "", "/mnt/x", "local"), None),
    ("docker:n1", NodeSpec("docker", "n1", None, "docker:n1"), ["docker", "exec", "-i", "n1", *AGENT]),
    ("docker:n1=/a=b", NodeSpec("docker", "n1", "/a=b", "docker:n1"), ["docker", "exec", "-i", "n1", *AGENT]),
    (
        "ssh:me@host",
        NodeSpec("ssh", "me@host", None, "ssh:me@host"),
        ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "me@host", *AGENT],
    ),
    ("exec:a 'b c', d", NodeSpec("exec", "a 'b c,' d", None, "exec:a 'b c', d"), ["a", "b c,", "d"]),
    ("exec:a --b=/c =/d", NodeSpec("exec", "a --b=/c", "/d", "exec:a --b=/c =/d"), ["a", "--b=/c"]),
    ("host:7400", NodeSpec("peer", "host:7400", None, "host:7400"), None),
    ("[::1]:7400=/x", NodeSpec("peer", "[::1]:7400", "/x", "[::1]:7400"), None),
]


@pytest.mark.parametrize(("text", "spec", "argv"), WRITTEN, ids=[text for text, *_ in WRITTEN])
def test_nodes_as_they_are_written(text: str, spec: NodeSpec, argv: list[str] | None) -> None:
    assert NodeSpec.parse(text) == spec
    if argv is not None:
        assert command(spec) == argv


def test_commas_separate_nodes_but_not_in_commands() -> None:
    found = parse(["docker:a, docker:b=/x", "exec:a,b c", "local"])
    assert [spec.text for spec in found] == ["docker:a", "docker:b", "exec:a,b c", "local"]


@pytest.mark.parametrize(
    "text",
    ["", "host", "docker:", "ssh:", "ssh:-oProxyCommand=evil", "docker:--privileged", "exec:", "exec:=/x", "exec:'a",
     "host:0", "host:99999", ":7400", "docker", "kubernetes:pod"],
)  # fmt: skip
def test_what_is_no_node_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match="--with"):
        NodeSpec.parse(text)


def test_a_peer_needs_the_secret() -> None:
    with Nodes() as nodes, pytest.raises(BadConfig, match="give --secret-file"):
        nodes.open(NodeSpec.parse("127.0.0.1:1"))


def test_one_node_named_twice_is_told_apart() -> None:
    with Nodes() as nodes:
        assert [nodes.open(spec).name for spec in parse(["local,local=/x"])] == ["local", "local #2"]


def program(text: str) -> AgentNode:
    return AgentNode((sys.executable, "-c", f"import sys, time, json\n{text}"), name="n")


def answering(answer: str) -> AgentNode:
    return program(f"for line in sys.stdin: print({answer!r}, flush=True)")


def test_an_agent_answers() -> None:
    with AgentNode(name="n") as node:
        assert node.ask({"do": "time"}, 10)["monotonic"] > 0
        with pytest.raises(BadValue, match="`do` is one of"):
            node.ask({"do": "nothing"}, 10)
        with pytest.raises(StorageError, match="No such file") as caught:
            node.ask({"do": "begin", "path": "/nowhere", "probe": "0" * 16}, 10)
        assert caught.value.reason == "ENOENT"


def test_a_late_answer_is_not_taken_for_the_next_one() -> None:
    slow = "for n, line in enumerate(sys.stdin): time.sleep(0.3 if n == 0 else 0); "
    answer = "print(json.dumps({'id': json.loads(line)['id'], 'ok': True, 'answer': {'n': n}}), flush=True)"
    with program(slow + answer) as node:
        with pytest.raises(DeadlineExceeded, match=r"n did not answer the step 'time' within 0\.05 s"):
            node.ask({"do": "time"}, 0.05)
        assert node.ask({"do": "time"}, 10) == {"n": 1}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ("hello", ProtocolError, "'hello\\\\n', which is no answer"),
        ("[1]", ProtocolError, "which is no answer"),
        ('{"id": 1, "ok": true, "answer": 3}', ProtocolError, "neither a result nor an error"),
        ('{"id": 1, "ok": false, "error": {}}', ProtocolError, "neither a result nor an error"),
        (
            '{"id": 1, "ok": false, "error": {"kind": "MemoryError", "message": "none"}}',
            RemoteError,
            "MemoryError: none",
        ),
        ("[" * 100_000, ProtocolError, "which is no answer"),
    ],
    ids=["text", "list", "no table", "no message", "strange error", "deep"],
)
def test_rubbish_is_an_error(answer: str, error: type[Exception], words: str) -> None:
    with answering(answer) as node, pytest.raises(error, match=words):
        node.ask({"do": "time"}, 10)


def test_an_agent_that_ends_says_why() -> None:
    with program("sys.stdin.readline(); print('one\\ntwo', file=sys.stderr); sys.exit(5)") as node:
        for _ in range(2):
            with pytest.raises(PeerLost, match=r"has ended with exit code 5 \(it says: one / two\)"):
                node.ask({"do": "time"}, 10)


def test_a_flood_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its answers nor its complaints are kept without bound, and closing does not wait for them."""
    monkeypatch.setattr("laila.volumes.nodes.PATIENCE", 0.3)
    node = program("while True: print('x' * 1000); print('y' * 1000, file=sys.stderr)")
    with pytest.raises(ProtocolError):
        node.ask({"do": "time"}, 10)
    started = time.monotonic()
    node.close()
    assert time.monotonic() - started < 10
    assert len(node.complaints()) < 5000


def test_a_program_with_children_that_stay_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They share its session, which is ended as a whole; closing again is no error."""
    monkeypatch.setattr("laila.volumes.nodes.PATIENCE", 0.3)
    node = AgentNode(("sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; exec cat"), name="n")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    node.close()
    node.close()
    child = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().split(") ")[1][0] == "Z"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(BadConfig, match="n: cannot run 'no-such-program': No such file or directory"):
        AgentNode(("no-such-program",), name="n")
