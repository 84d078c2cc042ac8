"""API servers for the tests of Kubernetes locks: the stand-in, a real one that is started here, or somebody's cluster.

LAILA_TEST_KUBECONFIG=FILE   this cluster, in a namespace of its own; nothing of it is broken
LAILA_TEST_KUBE_BIN=FOLDER   kube-apiserver from there, over an etcd from there or from Debian's package
neither                      lease_api.py, which is none
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from servers import PASSWORD, EtcdServer, Server

NOBODY = "token-of-nobody"
"""Of a user whom the real server knows, and who may do nothing until a Role lets it."""


class KubeServer(Server):
    """What both have: a kubeconfig, and an administrator who goes behind everybody's back."""

    namespace = "laila"

    @property
    def path(self) -> str:
        """Of its Leases."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    @property
    def root(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return self.as_user(PASSWORD)

    def as_user(self, token: str, port: int | None = None, namespace: str = "", trusted: bool = True) -> str:
        """An address for a user, by a kubeconfig of its own."""
        config = self.folder / f"kubeconfig-{port or ''}-{token[-4:]}-{trusted}-{self.namespace}"
        root = self.root.replace(f":{self.port}", f":{port or self.port}")
        trust = {"certificate-authority": str(self.certificate)} if self.certificate and trusted else {}
        config.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": {"server": root, **trust}}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [
                        {"name": "x", "context": {"cluster": "c", "user": "u", "namespace": self.namespace}}
                    ],
                    "current-context": "x",
                }
            )
        )
        return f"kubernetes://{namespace or self.namespace}?{urlencode({'kubeconfig': config})}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request of the administrator."""
        request = urllib.request.Request(  # noqa: S310  # our own server
            self.root + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {PASSWORD}", "Content-Type": "application/json"},
            method=method,
        )
        context = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:  # noqa: S310  # as above
            return json.loads(answer.read() or b"{}")

    def answers(self) -> bool:
        try:
            request = urllib.request.Request(  # noqa: S310  # our own server
                f"{self.root}/readyz", headers={"Authorization": f"Bearer {PASSWORD}"}
            )
            context = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:  # noqa: S310  # as above
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    def leases(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("GET", self.path)["items"]
        return found


class LeaseApi(KubeServer):
    """The stand-in."""

    package = "lease-api"
    real = False

    @classmethod
    def program(cls) -> str | None:
        return sys.executable

    def command(self) -> list[str]:
        tls = [str(self.certificate), str(self.key)] if self.certificate else []
        program = str(Path(__file__).with_name("lease_api.py"))
        return [sys.executable, program, str(self.port), str(self.folder), PASSWORD, *tls]

    def mind(self, **change: Any) -> dict[str, Any]:
        """Change what it does; what it thinks then."""
        found: dict[str, Any] = self.ask("POST", "/standin", change)
        return found


class ApiServer(KubeServer):
    """etcd and kube-apiserver, and nothing else: no controller, no node. RBAC, with two users by token."""

    package = "kube-apiserver"
    real = True

    def __init__(self, *, tls: bool = True) -> None:
        super().__init__(tls=True)
        self.etcd = EtcdServer()

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("kube-apiserver", path=os.environ.get("LAILA_TEST_KUBE_BIN", ""))

    def command(self) -> list[str]:
        users, signing = self.folder / "users.csv", self.folder / "signing.pem"
        users.write_text(f'{PASSWORD},admin,1,"system:masters"\n{NOBODY},nobody,2\n')
        if not signing.exists():
            key = rsa.generate_private_key(65537, 2048)
            plain = serialization.NoEncryption()
            kind = serialization.PrivateFormat.TraditionalOpenSSL
            signing.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
        return [
            self.program() or "", f"--etcd-servers={self.etcd.root}", "--bind-address=127.0.0.1",
            f"--secure-port={self.port}", f"--tls-cert-file={self.certificate}", f"--tls-private-key-file={self.key}",
            "--authorization-mode=RBAC", f"--token-auth-file={users}", "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={signing}",
            f"--service-account-signing-key-file={signing}", "--endpoint-reconciler-type=none",
            "--advertise-address=10.0.0.1", f"--cert-dir={self.folder}", "--profiling=false",
        ]  # fmt: skip

    def start(self) -> None:
        if self.etcd.process is None:
            self.etcd.start()
        super().start()
        if self.namespace == KubeServer.namespace:
            self.fresh()

    def fresh(self) -> None:
        """Another namespace, so that one server serves many tests: it takes long to start."""
        made = self.ask("POST", "/api/v1/namespaces", {"metadata": {"generateName": "laila-"}})
        self.namespace = made["metadata"]["name"]

    def mended(self) -> None:
        """Whatever a test did to it."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        else:
            self.start()

    def close(self) -> None:
        super().close()
        self.etcd.close()


class Cluster:
    """Somebody's cluster, and a namespace in it that is ours and goes away."""

    real = True

    def __init__(self, kubeconfig: str) -> None:
        from kubernetes import client, config

        self._config, self._file = client.Configuration(), kubeconfig
        config.load_kube_config(config_file=kubeconfig, client_configuration=self._config)
        self._core = client.CoreV1Api(client.ApiClient(self._config))
        made = self._core.create_namespace({"metadata": {"generateName": "laila-locks-"}})
        self.namespace = made.metadata.name

    @property
    def url(self) -> str:
        return f"kubernetes://{self.namespace}?{urlencode({'kubeconfig': self._file})}"

    def at(self, **options: Any) -> str:
        return f"{self.url}&{urlencode(options)}"

    def close(self) -> None:
        self._core.delete_namespace(self.namespace)
        self._core.api_client.close()


def server_class() -> type[KubeServer]:
    """What is started here."""
    return ApiServer if os.environ.get("LAILA_TEST_KUBE_BIN") else LeaseApi
