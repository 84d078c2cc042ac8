"""Locks in Lease objects: the suites, and what API servers, roles, watches and administrators do.

Which API server: see kube_servers.py. Without one of Kubernetes itself it is a stand-in of our own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kube_servers import NOBODY, ApiServer, Cluster, LeaseApi, server_class
from lock_conformance import SOON
from served import TTL, LeasedLock, _until
from servers import PASSWORD, free_port, running

from laila.errors import BadConfig, LockLost, LockUnavailable
from laila.lab.subjects.base import Refused
from laila.locks import connect
from laila.locks.kubernetes_gateway import VERBS, Address
from laila.locks.kubernetes_queue import Member, State, object_name, state_of, version_of, written
from laila.locks.kubernetes_view import View
from tests.locks.locker import Locker

ROLES = Path(__file__).parents[2] / "k8s" / "locks"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    kubeconfig = os.environ.get("LAILA_TEST_KUBECONFIG")
    if kubeconfig and not os.environ.get("LAILA_TEST_KUBE_BIN"):
        with closing(Cluster(kubeconfig)) as cluster:
            yield cluster
    else:
        yield from running(server_class())


@pytest.fixture
def api() -> Iterator[Any]:
    """A stand-in, for what a real API server does only under load, or not when it is told to."""
    yield from running(LeaseApi)


class TestKubernetesLock(LeasedLock):
    server_class = server_class()
    client = "kubernetes"
    extra = "kubernetes"

    @pytest.fixture
    def own(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        if self.server_class is ApiServer:
            server = request.getfixturevalue("server")
            server.fresh()
            yield server
            server.mended()
        else:
            yield from running(self.server_class)

    @pytest.fixture
    def secure(self, request: pytest.FixtureRequest) -> Iterator[Any]:
        """One that speaks TLS, as a real one always does."""
        if self.server_class is ApiServer:
            yield request.getfixturevalue("own")
        else:
            yield from running(self.server_class, tls=True)

    @staticmethod
    def lease(server: Any, lock: str, service: Any) -> dict[str, Any]:
        full = service.settings.prefix + lock
        return next(each for each in server.leases() if each["metadata"]["annotations"]["laila/lock"] == full)

    # --- other processes: they import a client that takes seconds to load, which must not count

    @pytest.fixture
    def other(self, url: str) -> Iterator[Locker]:
        with Locker(url) as locker:
            warm([locker])
            yield locker

    @staticmethod
    def _hammered(url: str, *, turns: int, share: float) -> list[list[float]]:
        with ExitStack() as stack:
            lockers = [stack.enter_context(Locker(url, node=f"n{i}")) for i in range(4)]
            warm(lockers)
            for each in lockers:
                each.send("hammer", "a", turns, 0.001, share)
            return [interval for each in lockers for interval in each.answer(120)]

    # --- the suite's tests that put things into an address, which here are in the kubeconfig

    def test_a_server_that_is_not_there_is_named(self, own):
        """LockUnavailable with host and port, from everything that needs the server."""
        port = free_port()
        with connect(own.as_user(PASSWORD, port), timeout=1) as service:
            lock = service.lock("a")
            asks: list[Callable[[], Any]] = [
                lambda: lock.acquire(0), lambda: lock.acquire(SOON, shared=True), lock.try_acquire, lock.holder
            ]  # fmt: skip
            for ask in asks:
                with pytest.raises(LockUnavailable, match=f"127.0.0.1:{port} cannot lock now: .*refused"):
                    ask()

    def test_passwords_are_never_shown(self, caplog, own):
        """Neither in messages, causes, representations nor logs; and a wrong one is refused with LockUnavailable."""
        server = own
        with caplog.at_level(logging.DEBUG):
            seen: list[Any] = []
            with connect(server.url, node="n") as service, service.lock("a").acquire(SOON) as hold:
                seen += [
                    service,
                    service.lock("a"),
                    hold,
                    service.lock("a").holder(),
                    vars(service)["server"],
                ]
                server.stop()
                with pytest.raises(LockUnavailable) as caught:
                    service.lock("b").acquire(SOON)
            seen += traceback.format_exception(caught.value)
            server.start()
            with connect(server.as_user(PASSWORD[::-1])) as service:
                with pytest.raises(LockUnavailable, match="does not know this user") as caught:
                    service.lock("b").acquire(SOON)
            seen += traceback.format_exception(caught.value)
        text = "\n".join(f"{each} {each!r}" for each in seen) + caplog.text
        assert "127.0.0.1" in text
        assert PASSWORD not in text
        assert PASSWORD[::-1] not in text

    # --- the object

    def test_the_object_says_it_to_people(self, own):
        """One Lease with the plain name beside it; the standard fields say who holds it, and how often it was taken."""
        with connect(own.at(ttl=3), node="n1") as service:
            for turn in range(1, 4):
                with service.lock("Ключ nightly.report").acquire(0, purpose="testing") as hold:
                    [lease] = own.leases()
                    spec = lease["spec"]
                    assert spec["holderIdentity"].startswith(f"n1_{os.uname().nodename}_{os.getpid()}_")
                    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (3, turn)
                    assert version_of(lease) > hold.token
            assert lease["metadata"]["annotations"]["laila/lock"] == "laila/locks/Ключ nightly.report"
            assert re.fullmatch(r"laila-[a-z0-9-]*nightly-report-[a-z2-7]{24}", lease["metadata"]["name"])
            [lease] = own.leases()
            assert "holderIdentity" not in lease["spec"]
            assert state_of(lease, "laila/locks/Ключ nightly.report").queue == ()
            with service.lock("Ключ nightly.report").shared():
                assert own.leases()[0]["spec"]["holderIdentity"].endswith("_shared")

    def test_other_peoples_fields_stay(self, own):
        """Labels and annotations that somebody added outlive our writes."""
        with connect(own.at()) as service:
            service.lock("a").acquire(0).release()
            [lease] = own.leases()
            lease["metadata"]["labels"]["team"] = "blue"
            lease["metadata"]["annotations"]["example.com/note"] = "ours"
            own.ask("PUT", f"{own.path}/{lease['metadata']['name']}", lease)
            service.lock("a").acquire(0).release()
            [lease] = own.leases()
        assert lease["metadata"]["labels"]["team"] == "blue"
        assert lease["metadata"]["annotations"]["example.com/note"] == "ours"

    @pytest.mark.parametrize("shared", [False, True])
    def test_a_lease_that_was_deleted_is_lost(self, own, shared):
        """The next one gets a greater token though the object began anew, and the first one learns it."""
        with connect(own.at(ttl=60)) as service, connect(own.at(ttl=60)) as another:
            for _ in range(3):
                service.lock("a").acquire(0).release()
            hold = service.lock("a").acquire(0, shared=shared)
            own.ask("DELETE", f"{own.path}/{self.lease(own, 'a', service)['metadata']['name']}")
            with another.lock("a").acquire(0) as later:
                assert later.token > hold.token
                with pytest.raises(LockLost, match="deleted"):
                    hold.check()
                hold.release()
                assert not later.lost
                assert self.lease(own, "a", service)["spec"]["leaseTransitions"] == 1

    def test_the_keeper_notices_a_deletion(self, own):
        """Also when nobody asks: the next renewal finds nothing to renew, and makes nothing anew."""
        with connect(own.at(ttl=1)) as service:
            hold = service.lock("a").acquire(0)
            own.ask("DELETE", f"{own.path}/{self.lease(own, 'a', service)['metadata']['name']}")
            _until(lambda: bool(hold._place.term.loss))
            assert "deleted" in hold.loss
            assert own.leases() == []

    def test_who_waits_survives_a_deletion(self, own):
        """It arrives anew in the new object."""
        with (
            connect(own.at(ttl=60)) as service,
            connect(own.at(ttl=60)) as another,
            ThreadPoolExecutor(1) as pool,
        ):
            hold = service.lock("a").acquire(0)
            waiting = pool.submit(another.lock("a").acquire, SOON)
            name = self.lease(own, "a", service)["metadata"]["name"]
            _until(lambda: len(state_of(own.ask("GET", f"{own.path}/{name}"), "laila/locks/a").queue) == 2)
            own.ask("DELETE", f"{own.path}/{name}")
            with waiting.result(SOON) as later:
                assert later.token > hold.token
                assert hold.lost

    def test_who_was_taken_out_of_the_queue_arrives_anew(self, own):
        """By an administrator, while it waits: it goes to the end, and gets nothing before."""
        with (
            connect(own.at(ttl=60)) as service,
            connect(own.at(ttl=60)) as another,
            ThreadPoolExecutor(1) as pool,
        ):
            hold = service.lock("a").acquire(0)
            waiting = pool.submit(another.lock("a").acquire, SOON)
            name = self.lease(own, "a", service)["metadata"]["name"]

            def queue() -> tuple[Member, ...]:
                return state_of(own.ask("GET", f"{own.path}/{name}"), "laila/locks/a").queue

            _until(lambda: len(queue()) == 2)
            lease = own.ask("GET", f"{own.path}/{name}")
            state = state_of(lease, "laila/locks/a")
            own.ask("PUT", f"{own.path}/{name}", written(lease, state, state.without({queue()[1].who}), 0.0))
            _until(lambda: len(queue()) == 2)
            assert not waiting.done()
            hold.release()
            waiting.result(SOON).release()

    def test_clocks_in_the_object_mean_nothing(self, own):
        """Times that are hours off, as a holder with a wrong clock writes them, neither free a lock nor keep it."""
        with connect(own.at(ttl=2)) as service, connect(own.at(ttl=2)) as another:
            hold = service.lock("a").acquire(0)
            for moment in ("1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"):
                for _ in range(20):
                    lease = self.lease(own, "a", service)
                    lease["spec"].update(renewTime=moment, acquireTime=moment)
                    try:
                        own.ask("PUT", f"{own.path}/{lease['metadata']['name']}", lease)
                        break
                    except OSError:  # it was renewed in between
                        continue
                assert another.lock("a").try_acquire() is None
                assert not hold.lost

    def test_a_lease_of_somebody_else_is_left_alone(self, own):
        """An object with our name and not our annotation, or edited by hand: that is said, and it is not touched."""
        with connect(own.at()) as service:
            service.lock("a").acquire(0).release()
            [lease] = own.leases()
            path = f"{own.path}/{lease['metadata']['name']}"
            lease["metadata"]["annotations"]["laila/queue"] = "not JSON"
            own.ask("PUT", path, lease)
            with pytest.raises(
                LockUnavailable, match=f"{lease['metadata']['name']}.*changed by somebody else"
            ):
                service.lock("a").acquire(SOON)
            lease = own.ask("GET", path)
            lease["metadata"]["annotations"] = {}
            own.ask("PUT", path, lease)
            with pytest.raises(LockUnavailable, match="not laila's Lease of 'laila/locks/a'"):
                service.lock("a").holder()
            assert own.ask("GET", path)["metadata"].get("annotations", {}) == {}

    # --- cluster, namespace, rights

    def test_a_namespace_that_is_not_there_is_named(self, own):
        """LockUnavailable says which, and what to do."""
        with connect(own.as_user(PASSWORD, namespace="nowhere")) as service:
            with pytest.raises(LockUnavailable, match="there is no namespace 'nowhere'; create it"):
                service.lock("a").acquire(SOON)

    def test_who_may_not_is_told_which_role_it_needs(self, own):
        """403 in words; with the Role of k8s/locks it works, in its own namespace only."""
        if not own.real:
            own.mind(forbid=["get", "create", "update", "watch"])
        with connect(own.as_user(NOBODY if own.real else PASSWORD)) as service:
            with pytest.raises(LockUnavailable, match=rf"forbidden.*namespace '{own.namespace}'.*k8s/locks"):
                service.lock("a").acquire(SOON)
            if not own.real:
                own.mind(forbid=[])
            else:
                rules = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{own.namespace}"
                binding = yaml.safe_load((ROLES / "rolebinding.yaml").read_text())
                subject = {"kind": "User", "name": "nobody", "apiGroup": "rbac.authorization.k8s.io"}
                own.ask("POST", f"{rules}/roles", yaml.safe_load((ROLES / "role.yaml").read_text()))
                own.ask("POST", f"{rules}/rolebindings", {**binding, "subjects": [subject]})
                _until(lambda: _allowed(lambda: service.lock("a").acquire(SOON).release()))
            with connect(own.at(), node="there") as another, ThreadPoolExecutor(1) as pool:
                hold = another.lock("a").acquire(0)
                waiting = pool.submit(service.lock("a").acquire, SOON)
                time.sleep(0.5)
                hold.release()
                waiting.result(SOON).release()

    def test_over_tls(self, secure):
        """By the kubeconfig's authority; without it nothing is sent."""
        with connect(secure.url) as service, service.lock("a").acquire(SOON) as hold:
            assert not hold.lost
        with connect(secure.as_user(PASSWORD, trusted=False)) as service:
            with pytest.raises(LockUnavailable, match="certificate"):
                service.lock("a").acquire(SOON)

    def test_in_a_pod(self, monkeypatch, tmp_path, secure):
        """Without a kubeconfig: the service account's token, authority and namespace."""
        import kubernetes.config.incluster_config as pod

        import laila.locks.kubernetes_gateway as gateway

        (tmp_path / "token").write_text(PASSWORD)
        (tmp_path / "namespace").write_text(f"{secure.namespace}\n")
        monkeypatch.setattr(pod, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr(pod, "SERVICE_CERT_FILENAME", str(secure.certificate))
        monkeypatch.setattr(gateway, "ACCOUNT", tmp_path)
        monkeypatch.delenv("KUBECONFIG", raising=False)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secure.port))
        with connect("kubernetes://") as service, service.lock("a").acquire(SOON) as hold:
            assert service.gateway.namespace == secure.namespace
            assert not hold.lost
        (tmp_path / "token").unlink()
        with pytest.raises(BadConfig, match="automountServiceAccountToken"):
            connect("kubernetes://")

    # --- what a server does that is busy, forgets or refuses to be watched

    def test_a_busy_server_is_asked_again(self, api):
        """429 is not an error while there is time."""
        with connect(api.at(timeout=10)) as service:
            api.mind(busy=3)
            service.lock("a").acquire(SOON).release()
        with connect(api.at(timeout=0.5)) as service:
            api.mind(busy=1000)
            with pytest.raises(LockUnavailable, match="too many requests"):
                service.lock("a").acquire(SOON)
            api.mind(busy=0)

    @pytest.mark.parametrize("trouble", [{"forbid": ["watch"]}, {"compact": True}])
    def test_who_cannot_watch_asks(self, api, trouble):
        """A watch that is refused, or whose version is too old, costs time and nothing else."""
        with connect(api.at()) as service, connect(api.at()) as another, ThreadPoolExecutor(1) as pool:
            hold = service.lock("a").acquire(0)
            service.lock("b").acquire(0).release()
            api.mind(**trouble)
            waiting = pool.submit(another.lock("a").acquire, SOON)
            time.sleep(0.5)
            hold.release()
            waiting.result(SOON).release()

    def test_who_waits_watches(self, api):
        """Eight waiters of a process share one watch, and ask for nothing besides their beats."""
        with connect(api.at(ttl=600)) as service, connect(api.at(ttl=600)) as another:
            hold = service.lock("a").acquire(0)
            with ThreadPoolExecutor(8) as pool:
                waiting = [pool.submit(another.lock("a").acquire, SOON) for _ in range(8)]
                _until(lambda: len(state_of(api.leases()[0], "laila/locks/a").queue) == 9)
                time.sleep(0.2)
                api.mind(asked={})
                time.sleep(2)
                asked = api.mind()["asked"]
                assert sum(asked.values()) <= 1
                hold.release()
                for each in waiting:
                    each.add_done_callback(lambda done: done.result().release())
                for each in waiting:
                    each.result(SOON)

    def test_a_watch_ends_with_its_service(self, api):
        """No thread and no connection stays behind when a service is closed that waited a moment ago."""
        before = threading.active_count()
        with connect(api.at()) as service, connect(api.at()) as another, service.lock("a").acquire(0):
            for each in (True, False):
                with pytest.raises(TimeoutError):
                    another.lock("a").acquire(0.3, shared=each)
            assert any(each.name.startswith("laila-watch") for each in threading.enumerate())
        _until(lambda: threading.active_count() <= before)

    def test_the_lab_takes_such_locks(self, own):
        """Its program for locks (`laila lab subject locks --set service=URL`) takes this address as any other."""
        from laila.lab.subjects.volume import Locks

        one, two = Locks({"service": own.at()}), Locks({"service": own.at()})
        with closing(one), closing(two):
            token = one.acquire({"key": "k", "wait": 0}, SOON)["token"]
            with pytest.raises(Refused):
                two.acquire({"key": "k", "wait": 0}, SOON)
            assert one.release({"key": "k"}, SOON) == {}
            assert two.acquire({"key": "k", "wait": SOON}, SOON)["token"] > token

    # --- addresses and settings

    @pytest.mark.parametrize(
        "url",
        [
            "kubernetes://UPPER",
            "kubernetes://a/b",
            "kubernetes://a.b",
            "kubernetes://u:hushhush@a",
            "kubernetes://a?colour=red",
            "kubernetes://a?kubeconfig=/nowhere",
            "kubernetes://[",
        ],
    )
    def test_addresses_that_cannot_be_used(self, url):
        """BadConfig at once, which repeats no password."""
        with pytest.raises(BadConfig) as caught:
            connect(url)
        assert "hushhush" not in str(caught.value)

    def test_a_context_is_chosen(self, own, tmp_path):
        """By its name; one that is not there is named. The namespace is the context's own unless one is given."""
        found = json.loads(Path(Address.of(own.url).file).read_text())
        found["contexts"].append(
            {"name": "y", "context": {"cluster": "c", "user": "u", "namespace": "default"}}
        )
        (tmp_path / "config").write_text(json.dumps(found))
        where = f"kubeconfig={tmp_path}/config"
        for url, namespace in (
            (f"kubernetes://?{where}", own.namespace),
            (f"kubernetes://?{where}&context=y", "default"),
            (f"kubernetes://{own.namespace}?{where}&context=y", own.namespace),
        ):
            with connect(url) as service:
                assert service.gateway.namespace == namespace
                service.lock("a").acquire(SOON).release()
        with pytest.raises(BadConfig, match="name z"):
            connect(f"kubernetes://?{where}&context=z")


class TestQueue:
    """The object as text, without a server."""

    @staticmethod
    def member(who: str, *, shared: bool = False, token: int = 0) -> Member:
        return Member(who, shared, 1, 10, token, "n1", "h", 7, 1.5, "why")

    def test_it_comes_back_as_it_was_written(self):
        """Text and state are the same thing."""
        state = State(3, 4, (self.member("a", token=4), self.member("b", shared=True)))
        assert State.of(state.text()) == state

    @given(st.lists(st.booleans(), max_size=6))
    def test_a_writer_holds_alone_and_readers_together(self, modes):
        """Whoever is in the queue: the first alone, or all readers before the first writer."""
        state = State()
        for place, shared in enumerate(modes):
            state = state.joined(self.member(str(place), shared=shared))
        first = next((place for place, shared in enumerate(modes) if not shared), len(modes))
        readers = [str(place) for place in range(first)]
        assert [each.who for each in state.readers()] == readers
        if modes and not modes[0]:
            state = state.sealed("0", 9, 2, 2.0)
            assert state.writer() == state.queue[0]
            readers = ["0"]
        assert [each.who for each in state.queue if state.holds(each.who)] == readers

    def test_tokens_rise_whatever_the_version(self):
        """A cluster that was restored begins at smaller versions; what the object knows is above them."""
        state = State(token=5000, queue=(self.member("a"),)).sealed("a", 12, 2, 0.0)
        assert (state.token, state.queue[0].token) == (5001, 5001)
        assert State(queue=(self.member("a"),)).sealed("a", 12, 2, 0.0).token == 12

    @given(st.text(min_size=1, max_size=120))
    def test_names_of_objects(self, name):
        """A label of DNS for every name, and another one for each."""
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", object_name(name))
        assert object_name(name) != object_name(name + "x")

    def test_too_long_a_queue_is_refused(self):
        """Before the API server would refuse the object."""
        state = State(queue=tuple(self.member(f"{place:024}") for place in range(4000)))
        lease = {"metadata": {"annotations": {}}, "spec": {}}
        with pytest.raises(ValueError, match="4000 hold it or wait"):
            written(lease, State(), state, 0.0)

    @pytest.mark.parametrize("version", ["", "abc", "12.5", None])
    def test_versions_that_are_no_numbers(self, version):
        """Some other program that speaks this API might have such."""
        with pytest.raises(ValueError, match="resourceVersion"):
            version_of({"metadata": {"resourceVersion": version}})


class TestView:
    """Who is taken for dead, by our own clock alone."""

    def test_only_who_was_seen_to_stand_still_is_dead(self, monkeypatch):
        """A full lease since its beat was first seen; a new beat, or another object, starts that anew."""
        clock = [1000.0]
        monkeypatch.setattr("laila.locks.kubernetes_view.now", lambda: clock[0])
        view = View(Gateway(), "laila/locks/a")
        member = Member("a", False, 1, 10, 5, "n", "h", 1, 0.0, "")

        def seen(beat: int, version: int) -> frozenset[str]:
            state = State(queue=(Member(*[*member.row()[:1], False, beat, *member.row()[3:]]),))
            notes = {"laila/lock": "laila/locks/a", "laila/queue": state.text()}
            view._saw({"metadata": {"annotations": notes, "resourceVersion": str(version)}})
            return view.dead(state)

        assert seen(1, 1) == frozenset()
        clock[0] += 9.9
        assert seen(1, 2) == frozenset()  # others changed the object
        clock[0] += 0.2
        assert seen(1, 3) == {"a"}
        assert seen(2, 4) == frozenset()
        clock[0] += 9.9
        assert view.dead(view.state) == frozenset()
        assert view.dead(view.state, but="a") == frozenset()
        clock[0] += 0.2
        assert view.dead(view.state) == {"a"}
        assert view.dead(view.state, but="a") == frozenset()


class Gateway:
    """None is needed there."""

    namespace = "laila"


def test_the_role_allows_what_is_done() -> None:
    """k8s/locks: a Role with the verbs that messages name, and its binding."""
    role = yaml.safe_load((ROLES / "role.yaml").read_text())
    assert role["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": re.split(r", | and ", VERBS)}
    ]
    binding = yaml.safe_load((ROLES / "rolebinding.yaml").read_text())
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    resources = yaml.safe_load((ROLES / "kustomization.yaml").read_text())["resources"]
    assert all((ROLES / each).is_file() for each in resources)


def warm(lockers: list[Locker]) -> None:
    """They have loaded what they need."""
    for command in (("acquire", "warm", None, True), ("release", "warm")):
        for each in lockers:
            each.send(*command)
        for each in lockers:
            each.answer(120)


def _allowed(work: Callable[[], Any]) -> bool:
    try:
        work()
    except LockUnavailable:
        return False  # roles take a moment to be known
    return True


assert TTL == 2.0  # whole seconds, as a Lease has them
