"""The policies bite: each way to break a manifest is refused by the policy that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from policies import POLICIES
from rendering import Manifests

from laila.errors import LailaError

Break = Callable[[Manifests], object]
DROPPED = object()


def at(kind: str, path: str, value: Any = DROPPED) -> Break:
    """Set, or without `value` take away, what is at `a/b/0/c` of the only object of that kind."""

    def change(m: Manifests) -> None:
        place: Any = m.one(kind)
        *above, last = [int(word) if word.isdigit() else word.replace("~", "/") for word in path.split("/")]
        for word in above:
            place = place[word]
        if value is DROPPED:
            del place[last]
        else:
            place[last] = value

    return change


def sts(path: str, value: Any = DROPPED) -> Break:
    return at("StatefulSet", f"spec/{path}", value)


def pod(path: str, value: Any = DROPPED) -> Break:
    return sts(f"template/spec/{path}", value)


def node(path: str, value: Any = DROPPED) -> Break:
    return pod(f"containers/0/{path}", value)


def net(path: str, value: Any = DROPPED) -> Break:
    return at("NetworkPolicy", f"spec/{path}", value)


def setting(name: str, value: str) -> Break:
    return at("ConfigMap", f"data/{name}", value)


def env(name: str, value: str) -> Break:
    def change(m: Manifests) -> None:
        (one,) = (one for one in m.env if one["name"] == name)
        one.pop("valueFrom", None)
        one["value"] = value

    return change


HOST_PATH = {"name": "host", "hostPath": {"path": "/"}}
BROKEN: list[tuple[str, str, Break]] = [
    ("nodes_keep_name_address_and_data", "no headless service", at("Service", "spec/clusterIP")),
    (
        "nodes_keep_name_address_and_data",
        "unready hidden",
        at("Service", "spec/publishNotReadyAddresses", False),
    ),
    ("nodes_keep_name_address_and_data", "other service", sts("serviceName", "laila")),
    ("nodes_keep_name_address_and_data", "service of others", at("Service", "spec/selector", {"app": "x"})),
    ("nodes_keep_name_address_and_data", "service port", at("Service", "spec/ports/0/port", 7401)),
    (
        "nodes_keep_name_address_and_data",
        "data goes with scale",
        sts("persistentVolumeClaimRetentionPolicy/whenScaled", "Delete"),
    ),
    ("nodes_keep_name_address_and_data", "no claims", sts("volumeClaimTemplates", [])),
    (
        "nodes_keep_name_address_and_data",
        "read-only claims",
        sts("volumeClaimTemplates/0/spec/accessModes", ["ReadOnlyMany"]),
    ),
    (
        "selectors_mean_our_pods",
        "budget of others",
        at("PodDisruptionBudget", "spec/selector/matchLabels", {"a": "b"}),
    ),
    ("selectors_mean_our_pods", "policy for nobody", net("podSelector/matchLabels", {"a": "b"})),
    ("selectors_mean_our_pods", "policy for everybody", net("podSelector", {})),
    (
        "selectors_mean_our_pods",
        "spread of others",
        pod("topologySpreadConstraints/0/labelSelector", {"matchLabels": {"a": "b"}}),
    ),
    (
        "selectors_mean_our_pods",
        "pods lack a label",
        sts("template/metadata/labels/app.kubernetes.io~component"),
    ),
    ("nodes_are_spread", "no affinity", pod("affinity/podAntiAffinity", {})),
    (
        "nodes_are_spread",
        "no zones",
        pod("topologySpreadConstraints/0/topologyKey", "kubernetes.io/hostname"),
    ),
    ("nodes_are_spread", "skewed", pod("topologySpreadConstraints/1/maxSkew", 3)),
    ("nodes_start_in_any_order", "in order", sts("podManagementPolicy", "OrderedReady")),
    ("nodes_start_in_any_order", "two nodes", sts("replicas", 2)),
    ("updates_lose_nothing", "by hand", sts("updateStrategy/type", "OnDelete")),
    ("updates_lose_nothing", "two at once", sts("updateStrategy/rollingUpdate", {"maxUnavailable": 2})),
    ("updates_lose_nothing", "partition", sts("updateStrategy/rollingUpdate", {"partition": 3})),
    ("updates_lose_nothing", "at once", sts("minReadySeconds", 0)),
    ("updates_lose_nothing", "budget of two", at("PodDisruptionBudget", "spec/maxUnavailable", 2)),
    ("no_token", "account", at("ServiceAccount", "automountServiceAccountToken", True)),
    ("no_token", "pod", pod("automountServiceAccountToken", True)),
    ("no_token", "default account", pod("serviceAccountName", "default")),
    ("the_secret_is_a_file", "world-readable", pod("volumes/0/secret/defaultMode", 0o444)),
    ("the_secret_is_a_file", "kubelet waits for it", pod("volumes/0/secret/optional", False)),
    ("the_secret_is_a_file", "elsewhere", setting("LAILA_SECRET_FILE", "/run/secrets/laila/token")),
    ("the_secret_is_a_file", "nothing further", setting("LAILA_ALSO_ACCEPT", "")),
    ("the_secret_is_a_file", "writable", node("volumeMounts/1/readOnly", False)),
    (
        "the_secret_is_a_file",
        "in the environment",
        node(
            "env/0", {"name": "S", "valueFrom": {"secretKeyRef": {"name": "laila-secret", "key": "secret"}}}
        ),
    ),
    ("the_secret_is_a_file", "key missing", at("Secret", "data/also-accept")),
    ("the_secret_is_a_file", "guessable", at("Secret", "data/secret", "Y2hhbmdlbWU=")),
    ("the_secret_is_a_file", "no hash", at("Secret", "metadata/name", "laila-secret")),
    ("what_is_named_is_there", "other secret", pod("volumes/0/secret/secretName", "other")),
    ("what_is_named_is_there", "other settings", node("envFrom/0/configMapRef/name", "other")),
    ("what_is_named_is_there", "settings change in place", at("ConfigMap", "immutable", False)),
    ("what_is_named_is_there", "a namespace", at("Service", "metadata/namespace", "default")),
    ("every_node_is_told_who_it_is", "one name for all", env("LAILA_NAME", "laila")),
    ("every_node_is_told_who_it_is", "address of the pod only", env("LAILA_ADVERTISE", "$(LAILA_NAME):7400")),
    ("every_node_is_told_who_it_is", "no namespace", node("env/0")),
    ("every_node_is_told_who_it_is", "links of services", pod("enableServiceLinks", True)),
    ("every_node_is_told_who_it_is", "no peers", setting("LAILA_PEERS", "")),
    ("every_node_is_told_who_it_is", "another service's peers", setting("LAILA_PEERS", "dns:laila:7400")),
    ("every_node_is_told_who_it_is", "local only", setting("LAILA_LISTEN", "127.0.0.1:7400")),
    ("every_node_is_told_who_it_is", "status local only", setting("LAILA_STATUS", "127.0.0.1:7480")),
    ("every_node_is_told_who_it_is", "misspelt", setting("LAILA_PEER", "x:1")),
    ("what_is_kept_is_on_a_claim", "identity in memory", setting("LAILA_STATE_DIR", "/run/state")),
    ("what_is_kept_is_on_a_claim", "replica on the root", setting("LAILA_REPLICAS", "store=/data")),
    (
        "what_is_kept_is_on_a_claim",
        "pool elsewhere",
        setting(
            "LAILA_POOLS",
            "a=sqlite:/var/lib/other.sqlite,b=sqlite:/var/lib/laila/b,c=filesystem:/var/lib/laila/c",
        ),
    ),
    ("what_is_kept_is_on_a_claim", "state not mounted", node("volumeMounts/0/mountPath", "/var/lib/lailas")),
    (
        "what_is_kept_is_on_a_claim",
        "temporary files without end",
        pod("volumes/1/emptyDir/sizeLimit", "10Gi"),
    ),
    ("what_is_kept_is_on_a_claim", "no /tmp", node("volumeMounts/2")),
    (
        "probes_ask_the_node_about_itself",
        "liveness by readiness",
        node("livenessProbe/httpGet/path", "/readyz"),
    ),
    ("probes_ask_the_node_about_itself", "no start", node("startupProbe")),
    ("probes_ask_the_node_about_itself", "short start", node("startupProbe/failureThreshold", 5)),
    ("probes_ask_the_node_about_itself", "nervous", node("livenessProbe/failureThreshold", 1)),
    ("probes_ask_the_node_about_itself", "impatient", node("readinessProbe/timeoutSeconds", 1)),
    ("probes_ask_the_node_about_itself", "ready when alive", node("readinessProbe/httpGet/path", "/healthz")),
    ("probes_ask_the_node_about_itself", "wrong port", node("readinessProbe/httpGet/port", "peers")),
    ("there_is_time_to_drain", "killed in the middle", pod("terminationGracePeriodSeconds", 20)),
    ("there_is_time_to_drain", "long grace", setting("LAILA_GRACE", "60")),
    ("there_is_time_to_drain", "no last word", node("terminationMessagePolicy", "File")),
    ("the_pod_is_restricted", "root", pod("securityContext/runAsNonRoot", False)),
    ("the_pod_is_restricted", "uid 0", node("securityContext/runAsUser", 0)),
    ("the_pod_is_restricted", "no seccomp", pod("securityContext/seccompProfile")),
    ("the_pod_is_restricted", "unconfined", node("securityContext/seccompProfile", {"type": "Unconfined"})),
    ("the_pod_is_restricted", "escalation", node("securityContext/allowPrivilegeEscalation", True)),
    ("the_pod_is_restricted", "privileged", node("securityContext/privileged", True)),
    ("the_pod_is_restricted", "writable root", node("securityContext/readOnlyRootFilesystem", False)),
    ("the_pod_is_restricted", "capabilities", node("securityContext/capabilities", {"drop": ["NET_RAW"]})),
    ("the_pod_is_restricted", "more", node("securityContext/capabilities/add", ["NET_ADMIN"])),
    ("the_pod_is_restricted", "host network", pod("hostNetwork", True)),
    ("the_pod_is_restricted", "host port", node("ports/0/hostPort", 7400)),
    ("the_pod_is_restricted", "host path", lambda m: m.pod["volumes"].append(HOST_PATH)),
    (
        "the_pod_is_restricted",
        "lax init container",
        pod("initContainers", [{"name": "x", "securityContext": {"allowPrivilegeEscalation": True}}]),
    ),
    ("user_and_group_are_the_images", "another uid", pod("securityContext/runAsUser", 1000)),
    ("user_and_group_are_the_images", "no fsGroup", pod("securityContext/fsGroup")),
    ("user_and_group_are_the_images", "always", pod("securityContext/fsGroupChangePolicy", "Always")),
    ("resources_are_asked_for_and_bounded", "no limits", node("resources/limits")),
    ("resources_are_asked_for_and_bounded", "no cpu request", node("resources/requests/cpu")),
    ("resources_are_asked_for_and_bounded", "asks for too much", node("resources/requests/memory", "1Gi")),
    (
        "resources_are_asked_for_and_bounded",
        "takes too much in",
        setting("LAILA_LIMITS", "body_budget=400MiB"),
    ),
    ("resources_are_asked_for_and_bounded", "no bound", setting("LAILA_LIMITS", "")),
    (
        "prometheus_is_told_where_to_scrape",
        "port",
        sts("template/metadata/annotations/prometheus.io~port", "7400"),
    ),
    (
        "prometheus_is_told_where_to_scrape",
        "not at all",
        sts("template/metadata/annotations/prometheus.io~scrape"),
    ),
    ("the_image_runs_as_it_is", "latest", node("image", "laila-node:latest")),
    ("the_image_runs_as_it_is", "no tag", node("image", "laila-node")),
    ("the_image_runs_as_it_is", "another command", node("args", ["node", "--listen", "0.0.0.0:1"])),
    ("the_image_runs_as_it_is", "other port", node("ports/0/containerPort", 7401)),
    ("the_image_runs_as_it_is", "pulled each time", node("imagePullPolicy", "Always")),
]
BROKEN += [
    ("the_network_is_closed_but_for_peers_metrics_and_dns", what, change)
    for what, change in {
        "no egress rules": net("policyTypes", ["Ingress"]),
        "everybody in": net("ingress/0/from", []),
        "every port": net("ingress/0/ports", []),
        "every pod here": net("ingress/0/from/0", {"podSelector": {}}),
        "every namespace": net("ingress/0/from/0/namespaceSelector", {}),
        "no peers": net("ingress/0"),
        "no links out": net("egress/0"),
        "metrics for all of monitoring": net("ingress/1/from/0/podSelector", {}),
        "metrics for any prometheus": net("ingress/1/from/0/namespaceSelector", {}),
        "no metrics": net("ingress/1"),
        "no dns": net("egress/1"),
        "dns by udp only": net("egress/1/ports", [{"port": 53, "protocol": "UDP"}]),
        "everywhere out": net("egress/1/to/1/ipBlock/cidr", "0.0.0.0/0"),
        "all out": lambda m: m.one("NetworkPolicy")["spec"]["egress"].append({}),
    }.items()
]


@pytest.mark.parametrize(("policy", "what", "change"), BROKEN, ids=[f"{p}: {what}" for p, what, _ in BROKEN])
def test_a_broken_manifest_is_refused(
    clusters: dict[str, Manifests], policy: str, what: str, change: Break
) -> None:
    POLICIES[policy](clusters["replicated"])
    broken = clusters["replicated"].copy()
    change(broken)
    assert broken.things != clusters["replicated"].things
    with pytest.raises((AssertionError, LookupError, ValueError, LailaError)):
        POLICIES[policy](broken)


def test_every_policy_is_seen_to_bite() -> None:
    assert {policy for policy, _, _ in BROKEN} == set(POLICIES)
