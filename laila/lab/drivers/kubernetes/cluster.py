"""The cluster itself: the official client, which cluster is meant, what may be done there, and refusals in words."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from laila.errors import LabError, LailaError

T = TypeVar("T")
_SECONDS = 30
"""Of one request; clients before 37 take whole numbers alone."""
_HOW = "set KUBECONFIG to the file of a cluster, and --context (or LAILA_LAB_CONTEXT) to one of its contexts"
CONTEXT = "LAILA_LAB_CONTEXT"
FIELD_MANAGER = "laila-lab"
NEEDED = (
    ("create", "", "namespaces"),
    ("delete", "", "namespaces"),
    ("create", "", "secrets"),
    ("create", "", "configmaps"),
    ("create", "apps", "statefulsets"),
    ("get", "", "pods"),
    ("create", "", "pods/exec"),
    ("get", "", "pods/log"),
)
"""Without these no node can be started: verb, group, resource."""


def library() -> Any:
    """The official client. Raises LabError that says how to get it."""
    try:
        return importlib.import_module("kubernetes")
    except ImportError as error:
        raise LabError(
            "the kubernetes driver needs the official client: pip install 'laila-kit[lab,kubernetes]'"
        ) from error


def short(error: BaseException) -> str:
    """What the API server said, in one line."""
    body = getattr(error, "body", None)
    if body:
        try:
            return str(json.loads(body)["message"])[:300]
        except (ValueError, KeyError, TypeError):
            return str(body).strip()[:300]
    text = str(getattr(error, "reason", "") or error).strip().splitlines()
    return text[-1][:300] if text else type(error).__name__


class Cluster:
    """One cluster, as one context of one kubeconfig names it. Making it asks nothing of the network."""

    def __init__(self, context: str = "", kubeconfig: str = "") -> None:
        kubernetes = library()
        self.context = context or os.environ.get(CONTEXT, "")
        self.kubeconfig = kubeconfig
        self.client: Any = kubernetes.client
        self.errors: Any = importlib.import_module("kubernetes.client.exceptions")
        self._lost: tuple[type[BaseException], ...] = (
            importlib.import_module("urllib3.exceptions").HTTPError,
            OSError,
        )
        self._bad_yaml: type[Exception] = importlib.import_module("yaml").YAMLError
        self.configuration = self.client.Configuration()
        config: Any = kubernetes.config
        try:
            config.load_kube_config(
                config_file=kubeconfig
                or os.environ.get("KUBECONFIG")
                or None,  # it looks there only when imported
                context=self.context or None,
                client_configuration=self.configuration,
            )
        except config.ConfigException as error:
            self._inside(config, error)
        except (OSError, ValueError, TypeError, KeyError, self._bad_yaml) as error:
            raise LabError(f"the kubeconfig cannot be read ({short(error)}): {_HOW}") from error
        self.configuration.retries = False
        self.api = self.client.ApiClient(self.configuration)
        self.core = self.client.CoreV1Api(self.api)
        self.apps = self.client.AppsV1Api(self.api)
        self.network = self.client.NetworkingV1Api(self.api)
        self.policy = self.client.PolicyV1Api(self.api)
        self.storage = self.client.StorageV1Api(self.api)
        self.reviews = self.client.AuthorizationV1Api(self.api)

    def _inside(self, config: Any, why: Exception) -> None:
        """No kubeconfig: in a pod its service account does, when no context was asked for."""
        if not self.context and not os.environ.get("KUBECONFIG") and not self.kubeconfig:
            try:
                config.load_incluster_config(client_configuration=self.configuration)
            except config.ConfigException:
                pass
            else:
                return
        raise LabError(f"no cluster is known here ({short(why)}): {_HOW}") from why

    def close(self) -> None:
        self.api.close()

    def paths(self) -> str:
        """The kubeconfig's files, so that another command finds the same ones."""
        given = self.kubeconfig or os.environ.get("KUBECONFIG", "")
        return os.pathsep.join(
            str(Path(one).expanduser().absolute()) for one in given.split(os.pathsep) if one
        )

    def ask(self, doing: str, ask: Callable[..., T], *words: Any, **more: Any) -> T:
        """Ask the API server; its refusals become LabError that says what it was asked to do."""
        try:
            return ask(*words, **{"_request_timeout": _SECONDS, **more})
        except LailaError:
            raise  # ours already, though some of them are an OSError too
        except self.errors.ApiException as error:
            hint = {401: "; log in again", 403: "; ask for the rights that docs/lab-kubernetes.md lists"}
            raise LabError(
                f"the cluster did not {doing}: {short(error)}{hint.get(error.status, '')}"
            ) from error
        except self._lost as error:
            raise LabError(f"{self.where} does not answer ({short(error)}): {_HOW}") from error

    def find(self, doing: str, ask: Callable[..., T], *words: Any, **more: Any) -> T | None:
        """The same; None for what is not there."""
        try:
            return self.ask(doing, ask, *words, **more)
        except LabError as error:
            if self.status(error) == 404:
                return None
            raise

    @staticmethod
    def status(error: LabError) -> int:
        """The API server's status behind a refusal; 0 when it did not answer."""
        return int(getattr(error.__cause__, "status", 0) or 0)

    @property
    def where(self) -> str:
        return str(self.configuration.host)

    def version(self) -> str:
        """Also shows that somebody answers."""
        asked = self.ask("say its version", self.client.VersionApi(self.api).get_code)
        return str(asked.git_version)

    def may(self, verb: str, group: str, resource: str, namespace: str = "") -> bool:
        """Whether we are allowed to."""
        name, _, sub = resource.partition("/")
        what = {"verb": verb, "group": group, "resource": name, "subresource": sub, "namespace": namespace}
        review = {"spec": {"resourceAttributes": what}}
        asked = self.ask("say what is allowed", self.reviews.create_self_subject_access_review, review)
        return bool(asked.status.allowed)

    def hindrance(self) -> str:
        """Why no lab can be made on this cluster; empty when one can."""
        try:
            self.version()
            missing = [
                f"{verb} {resource}"
                for verb, group, resource in NEEDED
                if not self.may(verb, group, resource)
            ]
        except LabError as error:
            return str(error)
        if missing:
            return (
                f"on {self.where} you may not {', '.join(missing)}: a lab makes a namespace of its own for each run; "
                "docs/lab-kubernetes.md lists the rights that it needs"
            )
        return ""

    def namespaces(self, label: str) -> list[dict[str, Any]]:
        """Name, labels and annotations of those that have a label. It waits five seconds: nobody depends on it."""
        ask = self.core.list_namespace
        listed = self.ask("list namespaces", ask, label_selector=label, _request_timeout=5).items
        heads = [one.metadata for one in listed]
        return [
            {
                "name": head.name,
                "labels": dict(head.labels or {}),
                "annotations": dict(head.annotations or {}),
            }
            for head in heads
        ]

    def default_class(self) -> str:
        """The storage class that claims without one get; empty where there is none, or nobody may know."""
        mark = "storageclass.kubernetes.io/is-default-class"
        try:
            listed = self.ask("list storage classes", self.storage.list_storage_class).items
        except LabError:
            return ""
        for one in listed:
            notes: Mapping[str, str] = one.metadata.annotations or {}
            if notes.get(mark) == "true":
                return str(one.metadata.name)
        return ""
