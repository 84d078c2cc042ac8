"""The `laila` command: what it prints, what it exits with, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from running import LAILA, Nodes, Running, environment, free_port, laila, until

from laila.ids import nickname_id
from laila.secret import check_secret


@pytest.fixture(scope="module")
def node(nodes: Nodes) -> Iterator[Running]:
    """A node n1 with a durable pool, whose peer n2 has one as well."""
    first = nodes.node("n1", "--pools", f"kept=sqlite:{nodes.folder / 'n1.sqlite'}").start().ready()
    flags = ("--pools", f"kept=sqlite:{nodes.folder / 'n2.sqlite'}", "--access", "deny * write alpha")
    second = nodes.node("n2", "--peers", first.address, *flags).start().ready()
    until(lambda: "n2" in first.links(), "n2 as peer of n1")
    yield first
    second.stop()
    first.stop()


class Shell:
    """Runs commands against one node."""

    def __init__(self, node: Running) -> None:
        self.env = {
            "LAILA_NODE": node.address,
            "LAILA_SECRET_FILE": str(node.secret_file),
            "LAILA_STATUS": f"127.0.0.1:{node.status_port}",
        }

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """What a command that works prints."""
        done = laila(*arguments, env=self.env, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def fails(self, code: int, *arguments: str, env: dict[str, str] | None = None) -> str:
        """The one sentence of a command that does not work; the same with --json."""
        done = laila(*arguments, env={**self.env, **(env or {})})
        assert (done.returncode, done.stdout) == (code, b""), done
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1, lines
        as_json = laila(*arguments, "--json", env={**self.env, **(env or {})})
        error = json.loads(as_json.stderr)["error"]
        assert error["kind"].isidentifier()
        assert as_json.returncode == code
        return lines[0].removeprefix("laila: ")


@pytest.fixture(scope="module")
def shell(node: Running) -> Shell:
    return Shell(node)


def test_value_goes_there_and_back(shell: Shell) -> None:
    """memorize prints the id; ls lists it; remember prints the value; forget removes it."""
    printed = shell.run("memorize", '{"a": [1, 2.5, null, "é"]}', "--pool", "kept").decode().strip()
    assert printed in shell.run("ls", "--pool", "kept").decode().splitlines()
    assert shell.run("remember", printed, "--pool", "kept").decode() == '{"a": [1, 2.5, null, "é"]}\n'
    assert shell.json("remember", printed, "--pool", "kept") == {
        "value": {"a": [1, 2.5, None, "é"]},
        "type": "dict",
    }
    assert shell.run("forget", printed, "--pool", "kept") == b""
    assert printed not in shell.json("ls", "--pool", "kept")["ids"]


def test_nickname_gives_the_known_id(shell: Shell) -> None:
    """A nickname stands for the same id everywhere."""
    answer = shell.json("memorize", "42", "--nickname", "answer")
    assert answer == {"id": nickname_id("answer"), "nickname": "answer", "pool": None}
    assert shell.run("remember", "--nickname", "answer") == b"42\n"
    assert shell.json("forget", "--nickname", "answer") == {
        "forgotten": [nickname_id("answer")],
        "pool": None,
    }


def test_bytes_come_back_as_they_are(shell: Shell) -> None:
    """--bytes stores standard input untouched and writes it back untouched."""
    content = bytes(range(256)) * 300
    shell.run("memorize", "--file", "-", "--bytes", "--nickname", "raw", stdin=content)
    assert shell.run("remember", "--nickname", "raw", "--bytes") == content
    assert shell.json("remember", "--nickname", "raw")["type"] == "bytes"


def test_text_needs_no_quotes(shell: Shell) -> None:
    """--text stores a line as text; remember prints it bare."""
    shell.run("memorize", "hello there", "--text", "--nickname", "line")
    assert shell.run("remember", "--nickname", "line") == b"hello there\n"
    assert shell.json("remember", "--nickname", "line") == {"value": "hello there", "type": "str"}


def test_work_on_a_peer_through_the_node(shell: Shell) -> None:
    """--at works on a peer of the node, by name; that peer's rules count."""
    shell.run("memorize", "[1]", "--nickname", "there", "--pool", "kept", "--at", "n2")
    assert shell.run("remember", "--nickname", "there", "--pool", "kept", "--at", "n2") == b"[1]\n"
    assert nickname_id("there") not in shell.json("ls", "--pool", "kept")["ids"]
    sentence = shell.fails(1, "memorize", "[1]", "--at", "n2")
    assert "may not write pool 'alpha' here" in sentence


def test_status_and_peers(shell: Shell) -> None:
    """status and peers show what the status port knows."""
    text = shell.run("status").decode()
    assert text.startswith("n1: ready, up ")
    assert "kept" in text
    assert "n2" in text
    assert shell.json("status")["name"] == "n1"
    assert shell.run("peers").decode().splitlines()[1].split()[:3] == ["n2", "up", "accepted"]
    links = {link["peer_name"]: link["state"] for link in shell.json("peers")["peers"]}
    assert links["n2"] == "up"


def test_health(shell: Shell, node: Running) -> None:
    """health is silent and 0 while the node is fit, 1 with a reason when nobody answers."""
    assert shell.run("health") == b""
    assert shell.run("health", "--live") == b""
    assert shell.json("health") == {"healthy": True, "reasons": []}
    nobody = f"127.0.0.1:{free_port()}"
    done = laila("health", "--status", nobody)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(
        f"laila: no node answers on status port {nobody} (Connection refused)"
    )
    wildcard = f"0.0.0.0:{node.status_port}"
    assert laila("health", env={"LAILA_STATUS": wildcard}).returncode == 0


def test_missing_things_are_exit_code_1(shell: Shell) -> None:
    """What is not there, or not allowed, or not reachable, is one sentence and exit code 1."""
    assert "has no entry abc" in shell.fails(1, "remember", "abc")
    assert "has no entry abc" in shell.fails(1, "forget", "abc")
    assert shell.fails(1, "ls", "--pool", "nope").startswith("no pool is called 'nope'")
    assert "'n9'" in shell.fails(1, "ls", "--at", "n9")
    nobody = f"127.0.0.1:{free_port()}"
    assert f"{nobody} cannot be reached" in shell.fails(1, "ls", "--node", nobody)
    assert "does not resolve" in shell.fails(1, "ls", "--node", "no-such-host.invalid:7400")
    assert shell.fails(1, "status", "--status", nobody).startswith("no node answers on status port")


def test_wrong_use_is_exit_code_2(shell: Shell, nodes: Nodes) -> None:
    """What was asked wrongly is one sentence that says what to do, and exit code 2."""
    weak = str(nodes.file("weak", "password"))
    for sentence, *arguments in (
        ("the value is no JSON", "memorize", "hello"),
        ("give the value either as an argument or with --file", "memorize"),
        ("/no/file cannot be read: No such file", "memorize", "--file", "/no/file"),
        ("say which entry", "remember"),
        ("say which entry", "forget", "x", "--nickname", "y"),
        ("node (--node): 'n1' has no port; write it like 'node1:7400'", "ls", "--node", "n1"),
        ("status (--status): 'n1' has no port", "status", "--status", "n1"),
        ("--timeout -1 is out of range", "ls", "--timeout=-1"),
        ("secret_file (--secret-file): /no/file cannot be read", "ls", "--secret-file", "/no/file"),
        ("too weak", "ls", "--secret-file", weak),
        ("'--pol' is not understood; see `laila ls --help`", "ls", "--pol"),
        ("no command is called 'remembr'; did you mean 'remember'?", "remembr"),
        ("the following arguments are required: ACTION", "secret"),
    ):
        assert sentence in shell.fails(2, *arguments)


def test_other_secret_is_named(shell: Shell, nodes: Nodes) -> None:
    """A secret of another group gives the reason and what to do."""
    other = nodes.file("other", laila("secret", "new").stdout)
    assert "does not share this secret" in shell.fails(1, "ls", "--secret-file", str(other))


def test_secret_new_is_strong_and_new() -> None:
    """Each call prints another secret that the library accepts."""
    first, second = laila("secret", "new").stdout.decode(), laila("secret", "new", "--json").stdout.decode()
    secrets = {first.strip(), json.loads(second)["secret"]}
    assert len(secrets) == 2
    assert [check_secret(secret) for secret in secrets] == list(secrets)


def test_version() -> None:
    """Both spellings, and JSON."""
    assert laila("version").stdout == laila("--version").stdout
    assert json.loads(laila("version", "--json").stdout)["version"] in laila("version").stdout.decode()


COMMANDS = (
    "node",
    "secret new",
    "status",
    "peers",
    "health",
    "memorize",
    "remember",
    "forget",
    "ls",
    "artifact",
    "artifact verify",
    "agents",
    "results",
    "volume check",
    "volume show",
    "version",
)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_has_examples(command: str) -> None:
    """--help of each command shows how it is used."""
    done = laila(*command.split(), "--help")
    assert done.returncode == 0
    examples = done.stdout.decode().partition("\nexamples:\n")[2]
    assert f"  laila {command}" in examples


HEAVY = ("ssl", "_ssl", "cryptography", "asyncio", "numpy", "logging", "http", "email", "concurrent")


@pytest.mark.parametrize("command", [["health"], ["version"], ["secret", "new"]])
def test_quick_commands_import_nothing_heavy(command: list[str]) -> None:
    """Health checks run every few seconds in every container: they load no TLS."""
    code = (
        "import sys\nfrom laila.cli.main import main\nmain(sys.argv[1:])\n"
        "print(*sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment(), capture_output=True, check=True, timeout=60
    )
    loaded = done.stderr.decode().splitlines()[-1].split()
    assert "json" in loaded or "argparse" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_lab_without_its_extra_names_the_extra() -> None:
    """`laila lab` on a plain installation says what to install."""
    code = "import sys\nsys.modules['rich'] = None\nsys.modules['laila.lab.cli'] = None\n"
    code += "from laila.cli.main import main\nsys.exit(main(['lab', 'check', 'replicated']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.decode().endswith("not installed; run: pip install 'laila-kit[lab]'\n")


def test_closed_pipe_is_no_traceback(shell: Shell) -> None:
    """`laila ls | head -1` ends quietly."""
    shell.run("memorize", "1")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*LAILA, "ls"],
        env=environment(shell.env),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
