"""What the driver kubernetes has in a cluster, and what it says where there is none: no cluster is needed."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from laila.errors import BadConfig, LabError
from laila.lab import drivers, faults, leftovers, registry, topology
from laila.lab.checks import trials
from laila.lab.checks.trials import TrialOrder
from laila.lab.drivers.base import Lever
from laila.lab.drivers.kubernetes import keeper, objects, pods
from laila.lab.drivers.kubernetes.cluster import Cluster, short
from laila.lab.drivers.kubernetes.driver import KubernetesDriver
from laila.lab.drivers.kubernetes.exec import exit_code
from laila.lab.procid import ProcessId
from laila.lab.topology import ClusterSpec, replicated, shared_volume

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s" / "base"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "one",
    "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
    # Nobody listens at port 1.
    "clusters": [{"name": "one", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "me", "user": {"token": "none"}}],
}


def run_of(shape: topology.Topology) -> registry.Run:
    controller = ProcessId.of(os.getpid())
    return registry.Run(registry.new_run_id(), "kubernetes", shape.to_dict(), "check", controller)


def pod_of(shape: topology.Topology, name: str = "node1", *, claimed: bool = False) -> dict[str, Any]:
    made = objects.stateful_set(run_of(shape), shape, name, claimed=claimed, more={})
    pod: dict[str, Any] = made["spec"]["template"]["spec"]
    return pod


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kubeconfig of a cluster that does not answer."""
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(file))
    return str(file)


# -- objects agree with the manifests


def test_a_node_is_guarded_as_in_the_manifests() -> None:
    theirs = yaml.safe_load((BASE / "statefulset.yaml").read_text())["spec"]["template"]["spec"]
    ours = pod_of(replicated())
    (their_node,), (our_node,) = theirs["containers"], ours["containers"]
    for key in ("securityContext", "automountServiceAccountToken", "enableServiceLinks", "nodeSelector"):
        assert ours[key] == theirs[key], key
    for key in ("securityContext", "ports", "readinessProbe", "terminationMessagePolicy", "imagePullPolicy"):
        assert our_node[key] == their_node[key], key
    our_mounts = {one["mountPath"]: one.get("readOnly", False) for one in our_node["volumeMounts"]}
    their_mounts = {one["mountPath"]: one.get("readOnly", False) for one in their_node["volumeMounts"]}
    assert their_mounts.items() <= our_mounts.items()
    assert set(our_mounts) - set(their_mounts) == {objects.CODE_DIR, objects.PLACE}, "the lab's own"
    assert "livenessProbe" not in our_node, "what the lab killed stays dead"


def test_the_service_names_pods_that_are_not_ready() -> None:
    theirs = yaml.safe_load((BASE / "service.yaml").read_text())["spec"]
    ours = objects.service(run_of(replicated()))["spec"]
    assert (ours["clusterIP"], ours["publishNotReadyAddresses"]) == ("None", True)
    assert ours["ports"] == theirs["ports"]


def test_a_node_dials_its_peers_by_names_that_stay() -> None:
    environment = objects.environment(replicated(), "node1")
    assert environment["LAILA_ADVERTISE"] == "node1-0.nodes:7400"
    assert environment["LAILA_PEERS"] == "node2-0.nodes:7400,node3-0.nodes:7400"
    assert environment["LAILA_SECRET_FILE"] == objects.SECRET_FILE


def test_everything_bears_the_run_and_lies_in_its_namespace() -> None:
    shape = shared_volume()
    run = run_of(shape)
    made = [
        objects.secret(run, "main", "x" * 40),
        objects.code(run, {"keeper.py": b"1"}),
        objects.service(run),
        objects.service_account(run),
        objects.budget(run),
        *objects.policies(run),
        objects.claim(run, "volume-shared", "ReadWriteMany", "1Gi", "nfs"),
        objects.stateful_set(run, shape, "node1", claimed=True, more={}),
    ]
    for one in made:
        assert one["metadata"]["labels"][objects.RUN_LABEL] == run.run_id
        assert one["metadata"]["namespace"] == objects.namespace_name(run.run_id)
    space = objects.namespace(run, "here")
    assert space["metadata"]["labels"][objects.ENFORCE] == "restricted"
    assert ProcessId.from_text(space["metadata"]["annotations"][objects.CONTROLLER]) == run.controller


def test_a_run_is_known_by_its_namespace_alone_to_who_made_it() -> None:
    run = run_of(replicated())
    ours = objects.namespace(run, "here")["metadata"]
    elsewhere = objects.namespace(run_of(replicated()), "there")["metadata"]
    copied = {**ours, "name": "default"}
    nameless = {**ours, "labels": {objects.RUN_LABEL: ""}}
    found = objects.labelled_runs([ours, elsewhere, copied, nameless, {"name": "kube-system"}], "here")
    assert list(found) == [(run.run_id, run.mode, str(run.controller))]


def test_a_registry_has_one_name_for_good() -> None:
    assert registry.home_id() == ""
    made = registry.home_id(make=True)
    assert len(made) == 32
    assert registry.home_id(make=True) == registry.home_id() == made
    assert registry.runs() == []


def test_gc_asks_no_cluster_where_no_namespace_was_made(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def namespaces(self: Cluster, label: str) -> list[dict[str, Any]]:
        asked.append(label)
        controller = replace(ProcessId.of(os.getpid()), pid=1 << 22)
        run = replace(run_of(replicated()), controller=controller)
        return [objects.namespace(run, registry.home_id())["metadata"]]

    monkeypatch.setattr(Cluster, "namespaces", namespaces)
    assert [run for run in leftovers.runs() if run.driver == "kubernetes"] == []
    assert asked == []
    registry.home_id(make=True)
    (found,) = (run for run in leftovers.runs() if run.driver == "kubernetes")
    assert asked == [objects.RUN_LABEL]
    assert (found.mode, found.controller.pid) == ("check", 1 << 22)


def test_gc_goes_on_without_a_cluster_that_answers(nobody: str) -> None:
    registry.home_id(make=True)
    assert [run for run in leftovers.runs() if run.driver == "kubernetes"] == []
    Path(nobody).write_text("{ no yaml")
    assert [run for run in leftovers.runs() if run.driver == "kubernetes"] == []


def test_state_lies_on_a_claim_where_there_is_a_class() -> None:
    kept = {one["name"]: one for one in pod_of(replicated(), claimed=True)["volumes"]}
    assert kept["state"]["persistentVolumeClaim"] == {"claimName": "state-node1"}
    gone = {one["name"]: one for one in pod_of(replicated())["volumes"]}
    assert "emptyDir" in gone["state"]


def test_a_volume_that_is_shared_once_more_read_only() -> None:
    shape = shared_volume()
    again = topology.VolumeSpec("again", "/mnt/again", read_only_of="shared")
    pod = pod_of(replace(shape, volumes=(*shape.volumes, again)))
    mounts = {one["mountPath"]: one for one in pod["containers"][0]["volumeMounts"]}
    assert mounts["/mnt/again"] == {"name": "volume-shared", "mountPath": "/mnt/again", "readOnly": True}
    assert [one["name"] for one in pod["volumes"]].count("volume-shared") == 1


def test_a_debug_container_may_change_the_network_and_no_more() -> None:
    guard = objects.agent("faults-1")["securityContext"]
    assert guard["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert guard["allowPrivilegeEscalation"] is False


def test_who_is_cut_off_is_selected_by_no_policy_that_lets_anybody_in() -> None:
    whole, alone = objects.policies(run_of(replicated()))
    assert alone["spec"]["ingress"] == alone["spec"]["egress"] == []
    (key,) = whole["spec"]["podSelector"]["matchExpressions"]
    assert key == {"key": objects.CUT_LABEL, "operator": "DoesNotExist"}


def test_the_cluster_of_a_topology_is_kept() -> None:
    shape = replace(replicated(), cluster=ClusterSpec(context="blue", shared_class="nfs"))
    assert topology.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape
    text = 'nodes = [{name = "a"}, {name = "b"}]\n[cluster]\ncontext = "blue"'
    assert topology.from_toml(text).cluster.context == "blue"
    with pytest.raises(BadConfig, match="contxt; ClusterSpec has context"):
        topology.from_toml('nodes = [{name = "a"}, {name = "b"}]\n[cluster]\ncontxt = "blue"')


# -- what is said


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "Success"}, 0),
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "137"}]}}, 137),
    ],
)
def test_exit_codes(status: dict[str, Any], code: int) -> None:
    assert exit_code(json.dumps(status).encode()) == code


def test_a_program_that_was_never_started_has_no_code() -> None:
    told = json.dumps({"status": "Failure", "message": 'exec: "x": executable file not found'}).encode()
    with pytest.raises(LabError, match="did not run the program: exec: .x.: executable file not found"):
        exit_code(told)
    with pytest.raises(LabError, match="ended before the program did"):
        exit_code(b"")


def waiting(reason: str, message: str = "") -> Any:
    state = SimpleNamespace(
        waiting=SimpleNamespace(reason=reason, message=message), running=None, terminated=None
    )
    status = SimpleNamespace(
        container_statuses=[SimpleNamespace(name="node", state=state)], conditions=[], phase="Pending"
    )
    return SimpleNamespace(status=status, metadata=SimpleNamespace(deletion_timestamp=None))


def test_a_pod_that_will_never_run_says_why_and_what_to_do() -> None:
    assert pods.trouble(waiting("ContainerCreating"), "node") == ""
    assert pods.progress(waiting("ContainerCreating")) == "its container waits: ContainerCreating"
    said = pods.trouble(waiting("ImagePullBackOff", "Back-off  pulling\nimage x"), "node")
    assert said.startswith("ImagePullBackOff (Back-off pulling image x): push the image")
    assert pods.progress(None) == "it has no pod yet"
    assert not pods.runs(waiting("ContainerCreating"), "node")


def test_what_an_api_server_said_is_one_line() -> None:
    error = SimpleNamespace(body=json.dumps({"message": "pods is forbidden"}), reason="Forbidden")
    assert short(error) == "pods is forbidden"  # type: ignore[arg-type]


def test_without_a_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(LabError, match="no cluster is known here .*set KUBECONFIG to the file of a cluster"):
        drivers.choose("kubernetes", replicated())


def test_a_context_that_is_not_there(nobody: str) -> None:
    shape = replace(replicated(), cluster=ClusterSpec(context="two"))
    with pytest.raises(LabError, match="two.*--context"):
        drivers.choose("kubernetes", shape)


def test_a_cluster_that_does_not_answer(nobody: str) -> None:
    with pytest.raises(LabError, match="http://127.0.0.1:1 does not answer .*set KUBECONFIG"):
        drivers.choose("kubernetes", replicated())


def test_without_the_client_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *words: Any, **more: Any) -> Any:
        if name == "kubernetes":
            raise ImportError(name)
        return real(name, *words, **more)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(LabError, match=r"pip install 'laila-kit\[lab,kubernetes\]'"):
        drivers.choose("kubernetes", replicated())


def test_a_shared_volume_needs_a_class(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "hindrance", lambda self: "")
    with pytest.raises(LabError, match="name one with ReadWriteMany by --shared-class"):
        drivers.choose("kubernetes", shared_volume())
    classed = replace(shared_volume(), cluster=ClusterSpec(shared_class="nfs"))
    assert drivers.choose("kubernetes", classed).name == "kubernetes"


def test_network_volumes_are_not_for_it() -> None:
    with pytest.raises(
        BadConfig, match="kubernetes driver has no sshfs volume, because its nodes have no right to mount"
    ):
        drivers.make(run_of(shape := shared_volume(3, "sshfs")), shape)


def test_rights_that_are_missing_are_named(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cluster, "version", lambda self: "v1.36.2")
    monkeypatch.setattr(Cluster, "may", lambda self, verb, group, what, namespace="": what != "namespaces")
    with pytest.raises(LabError, match="you may not create namespaces, delete namespaces"):
        drivers.choose("kubernetes", replicated())
    driver = KubernetesDriver(run_of(replicated()), replicated())
    assert "you may not patch namespaces" in driver.lever(Lever.PACKETS)
    for lever in (Lever.MOUNTS, Lever.DISK, Lever.CLOCK, Lever.LIMITS, Lever.LINKS):
        assert driver.lever(lever), lever
    driver.close()


def test_pods_are_not_replaced_where_their_state_would_go(
    nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "default_class", lambda self: "")
    monkeypatch.setattr(Cluster, "may", lambda self, verb, group, what, namespace="": what != "nodes")
    classed = replace(replicated(), cluster=ClusterSpec(storage_class="fast"))
    with closing(KubernetesDriver(run_of(replicated()), replicated())) as driver:
        assert "name one by --storage-class" in faults.KINDS["evict"].hindrance(driver)
    with closing(KubernetesDriver(run_of(classed), classed)) as driver:
        assert [faults.KINDS[kind].hindrance(driver) for kind in ("evict", "rollout", "delete-pod")] == [
            ""
        ] * 3
        assert "you may not get nodes nor list nodes nor patch nodes" in faults.KINDS["drain"].hindrance(
            driver
        )
        monkeypatch.setattr(Cluster, "may", lambda self, verb, group, what, namespace="": True)
        found = trials.ahead(driver, TrialOrder(faults="all"), ("register",))
        assert "evict" in {spec.kind for turn in found.turns for spec in turn}
        assert found.idle["drain"].startswith("it closes machines of the cluster for everybody")


def test_nodes_of_others_are_no_pods() -> None:
    with closing(drivers.make(replace(run_of(replicated()), driver="process"), replicated())) as driver:
        for kind in ("evict", "rollout", "delete-pod", "drain"):
            assert faults.KINDS[kind].hindrance(driver) == (
                "nodes of the process driver are no pods; use --driver kubernetes"
            )
        with pytest.raises(BadConfig, match="no pods; use --driver kubernetes"):
            _ = driver.placement


def test_pods_are_not_reached_from_here(nobody: str) -> None:
    driver = KubernetesDriver(run_of(replicated()), replicated())
    assert not driver.near
    with pytest.raises(LabError, match=r"kubectl -n laila-lab-.* port-forward node1-0 7480"):
        driver.reach("node1", 7480)
    driver.close()


# -- the keeper, as a process of this machine


class Kept:
    """A keeper and its node, a shell that lives for long."""

    def __init__(self, place: Path) -> None:
        environment = {**os.environ, "LAILA_LAB_PLACE": str(place), "LAILA_STATE_DIR": str(place)}
        self.place, self.environment = place, environment
        words = [sys.executable, "-BIS", keeper.__file__, "keep", "sleep", "300"]
        self.process = subprocess.Popen(words, env=environment)

    def ask(self, op: str, **words: Any) -> dict[str, Any]:
        argv = [sys.executable, "-BIS", keeper.__file__, "talk"]
        deadline = time.monotonic() + 10
        while not (self.place / "keeper").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        line = json.dumps({"op": op, **words}).encode() + b"\n"
        done = subprocess.run(
            argv, input=line, env=self.environment, capture_output=True, timeout=30, check=True
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    pid = made.process.pid
    if made.process.poll() is None:
        made.process.terminate()
    made.process.wait(10)
    assert not Path(f"/proc/{pid}").exists()


def test_a_keeper_tells_the_node_that_its_pod_ends(kept: Kept) -> None:
    assert kept.ask("state")["result"]["state"] == "running"
    kept.process.terminate()
    assert kept.process.wait(10) == 128 + 15, "as the node ended"


def test_a_keeper_keeps_the_nodes_files(kept: Kept) -> None:
    assert kept.ask("write", path="a/b", data="aGk=", first=True)["ok"]
    assert kept.ask("read", path="a/b", offset=0, limit=10)["result"] == {"data": "aGk="}
    missing = kept.ask("read", path="missing", offset=0, limit=1)
    assert not missing["ok"]
    assert "missing" in missing["error"]
    assert kept.ask("start")["error"] == "it runs already"
