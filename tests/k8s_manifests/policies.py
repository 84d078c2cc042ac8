"""What every cluster of ours has, one function for each point; each is shown to bite in test_broken_manifests.py."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import image
from policy_network import admits
from rendering import NAMESPACE, Manifests, matches, quantity

from laila.node.config import NodeConfig, load, strangers
from laila.node.http import HttpLimits
from laila.secret import check_secret

PEERS, STATUS = 7400, 7480
HERE = {"kubernetes.io/metadata.name": NAMESPACE}
MONITORING = {"kubernetes.io/metadata.name": "monitoring"}
SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}
MIB = 1 << 20

Policy = Callable[[Manifests], None]
POLICIES: dict[str, Policy] = {}


def policy(function: Policy) -> Policy:
    POLICIES[function.__name__] = function
    return function


def config_of(m: Manifests, pod: str = "laila-0") -> NodeConfig:
    """What the node in that pod is told. Raises BadConfig as the node would."""
    environment = m.environment(pod, image.environment())
    assert strangers(environment) == []
    return load({}, environment)


@policy
def nodes_keep_name_address_and_data(m: Manifests) -> None:
    """A headless Service, which lists pods that are not ready too, names each pod; volumes are its own, and stay."""
    service = m.named("Service", m.nodes["serviceName"])["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is True
    assert service["selector"] == m.nodes["selector"]["matchLabels"]
    ports = {port["name"]: (port["port"], port["targetPort"]) for port in service["ports"]}
    assert ports == {"peers": (PEERS, "peers"), "status": (STATUS, "status")}
    assert m.nodes["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    (claim,) = m.nodes["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert quantity(claim["spec"]["resources"]["requests"]["storage"]) >= 1 << 30


@policy
def selectors_mean_our_pods(m: Manifests) -> None:
    """Whatever selects pods selects those of the StatefulSet, and nothing that is called something else."""
    ours = m.nodes["selector"]
    assert matches(ours, m.pod_labels)
    assert set(ours["matchLabels"]) == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
    assert m.one("PodDisruptionBudget")["spec"]["selector"] == ours
    assert m.one("NetworkPolicy")["spec"]["podSelector"] == ours
    spreads = m.pod["topologySpreadConstraints"]
    assert all(spread["labelSelector"] == ours for spread in spreads)
    for term in anti_affinity(m):
        assert term["labelSelector"] == ours


def anti_affinity(m: Manifests) -> list[dict]:
    rules = m.pod["affinity"]["podAntiAffinity"]
    soft = [
        one["podAffinityTerm"] for one in rules.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    ]
    return soft + rules.get("requiredDuringSchedulingIgnoredDuringExecution", [])


@policy
def nodes_are_spread(m: Manifests) -> None:
    """Over machines and over zones."""
    assert [term["topologyKey"] for term in anti_affinity(m)] == ["kubernetes.io/hostname"]
    keys = {spread["topologyKey"] for spread in m.pod["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    assert all(spread["maxSkew"] == 1 for spread in m.pod["topologySpreadConstraints"])


@policy
def nodes_start_in_any_order(m: Manifests) -> None:
    assert m.nodes["podManagementPolicy"] == "Parallel"
    assert m.nodes["replicas"] >= 3  # fewer lose their majority with the first


@policy
def updates_lose_nothing(m: Manifests) -> None:
    """One at a time, and the next only after this one has been ready for a while; drains and evictions the same."""
    strategy = m.nodes["updateStrategy"]
    assert strategy["type"] == "RollingUpdate"
    assert strategy.get("rollingUpdate", {}).get("partition", 0) == 0
    assert strategy.get("rollingUpdate", {}).get("maxUnavailable", 1) == 1
    assert m.nodes["minReadySeconds"] >= 15
    budget = m.one("PodDisruptionBudget")["spec"]
    assert (budget.get("maxUnavailable"), budget.get("minAvailable")) == (1, None)


@policy
def no_token(m: Manifests) -> None:
    account = m.named("ServiceAccount", m.pod["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert m.pod["automountServiceAccountToken"] is False


@policy
def the_secret_is_a_file(m: Manifests) -> None:
    """Nothing secret is in the environment; the file is for root and the node's group alone; both keys are there."""
    assert not any("secretKeyRef" in one.get("valueFrom", {}) for one in m.env)
    assert not any("secretRef" in one for one in m.node["envFrom"])
    config = config_of(m)
    mounts = {mount["mountPath"]: mount for mount in m.node["volumeMounts"]}
    volume = m.volume_of(str(config.secret_file))["secret"]
    assert volume["defaultMode"] == 0o440
    assert volume["optional"] is True  # so that the node can say that it is missing
    assert "items" not in volume
    assert mounts[str(config.secret_file.parent)]["readOnly"] is True
    (also,) = config.also_accept
    assert also.parent == config.secret_file.parent
    wanted = {config.secret_file.name, also.name}
    for secret in m.all("Secret"):
        assert re.fullmatch(r"laila-secret-[a-z0-9]{10}", secret["metadata"]["name"])
        assert secret["immutable"] is True
        assert set(secret["data"]) == wanted
        check_secret(base64.b64decode(secret["data"][config.secret_file.name]).decode())
        assert base64.b64decode(secret["data"][also.name]) == b""
    for secret in m.all("ExternalSecret"):
        assert {one["secretKey"] for one in secret["spec"]["data"]} == wanted


@policy
def what_is_named_is_there(m: Manifests) -> None:
    """ConfigMap, Secret, claims and account that the pod names are among the objects, by the name they have there."""
    made = [secret["metadata"]["name"] for secret in m.all("Secret")]
    made += [secret["spec"]["target"]["name"] for secret in m.all("ExternalSecret")]
    assert [volume["secret"]["secretName"] for volume in m.pod["volumes"] if "secret" in volume] == made
    claims = [v["persistentVolumeClaim"] for v in m.pod["volumes"] if "persistentVolumeClaim" in v]
    assert all(m.named("PersistentVolumeClaim", claim["claimName"]) for claim in claims)
    assert len(claims) == len(m.all("PersistentVolumeClaim"))
    (source,) = m.node["envFrom"]
    settings = m.named("ConfigMap", source["configMapRef"]["name"])
    assert settings["immutable"] is True
    assert re.fullmatch(
        r"laila-node-[a-z0-9]{10}", settings["metadata"]["name"]
    )  # a change is a rolling update
    assert not any("namespace" in thing["metadata"] for thing in m.things)
    assert all(thing["metadata"]["labels"]["app.kubernetes.io/part-of"] == "laila" for thing in m.things)


@policy
def every_node_is_told_who_it_is(m: Manifests) -> None:
    """Name and address come from the pod; peers come from the headless Service; no variable of others interferes."""
    assert m.pod["enableServiceLinks"] is False
    service = m.nodes["serviceName"]
    for pod in m.pods:
        config = config_of(m, pod)
        assert config.name == pod
        assert str(config.advertise) == f"{pod}.{service}.{NAMESPACE}.svc:{PEERS}"
        assert [str(peer) for peer in config.peers] == [f"dns:{service}:{PEERS}"]
        assert (str(config.listen), str(config.status)) == (f"0.0.0.0:{PEERS}", f"0.0.0.0:{STATUS}")
    known = set(m.settings)
    for one in m.env:
        used = set(re.findall(r"\$\((\w+)\)", one.get("value", "")))
        assert used <= known, f"{one['name']} uses {used - known}, which come later or never"
        known.add(one["name"])


@policy
def what_is_kept_is_on_a_claim(m: Manifests) -> None:
    """Identity, pools on disk and replicas lie on the pod's own volume; all that is written is on some volume."""
    config = config_of(m)
    kept = [str(config.state_dir)]
    kept += [str(pool.path) for pool in config.pools if pool.path is not None]
    kept += [str(replica.path) for replica in config.replicas]
    assert len(kept) >= 3
    for path in kept:
        assert "claim" in m.volume_of(path), f"{path} is gone with the pod"
    temporary = m.volume_of(image.environment()["HOME"])["emptyDir"]
    assert temporary["medium"] == "Memory"
    assert quantity(temporary["sizeLimit"]) <= 128 * MIB


@policy
def probes_ask_the_node_about_itself(m: Manifests) -> None:
    """Liveness and start never depend on peers or disks; readiness waits longer than the node itself does."""
    node = m.node
    for probe in ("startupProbe", "livenessProbe"):
        assert node[probe]["httpGet"] == {"path": "/healthz", "port": "status"}
    assert node["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "status"}
    assert node["readinessProbe"]["timeoutSeconds"] > HttpLimits().slow_seconds
    start, live = node["startupProbe"], node["livenessProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 60
    assert live["periodSeconds"] * live["failureThreshold"] >= 30
    assert live["timeoutSeconds"] >= 5
    ports = {port["name"]: port["containerPort"] for port in node["ports"]}
    assert ports == {"peers": PEERS, "status": STATUS}


@policy
def there_is_time_to_drain(m: Manifests) -> None:
    """After `grace` links say goodbye, caretakers end (10 s) and pools close before the kubelet kills."""
    assert m.pod["terminationGracePeriodSeconds"] >= config_of(m).grace + 30
    assert m.node["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert m.pod.get("restartPolicy", "Always") == "Always"


@policy
def the_pod_is_restricted(m: Manifests) -> None:
    """All of `restricted` in kubernetes.io/docs/concepts/security/pod-security-standards, and a read-only root."""
    pod, node = m.pod, m.node
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod["volumes"]:
        assert len(set(volume) - {"name"} - allowed) == 0, volume
    assert not any(port.get("hostPort") for port in node["ports"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"].get("runAsUser") != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "sysctls" not in pod["securityContext"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context.get("privileged", False) is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert context.get("runAsNonRoot", True) is True
        assert context.get("runAsUser") != 0
        assert "procMount" not in context
        assert "seccompProfile" not in context


@policy
def user_and_group_are_the_images(m: Manifests) -> None:
    """The image's uid; a group that may write the volumes and read the secret, given once and not at each start."""
    context = m.pod["securityContext"]
    uid, _ = image.user()
    assert context["runAsUser"] == uid
    assert context["runAsGroup"] == context["fsGroup"] > 0
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"


@policy
def resources_are_asked_for_and_bounded(m: Manifests) -> None:
    """And what the node may take in at once fits into its memory, beside /tmp and Python."""
    resources = m.node["resources"]
    kinds = {"cpu", "memory", "ephemeral-storage"}
    assert set(resources["requests"]) == set(resources["limits"]) == kinds
    for kind in kinds:
        assert 0 < quantity(resources["requests"][kind]) <= quantity(resources["limits"][kind])
    limits = config_of(m).limits
    temporary = quantity(m.volume_of("/tmp")["emptyDir"]["sizeLimit"])  # noqa: S108  a path in the container
    taken = limits.body_budget + temporary + 128 * MIB
    assert limits.max_body <= limits.body_budget
    assert taken <= quantity(resources["limits"]["memory"])


@policy
def the_network_is_closed_but_for_peers_metrics_and_dns(m: Manifests) -> None:
    """In: links of peers, scrapes of whoever scrapes. Out: links to peers, DNS."""
    spec = m.one("NetworkPolicy")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    ours, stranger, prometheus = m.pod_labels, {"app": "other"}, {"app.kubernetes.io/name": "prometheus"}
    ingress = [
        (HERE, ours, PEERS, True),
        (HERE, {"laila.peer": "allowed"}, PEERS, True),
        (HERE, stranger, PEERS, False),
        (MONITORING, ours, PEERS, False),  # another namespace's nodes are others
        (MONITORING, prometheus, STATUS, True),
        (MONITORING, prometheus, PEERS, False),
        (MONITORING, stranger, STATUS, False),
        (HERE, prometheus, STATUS, False),  # a name that anybody here may take
        (HERE, {"laila.metrics": "allowed"}, STATUS, True),
        (HERE, {"laila.metrics": "allowed"}, PEERS, False),
        (HERE, {"laila.peer": "allowed"}, STATUS, False),
        (HERE, ours, STATUS, False),
        (HERE, ours, 22, False),
        (None, "203.0.113.7", PEERS, False),
    ]
    egress = [
        (HERE, ours, PEERS, True),
        (HERE, ours, STATUS, False),
        (HERE, stranger, PEERS, False),
        (SYSTEM, {"k8s-app": "kube-dns"}, 53, True),
        (SYSTEM, {"k8s-app": "kube-dns"}, PEERS, False),
        (SYSTEM, stranger, 53, False),
        (None, "169.254.20.10", 53, True),
        (None, "203.0.113.7", 53, False),
        (None, "203.0.113.7", 443, False),
        (None, "169.254.169.254", 80, False),  # where clouds give out keys
    ]
    for direction, cases in (("ingress", ingress), ("egress", egress)):
        for namespace, who, port, expected in cases:
            assert admits(spec, direction, namespace, who, port, HERE) is expected, (
                direction,
                namespace,
                who,
                port,
            )
    dns = [
        (port["port"], port["protocol"])
        for rule in spec["egress"]
        for port in rule["ports"]
        if port["port"] == 53
    ]
    assert sorted(dns) == [(53, "TCP"), (53, "UDP")]


@policy
def prometheus_is_told_where_to_scrape(m: Manifests) -> None:
    annotations = m.nodes["template"]["metadata"]["annotations"]
    said = {
        key.removeprefix("prometheus.io/"): value for key, value in annotations.items() if "prometheus" in key
    }
    assert said == {"scrape": "true", "port": str(STATUS), "path": "/metrics"}


@policy
def the_image_runs_as_it_is(m: Manifests) -> None:
    """Neither command nor arguments; a tag or digest that stays what it is; nothing is pulled that is there."""
    assert not {"command", "args", "workingDir"} & set(m.node)
    assert image.command() == ["laila", "node"]
    assert {port["containerPort"] for port in m.node["ports"]} == image.ports()
    assert re.search(r"laila-node(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})$", m.node["image"])
    assert m.node["imagePullPolicy"] == "IfNotPresent"
    assert m.pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
