"""Pools in servers: how a node is told of them, that no password shows, and a real Redis that comes and goes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Nodes, laila, until

from laila import constant
from laila.errors import BadConfig
from laila.macros.defaults import DefaultPolicy
from laila.node.config import load
from laila.node.pools import PoolConfig, open_pool
from tests.locks.servers import PASSWORD, RedisServer, started

BASE = {"LAILA_SECRET_FILE": "/run/secret"}


def pools(text: str) -> tuple[PoolConfig, ...]:
    return load({}, {**BASE, "LAILA_POOLS": text}).pools


def pools_in(tmp_path: Path, text: str) -> tuple[PoolConfig, ...]:
    file = tmp_path / "node.toml"
    file.write_text(text)
    return load({}, BASE, config_file=str(file)).pools


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=redis://h:1/0", PoolConfig("a", "redis", url="redis://h:1/0")),
        ("a=redis:rediss://h:1/0?pool=b", PoolConfig("a", "redis", url="rediss://h:1/0?pool=b")),
        ("a=redis:unix:///run/redis", PoolConfig("a", "redis", url="unix:///run/redis")),
        ("a=postgres:postgresql://u@h/d", PoolConfig("a", "postgres", url="postgresql://u@h/d")),
        ("a=s3://bucket/prefix?region=r", PoolConfig("a", "s3", url="s3://bucket/prefix?region=r")),
        ("a=redis:/run/secrets/redis", PoolConfig("a", "redis", url_file=Path("/run/secrets/redis"))),
    ],
)
def test_an_address_or_the_file_with_it_as_text(text: str, expected: PoolConfig) -> None:
    assert pools(text) == (expected,)


def test_an_address_or_the_file_with_it_as_tables(tmp_path: Path) -> None:
    found = pools_in(
        tmp_path,
        '[pools.a]\nkind = "redis"\nurl = "redis://h/0"\n[pools.b]\nkind = "postgres"\nurl_file = "database"\n',
    )
    assert found == (
        PoolConfig("a", "redis", url="redis://h/0"),
        PoolConfig("b", "postgres", url_file=tmp_path / "database"),
    )
    assert [str(pool) for pool in found] == ["a=redis:redis://h/0", f"b=postgres:{tmp_path / 'database'}"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a=redis", "needs either url, like redis://host:6379/0.*, or url_file"),
        ("a=redis://h/0,b=redis:redis://h/0", r"two pools use the address redis://h/0; give each its own"),
        (f"a=redis://:{PASSWORD}@h/0", "holds a password"),
        (f"a=postgres:postgresql://u:{PASSWORD}@h/d", "holds a password"),
        (f"a=postgres:postgresql://h/d?user=u&password={PASSWORD}", "holds a password"),
        (f"a=s3://KEY:{PASSWORD}@bucket", "holds a password"),
        (f"a=redis://:x,{PASSWORD}@h/0", "part of it is no pool|holds a password"),
        (f"a=redis://:{PASSWORD}@[h/0", "holds a password"),
        ("a=memory:redis://h/0", "is memory and has no address; drop url and url_file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_sentence_without_the_password(text: str, sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        pools(text)
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('kind = "redis"\npath = "x"', "is in a server and takes no path; give url_file"),
        ('kind = "redis"\nurl = "redis://h"\nurl_file = "x"', "either url.* or url_file"),
        ('kind = "redis"\nurl = "h:6379"', "is no address; write one like redis://"),
        ('kind = "sqlite"\nurl = "redis://h"', "is sqlite and has no address"),
        ('kind = "s3"\nurl = "s3://b"\nmax_bytes = 3', "only memory pools have max_entries"),
        ('kind = "s3"\nurl = 3', "it is a number where the address of a pool belongs"),
    ],
)
def test_wrong_tables(tmp_path: Path, keys: str, sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        pools_in(tmp_path, f"[pools.a]\n{keys}\n")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"redis://a redis://b", b"x" * 5000])
def test_a_file_without_an_address_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "address"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(BadConfig, match=re.escape(str(file))) as caught:
        open_pool(PoolConfig("a", "redis", url_file=file))
    assert "redis://a" not in str(caught.value)
    with pytest.raises(BadConfig, match="cannot be read: No such file"):
        open_pool(PoolConfig("a", "redis", url_file=tmp_path / "absent"))


def test_a_file_that_everybody_can_read_gives_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "address"
    file.write_text(f"redis://:{PASSWORD}@127.0.0.1:1/0\n")
    file.chmod(0o644)
    with open_pool(PoolConfig("a", "redis", url_file=file)):
        pass
    assert f"every user of this machine can read {file}" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.fixture
def server() -> Iterator[Any]:
    with contextlib.closing(started(RedisServer, PASSWORD)) as server:
        yield server


def test_a_node_with_a_pool_in_a_server_that_comes_and_goes(nodes: Nodes, server: RedisServer) -> None:
    """It starts without it and says so, is ready when it is there, serves peers from it; the password shows nowhere."""
    address = nodes.file("address", server.at(pool="kept"))
    server.stop()
    node = nodes.node("n1", "--pools", f"kept=redis:{address}", "--log-level", "debug").start()
    pages: list[str] = []

    def reasons() -> list[str]:
        try:
            answer = node.get("/readyz")
        except OSError:
            return []
        pages.append(answer.body.decode())
        found: list[str] = json.loads(answer.body)["reasons"]
        return [reason for reason in found if "kept" in reason]

    (reason,) = until(reasons, "the reason why it is not ready")
    assert f"127.0.0.1:{server.port}" in reason
    server.start()
    node.ready()
    with DefaultPolicy(name="client") as client:
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", node.port, nodes.secret)]
        entry = constant({"a": [1, 2]})
        peer.memorize(entry, pool_nickname="kept").wait(20)
        assert peer.remember(entry.global_id, pool_nickname="kept").data == {"a": [1, 2]}
    status = node.status()
    assert [(pool["name"], pool["kind"], pool["durable"], pool["count"]) for pool in status["pools"]] == [
        ("alpha", "memory", False, 0),
        ("kept", "redis", False, 1),
    ]
    server.stop()
    until(reasons, "the reason why it is not ready any more")
    pages += [json.dumps(node.status()), node.get("/metrics").body.decode()]
    checked = laila("node", "--check", *node.flags, "--secret-file", str(nodes.secret_file))
    assert checked.returncode == 0
    pages += [checked.stdout.decode(), checked.stderr.decode()]
    assert node.stop() == 0
    assert PASSWORD not in "".join(pages) + node.log_text()
