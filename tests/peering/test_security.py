"""Nobody gets in without the secret, and every refusal says why."""

from __future__ import annotations

import datetime
import gc
import logging
import socket
import ssl
import time
import uuid

import pytest
from support import FAST, OTHER_SECRET, SECRET, node, until

import laila
from laila.errors import AuthenticationFailed, LinkError, Unreachable, VersionMismatch, WeakSecret
from laila.macros.defaults import DefaultPolicy
from laila.secret import check_secret
from laila.transport import tls
from laila.transport.identity import Identity
from laila.wire import messages


def test_a_wrong_secret_is_refused_and_harms_nobody() -> None:
    with node("a") as (a, at_a), node("b") as (b, _), DefaultPolicy(name="stranger", limits=FAST) as stranger:
        b.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        with pytest.raises(AuthenticationFailed, match="does not share this secret"):
            stranger.communication.add_tcpip_peer("127.0.0.1", at_a.port, OTHER_SECRET)
        until(lambda: a.communication.stats.refused["secret"] == 1)
        assert list(a.peers) == [b.global_id]
        assert dict(stranger.peers) == {}
        assert b.peers[a.global_id].keys("store").data == []


def test_a_listener_with_a_wrong_secret_gets_no_peer() -> None:
    """The dialer verifies too: a fake node learns nothing and is not accepted."""
    with node("fake", OTHER_SECRET) as (_, at_fake), DefaultPolicy(limits=FAST) as policy:
        with pytest.raises(AuthenticationFailed):
            policy.communication.add_tcpip_peer("127.0.0.1", at_fake.port, SECRET)


def test_no_certificate_is_refused() -> None:
    with node("a") as (a, at_a):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", at_a.port)) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
            context.wrap_socket(raw) as sock,
        ):
            sock.sendall(b"hello")
            while True:
                if not sock.recv(100):
                    raise ConnectionError("closed")
        until(
            lambda: a.communication.stats.refused["no-certificate"] == 1,
            what=str(a.communication.stats.refused),
        )
        assert dict(a.peers) == {}


def test_older_tls_is_refused() -> None:
    with node("a") as (a, at_a):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", at_a.port)) as raw,
            pytest.raises((ssl.SSLError, ConnectionError)),
        ):
            context.wrap_socket(raw)
        until(lambda: sum(a.communication.stats.refused.values()) == 1)


def test_a_wrong_clock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf from the past is refused with a sentence about clocks."""
    real = tls.issue_leaf

    def long_ago(
        identity: Identity, secret: str, now: datetime.datetime | None = None
    ) -> tuple[object, object]:
        return real(identity, secret, datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30))

    with node("a") as (_, at_a), DefaultPolicy(limits=FAST) as late:
        monkeypatch.setattr(tls, "issue_leaf", long_ago)
        with pytest.raises(AuthenticationFailed, match="clock"):
            late.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)


def test_another_protocol_version_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides hear which versions the other one speaks."""
    with node("a") as (a, at_a), DefaultPolicy(name="future", limits=FAST) as future:
        plain = future.communication._hello

        def later() -> messages.Hello:
            hello = plain()
            return messages.Hello(hello.node_id, "future", hello.instance, first=7, last=9)

        monkeypatch.setattr(future.communication, "_hello", later)
        with pytest.raises(VersionMismatch, match="1 to 1.*7 to 9.*upgrade"):
            future.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        until(lambda: a.communication.stats.refused["VersionMismatch"] == 1)
        assert dict(a.peers) == {}


def test_an_identity_that_was_not_proved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with node("a") as (a, at_a), DefaultPolicy(name="liar", limits=FAST) as liar:
        plain = liar.communication._hello
        victim = str(uuid.uuid4())
        monkeypatch.setattr(
            liar.communication, "_hello", lambda: messages.Hello(victim, "victim", plain().instance)
        )
        with pytest.raises(LinkError, match="proved to be"):
            liar.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        assert dict(a.peers) == {}


def test_a_copied_identity_is_refused_while_the_first_lives(tmp_path: object) -> None:
    """Two processes with one state directory: the second is told, the first is undisturbed."""
    with (
        node("a") as (a, at_a),
        DefaultPolicy(name="one", identity_dir=f"{tmp_path}/s", limits=FAST) as one,
        DefaultPolicy(name="two", identity_dir=f"{tmp_path}/s", limits=FAST) as two,
    ):
        assert one.global_id == two.global_id
        one.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        one.peers[a.global_id].ping()
        with pytest.raises(LinkError, match="its own state directory"):
            two.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        assert one.peers[a.global_id].keys("store").data == []


def test_an_identity_survives_a_restart(tmp_path: object) -> None:
    with DefaultPolicy(identity_dir=f"{tmp_path}/state") as policy:
        first = policy.global_id
    with DefaultPolicy(identity_dir=f"{tmp_path}/state") as policy:
        assert policy.global_id == first


def test_only_listed_nodes_are_let_in() -> None:
    with DefaultPolicy(limits=FAST) as friend, DefaultPolicy(limits=FAST) as other:
        with node("a", allow=[friend.global_id]) as (a, at_a):
            friend.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
            with pytest.raises(AuthenticationFailed, match="not on the list"):
                other.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
            assert list(a.peers) == [friend.global_id]


def test_two_secrets_during_a_rotation() -> None:
    """A node that accepts the new secret beside its own peers with holders of either that accept both."""
    with node("a", also_accept=[OTHER_SECRET]) as (a, at_a), DefaultPolicy(name="b", limits=FAST) as b:
        dialer = b.communication.maintain("127.0.0.1", at_a.port, OTHER_SECRET, also_accept=[SECRET])
        until(lambda: dialer.state.value == "up", what=str(dialer.last_error))
        assert list(b.peers) == [a.global_id]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "x" * 64,
        "ab" * 16,
        "correct horse battery staple and more words",
        "my-super-secret-password-2024!",
        "thequickbrownfoxjumpsoverthelazydog",
        None,
        17,
        b"bytes",
    ],
)
def test_weak_secrets_are_refused_without_being_shown(secret: object) -> None:
    with pytest.raises(WeakSecret, match="laila secret new") as caught:
        check_secret(secret)
    assert not secret or str(secret) not in str(caught.value)


def test_random_secrets_are_accepted() -> None:
    for _ in range(500):
        check_secret(laila.new_secret())
        check_secret(uuid.uuid4().hex)


def test_secrets_show_nowhere(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    """Not in reprs, messages or output of nodes that peer and of one that is refused."""
    caplog.set_level(logging.DEBUG)
    seen = []
    with node("a") as (a, at_a), DefaultPolicy(limits=FAST) as b, DefaultPolicy(limits=FAST) as stranger:
        a.communication.events.subscribe(lambda kind, fields: seen.append(repr(fields)))
        b.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        with pytest.raises(AuthenticationFailed) as caught:
            stranger.communication.add_tcpip_peer("127.0.0.1", at_a.port, OTHER_SECRET)
        seen += [repr(x) for x in (a, a.peers, a.communication, at_a, b.communication.dialers, caught.value)]
    out, err = capfd.readouterr()
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in "".join([out, err, caplog.text, *seen])


@pytest.mark.parametrize(
    ("host", "port", "error"),
    [("127.0.0.1", 1, Unreachable), ("no-such-host.invalid", 7000, Unreachable), ("::1", 1, Unreachable)],
)
def test_nobody_there_is_said_at_once(host: str, port: int, error: type[Exception]) -> None:
    with DefaultPolicy(limits=FAST) as policy:
        started = time.monotonic()
        with pytest.raises(error, match="cannot be reached|does not resolve"):
            policy.communication.add_tcpip_peer(host, port, SECRET)
        assert time.monotonic() - started < 8


def test_a_port_that_speaks_something_else() -> None:
    """An HTTP server at that port is named as no laila node."""
    with socket.create_server(("127.0.0.1", 0)) as server, DefaultPolicy(limits=FAST) as policy:
        import threading

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                time.sleep(0.2)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises((AuthenticationFailed, Unreachable), match="laila node"):
            policy.communication.add_tcpip_peer("127.0.0.1", server.getsockname()[1], SECRET)
        thread.join()


def test_nothing_outlives_close() -> None:
    """Threads and sockets of a node are gone when close returns; a leak would be a ResourceWarning here."""
    import threading

    before = set(threading.enumerate())
    with node("a") as (a, at_a), node("b") as (b, _):
        b.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        with pytest.raises(Unreachable):
            b.communication.add_tcpip_peer("127.0.0.1", 1, SECRET)
    gc.collect()
    assert set(threading.enumerate()) == before
