"""What can be wrong with a deployment: the pod says it in one line and in its status, and is not ready."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from deployment import Deployment

from laila.lab.drivers import clock_shift
from laila.lab.drivers.clock_shift import Shift
from laila.lab.drivers.kubernetes import pods
from laila.secret import new_secret

ASK = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:7480/readyz").read())
except urllib.error.HTTPError as error:
    print(error.read())
"""
THREE = ["laila-0", "laila-1", "laila-2"]


def last_words(nodes: Deployment, name: str) -> str:
    """What the pod's status says of the container's end."""
    pod = nodes.pod(name)
    for status in (pod.status.container_statuses or ()) if pod is not None else ():
        for state in (status.state, status.last_state):
            if state is not None and state.terminated is not None:
                return str(state.terminated.message)
    return ""


def in_memory(thing: dict[str, Any]) -> None:
    """The node's state on 16 MiB of memory."""
    thing["spec"]["volumeClaimTemplates"] = []
    volume = {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}
    thing["spec"]["template"]["spec"]["volumes"].append(volume)


def test_no_secret(deployment: Deployment) -> None:
    deployment.apply(only=lambda thing: thing["kind"] != "Secret")
    deployment.until(lambda: last_words(deployment, "laila-0"), "laila-0 to end", 120)
    said = last_words(deployment, "laila-0")
    assert "/run/secrets/laila/secret cannot be read: No such file or directory" in said, said
    assert len(said.strip().splitlines()) == 1
    assert not deployment.ready("laila-0")
    deployment.apply()
    deployment.wait_rolled_out()


def test_two_secrets_on_two_pods(deployment: Deployment) -> None:
    """Nobody is deceived; who has the other one is not ready and says why, so that a rollout stops there."""
    deployment.apply()
    deployment.wait_rolled_out()
    deployment.wait_linked(THREE)
    other = {"metadata": {"name": "another"}, "stringData": {"secret": new_secret(), "also-accept": ""}}
    core = deployment.cluster.core
    deployment.cluster.ask("make a secret", core.create_namespaced_secret, deployment.namespace, other)

    def partly(thing: dict[str, Any]) -> None:
        thing["spec"]["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        for volume in thing["spec"]["template"]["spec"]["volumes"]:
            if volume["name"] == "secret":
                volume["secret"]["secretName"] = "another"

    uid = deployment.pod("laila-2").metadata.uid  # type: ignore[union-attr]
    deployment.edit("StatefulSet", partly)
    deployment.apply()
    deployment.until(
        lambda: (pod := deployment.pod("laila-2")) is not None and pod.metadata.uid != uid,
        "another laila-2",
        120,
    )
    deployment.until(lambda: deployment.sees("laila-0") == ["laila-1"], "laila-0 to see laila-1 alone", 60)
    deployment.until(lambda: "secret" in deployment.log("laila-2"), "a word about the secret", 60)
    deployment.until(lambda: pods.runs(deployment.pod("laila-2"), "node"), "laila-2 to run", 30)
    assert deployment.sees("laila-2") == []
    reason = not_ready(deployment, "laila-2")
    assert "does not share this secret; give both nodes the same secret file" in reason
    assert all(deployment.ready(name) for name in ("laila-0", "laila-1"))


def test_a_clock_that_is_hours_off(deployment: Deployment) -> None:
    """By the library that bends clocks in the lab; nodes of the cluster keep theirs."""
    packed = {"clockshift.so": base64.b64encode(clock_shift.library()).decode()}
    core = deployment.cluster.core
    body = {"metadata": {"name": "clock"}, "binaryData": packed}
    deployment.cluster.ask("make a map", core.create_namespaced_config_map, deployment.namespace, body)
    shift = "/var/lib/laila/clock-shift"

    def bent(thing: dict[str, Any]) -> None:
        pod = thing["spec"]["template"]["spec"]
        pod["volumes"].append({"name": "clock", "configMap": {"name": "clock", "defaultMode": 0o555}})
        (container,) = pod["containers"]
        container["volumeMounts"].append({"name": "clock", "mountPath": "/opt/clock", "readOnly": True})
        settings = clock_shift.environment("/opt/clock/clockshift.so", shift)
        container["env"] += [{"name": name, "value": value} for name, value in settings.items()]

    def set_clock(name: str, seconds: float) -> None:
        data = Shift(seconds=seconds).pack().hex()
        words = f"import pathlib; pathlib.Path({shift!r}).write_bytes(bytes.fromhex({data!r}))"
        assert deployment.exec(name, "python3", "-c", words).code == 0

    deployment.edit("StatefulSet", bent)
    deployment.apply()
    deployment.wait_rolled_out()
    deployment.wait_linked(THREE)
    with deployment.load():
        set_clock("laila-2", 7200)
        uid = deployment.delete_pod("laila-2")
        deployment.until(
            lambda: (pod := deployment.pod("laila-2")) is not None and pod.metadata.uid != uid, "another", 60
        )
        reason = not_ready(deployment, "laila-2")
        assert "compare the clocks of both nodes" in reason
        assert all(deployment.ready(name) for name in ("laila-0", "laila-1"))
        set_clock("laila-2", 0)
        deployment.until(lambda: deployment.ready("laila-2"), "laila-2 to be ready by itself", 60)
    deployment.wait_linked(THREE)


def not_ready(nodes: Deployment, name: str) -> str:
    """What a pod says, of which the log has one line, and whose status says that it is not ready."""

    def says() -> bool:
        return '"not ready"' in nodes.log(name) and "no peer: " in nodes.log(name)

    nodes.until(says, f"{name} to say why it is not ready", 90)
    nodes.until(lambda: not nodes.ready(name), f"{name} not to be ready", 60)
    said = nodes.exec(name, "python3", "-c", ASK).stdout.decode()
    assert "no peer: " in said
    return said


def test_a_name_that_nobody_knows_yet(deployment: Deployment) -> None:
    """As when the cluster's DNS is not ready, or the Service is missing: the nodes wait, and go on by themselves."""
    deployment.apply(only=lambda thing: thing["kind"] != "Service")
    for name in THREE:
        deployment.until(lambda name=name: "cannot be looked up" in deployment.log(name), "a word", 120)  # type: ignore[misc]
    said = deployment.exec("laila-0", "python3", "-c", ASK).stdout.decode()
    assert "laila-peers cannot be looked up" in said, said
    assert not any(deployment.ready(name) for name in THREE)
    deployment.apply()
    deployment.wait_rolled_out()
    deployment.wait_linked(THREE)


def test_a_state_that_is_full(deployment: Deployment) -> None:
    deployment.edit("StatefulSet", in_memory)
    deployment.apply()
    deployment.wait_rolled_out()
    fill = "head -c 40000000 /dev/zero >/var/lib/laila/fill; true"
    deployment.exec("laila-1", "sh", "-c", fill)
    there = deployment.exec("laila-1", "df", "/var/lib/laila").stdout.decode()
    deployment.until(lambda: not deployment.ready("laila-1"), f"laila-1 not to be ready, with {there}", 60)
    said = deployment.exec("laila-1", "python3", "-c", ASK).stdout.decode()
    assert "No space left" in said or "full" in said, said
    assert all(deployment.ready(name) for name in ("laila-0", "laila-2"))
    deployment.exec("laila-1", "rm", "/var/lib/laila/fill")
    deployment.until(lambda: deployment.ready("laila-1"), "laila-1 to be ready", 60)


def test_a_volume_that_may_not_be_written(deployment: Deployment) -> None:
    place = deployment.directory(1)
    if place is None or os.geteuid() != 0:
        pytest.skip("the volumes of this cluster are not made by these tests")
    place.chmod(0o555)
    deployment.apply()
    deployment.until(lambda: last_words(deployment, "laila-1"), "laila-1 to end", 120)
    said = last_words(deployment, "laila-1")
    assert "/var/lib/laila cannot be written" in said, said
    assert len(said.strip().splitlines()) == 1
    assert not deployment.ready("laila-1")
    place.chmod(0o777)
    deployment.wait_rolled_out()


def test_no_class_with_many_writers(deployment: Deployment) -> None:
    deployment.overlay = deployment.place / "overlays/shared-volume"
    deployment.edit(
        "PersistentVolumeClaim", lambda thing: thing["spec"].update(storageClassName="there-is-no-such-class")
    )
    deployment.apply()

    def waits() -> bool:
        return (
            "unbound immediate PersistentVolumeClaims" in deployment.told()
            or "not found" in deployment.told()
        )

    deployment.until(waits, "the pods' status to name the claim", 60)
    assert not any(deployment.ready(name) for name in THREE)
