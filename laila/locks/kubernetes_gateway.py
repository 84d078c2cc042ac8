"""Lease objects in a Kubernetes cluster, by the official client: where the cluster is, and what may be asked of it.

Objects are plain dictionaries, through the client's API for objects of any kind: fields that this version of the client
does not know stay as they are. Every method raises LockUnavailable, in words, when the API server did not do as asked
within `timeout` seconds; lost races are answers, not errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from laila.errors import BadConfig, LockUnavailable

from .lease import now
from .server import Server, client

T = TypeVar("T")
EXAMPLE = "kubernetes://NAMESPACE?context=NAME"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
VERBS = "get, create, update and watch"
KIND = {"group": "coordination.k8s.io", "version": "v1", "plural": "leases"}
_BUSY = (429, 500, 502, 503, 504)
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Expired(Exception):
    """The API server knows no longer what has changed since that version: ask for the object itself."""


@dataclass(frozen=True, slots=True)
class Address:
    """`kubernetes://[NAMESPACE][?kubeconfig=FILE][&context=NAME]`; empty is as the cluster's configuration says."""

    namespace: str = ""
    kubeconfig: str = ""
    context: str = ""

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises BadConfig."""
        try:
            parts = urlsplit(url)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
        except ValueError:
            raise BadConfig(f"this is no address of Kubernetes locks; write it as {EXAMPLE}") from None
        if unknown := options.keys() - {"kubeconfig", "context"}:
            raise BadConfig(
                f"an address of Kubernetes locks has no option {min(unknown)!r}; write it as {EXAMPLE}"
            )
        if parts.path.strip("/") or (parts.netloc and not _NAMESPACE.fullmatch(parts.netloc)):
            raise BadConfig(
                f"an address of Kubernetes locks names a namespace and nothing else; write it as {EXAMPLE}"
            )
        return cls(parts.netloc, options.get("kubeconfig", ""), options.get("context", ""))

    @property
    def file(self) -> str:
        """The kubeconfig to read: as given, else from KUBECONFIG, else none in a pod, else the user's own."""
        given = self.kubeconfig or os.environ.get("KUBECONFIG", "")
        if given:
            return given
        home = Path.home() / ".kube" / "config"
        return "" if "KUBERNETES_SERVICE_HOST" in os.environ and not self.context else str(home)


class Gateway:
    """One cluster, one namespace. Safe under threads."""

    def __init__(self, address: Address) -> None:
        self._library = client("Kubernetes", "kubernetes", "kubernetes")
        import kubernetes.config  # the line above says what to install where this fails
        import urllib3

        configuration = self._library.client.Configuration()
        namespace = _configured(kubernetes.config, configuration, address)
        self.namespace = address.namespace or namespace or "default"
        configuration.retries = False  # what may be repeated is decided here
        configuration.connection_pool_maxsize = 32
        self._client = self._library.client.ApiClient(configuration)
        self._api = self._library.client.CustomObjectsApi(self._client)
        token = (configuration.api_key or {}).get("authorization", "")
        self.server = Server("Kubernetes API", _where(configuration.host), token.partition(" ")[2] or token)
        exceptions = self._library.client.exceptions
        self._answered = exceptions.ApiException
        broken = (urllib3.exceptions.HTTPError, OSError)
        lost_login = kubernetes.config.ConfigException  # a token that is read anew may be gone
        # AttributeError: so the client stumbles over a failure of TLS, for which there is no body to decode.
        odd = (ValueError, TypeError, KeyError, AttributeError)
        self._failures = (exceptions.OpenApiException, lost_login, *broken, *odd)

    def get(self, timeout: float, name: str) -> dict[str, Any] | None:
        """The object as it is now, None for none."""
        get = self._api.get_namespaced_custom_object
        found: dict[str, Any] | None = self._call(timeout, get, (404,), name=name)
        return found

    def create(self, timeout: float, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The new object, None when there is one already."""
        create = self._api.create_namespaced_custom_object
        made: dict[str, Any] | None = self._call(timeout, create, (409,), body=body)
        return made

    def replace(self, timeout: float, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The object as it is now; None when it is not any more what `body` was made from."""
        name = body["metadata"]["name"]
        replace = self._api.replace_namespaced_custom_object
        done: dict[str, Any] | None = self._call(timeout, replace, (404, 409), name=name, body=body)
        return done

    def watch(self, timeout: float, name: str, version: int, seconds: int) -> Any:
        """An answer that goes on, for `events` and `cut`; for that many seconds at most."""
        return self._call(
            timeout,
            self._api.list_namespaced_custom_object,
            _request_timeout=(timeout, seconds + timeout),
            _preload_content=False,
            watch=True,
            field_selector=f"metadata.name={name}",
            resource_version=str(version),
            timeout_seconds=seconds,
        )

    def events(self, answer: Any) -> Iterator[tuple[bool, dict[str, Any]]]:
        """Whether the object is there, and the object, at each change. Ends with the answer. Raises Expired."""
        pending = b""
        try:
            for chunk in answer.stream(amt=None, decode_content=False):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Expired(str(event["object"].get("message", "")))
                    if event["type"] != "BOOKMARK":
                        yield event["type"] != "DELETED", event["object"]
        except self._failures as error:
            failure = self.server.failed(error, self._reason(error))
        else:
            return
        finally:
            answer.close()
        raise failure

    @staticmethod
    def cut(answer: Any) -> None:
        """End an answer that another thread reads."""
        with contextlib.suppress(ValueError, RuntimeError, OSError, AttributeError):  # it has ended already
            answer.shutdown()

    def failed(self, reason: str) -> LockUnavailable:
        """What to raise for an answer that cannot be used."""
        return self.server.failed(ValueError(reason), reason)

    def close(self) -> None:
        manager = self._client.rest_client.pool_manager
        for key in manager.pools.keys():  # noqa: SIM118  # it cannot be iterated over; and clearing it closes nothing
            manager.pools[key].close()
        manager.clear()
        self._client.close()

    def _call(self, timeout: float, ask: Callable[..., T], lost: tuple[int, ...] = (), **words: Any) -> Any:
        """What it answers, None for the statuses in `lost` that mean a lost race."""
        until, again = now() + timeout, True
        while True:
            rest = max(until - now(), 0.01)
            try:
                return ask(namespace=self.namespace, **KIND, **{"_request_timeout": rest, **words})
            except self._failures as error:
                status = getattr(error, "status", 0)
                if status in lost and not _is_namespace(_details(error)):
                    return None
                failure = self.server.failed(error, self._reason(error))
                pause = _pause(error) if status in _BUSY else rest
                if again and not status:  # an idle connection may have been closed: once more, on a new one
                    again, pause = False, 0.0
            if now() + pause >= until:
                raise failure
            time.sleep(pause)

    def _reason(self, error: BaseException) -> str:
        """What was wrong, in words: what the server said, else what the system said to begin with."""
        if not isinstance(error, self._answered) or not error.status:
            return _deepest(error)
        details = _details(error)
        said = str(details.get("message") or error.reason or f"status {error.status}")
        causes = (details.get("details") or {}).get("causes") or []
        if error.status == 401:
            return f"it does not know this user ({said}): the token or certificate is wrong or has expired"
        if any(each.get("reason") == "NamespaceTerminating" for each in causes):
            return f"the namespace {self.namespace!r} is being deleted ({said})"
        if error.status == 403 and "quota" not in said:
            return (
                f"{said}. This account needs a Role in namespace {self.namespace!r} that allows {VERBS} on "
                f"leases of coordination.k8s.io; k8s/locks has one"
            )
        if error.status == 404 and _is_namespace(details):
            return f"there is no namespace {self.namespace!r}; create it, or name another one: {EXAMPLE}"
        if error.status == 404:
            return f"it has no Leases ({said}): coordination.k8s.io/v1 came with Kubernetes 1.14"
        return said


def _configured(config: ModuleType, configuration: Any, address: Address) -> str:
    """Fill in how to reach the cluster; the namespace that goes with it, "" for none. Raises BadConfig."""
    file = address.file
    try:
        if not file:
            config.load_incluster_config(client_configuration=configuration)
            return (ACCOUNT / "namespace").read_text().strip() if (ACCOUNT / "namespace").exists() else ""
        named = {"config_file": file, "context": address.context or None}
        config.load_kube_config(**named, client_configuration=configuration, persist_config=False)
        contexts, active = config.list_kube_config_contexts(config_file=file)
        used = [each for each in contexts if each["name"] == address.context] or [active]
        return str(used[0]["context"].get("namespace") or "")
    except Exception as error:  # the client's own, yaml's, the system's: whatever a file can be wrong with
        where = f"the kubeconfig {file}" if file else "the service account of this pod"
        more = "" if file else ": does the pod have automountServiceAccountToken: true?"
        raise BadConfig(
            f"{where} leads to no cluster ({_line(error)}){more}; set KUBECONFIG, or give {EXAMPLE}"
        ) from None


def _where(host: str) -> str:
    parts = urlsplit(host)
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{name}:{parts.port or (80 if parts.scheme == 'http' else 443)}"


def _details(error: Any) -> dict[str, Any]:
    """The Status object that came with a refusal; {} for none."""
    try:
        found = json.loads(error.body)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_namespace(details: Mapping[str, Any]) -> bool:
    return (details.get("details") or {}).get("kind") == "namespaces"


def _pause(error: Any) -> float:
    """Seconds until a server that is busy may be asked again, as it says."""
    said = str((error.headers or {}).get("Retry-After", ""))
    return float(said) if said.isdecimal() and 0 < int(said) < 60 else random.uniform(0.1, 0.3)  # noqa: S311


def _deepest(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return _line(error)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
