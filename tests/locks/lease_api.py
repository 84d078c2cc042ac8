"""A stand-in for a Kubernetes API server, for tests where none can be had. It is NOT one, and proves nothing about one.

It is our own reading of the API's rules for Lease objects, in one process that can be killed and stopped: optimistic
concurrency (409), one rising resourceVersion for all objects, writes that change nothing and so leave it, watches with
bookmarks that end and expire (410), no such object or namespace (404), no permission (403), who are you (401), busy
(429), invalid (422). Written data survive SIGKILL in a file. No admission, patches, finalizers, paging, or other kinds;
users are tokens. The same suite runs against a real API server when LAILA_TEST_KUBE_BIN or LAILA_TEST_KUBECONFIG is
set (servers.py); whatever differs there is a mistake here.

Run as `python lease_api.py PORT FOLDER TOKEN [CERTIFICATE KEY]`. Tests change its mind by POST /standin.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import json
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

GROUP = "/apis/coordination.k8s.io/v1/namespaces/"
NAMESPACES = ("default", "laila")
TIMES = ("acquireTime", "renewTime")


class Refused(Exception):
    """An answer that is a Status object."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "details": details, "code": code,
        }  # fmt: skip


class Store:
    """The objects and what became of them. Every change is in the file before it is answered."""

    def __init__(self, path: Path) -> None:
        self.changed = threading.Condition()
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.version = self.oldest = 1
        if path.exists():
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last one may be half a line
                    self._apply(*json.loads(line))
        self.oldest = self.version  # a server that begins anew cannot tell what was before
        self._file = path.open("a")

    def _apply(self, version: int, kind: str, body: dict[str, Any]) -> None:
        key = body["metadata"]["namespace"], body["metadata"]["name"]
        if kind == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = body
        self.version = version
        self.events.append((version, kind, body))

    def change(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        version = self.version + 1
        body = copy.deepcopy(body)
        body["metadata"]["resourceVersion"] = str(version)
        self._file.write(json.dumps([version, kind, body]) + "\n")
        self._file.flush()
        self._apply(version, kind, body)
        self.changed.notify_all()
        return body

    def found(self, namespace: str, name: str) -> dict[str, Any]:
        if (namespace, name) not in self.objects:
            raise Refused(
                404, "NotFound", f'leases.coordination.k8s.io "{name}" not found',
                name=name, group="coordination.k8s.io", kind="leases",
            )  # fmt: skip
        return self.objects[namespace, name]

    def create(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if namespace not in NAMESPACES:
            message = f'namespaces "{namespace}" not found'
            raise Refused(404, "NotFound", message, name=namespace, kind="namespaces")
        valid(body)
        name = body["metadata"]["name"]
        if (namespace, name) in self.objects:
            message = f'leases.coordination.k8s.io "{name}" already exists'
            raise Refused(409, "AlreadyExists", message, name=name, kind="leases")
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        given = {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": stamp}
        return self.change("ADDED", {**body, "metadata": {**body["metadata"], **given}})

    def replace(self, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        old = self.found(namespace, name)
        valid(body)
        for key in ("resourceVersion", "uid"):
            wanted = body["metadata"].get(key)
            if wanted and wanted != old["metadata"][key]:
                raise Refused(
                    409, "Conflict",
                    f'Operation cannot be fulfilled on leases.coordination.k8s.io "{name}": the object has been '
                    "modified; please apply your changes to the latest version and try again",
                    name=name, group="coordination.k8s.io", kind="leases",
                )  # fmt: skip
        kept = {
            key: old["metadata"][key] for key in ("namespace", "uid", "creationTimestamp", "resourceVersion")
        }
        new = {**body, "metadata": {**body["metadata"], **kept}}
        return old if new == old else self.change("MODIFIED", new)


def valid(body: dict[str, Any]) -> None:
    """What the API's types and validation say about a Lease."""
    spec = body.get("spec") or {}
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    faults = []
    if seconds is not None and (not isinstance(seconds, int) or not 0 < seconds < 2**31):
        faults.append(f"spec.leaseDurationSeconds: Invalid value: {seconds!r}: must be greater than 0")
    if transitions is not None and (not isinstance(transitions, int) or not 0 <= transitions < 2**31):
        faults.append(f"spec.leaseTransitions: Invalid value: {transitions!r}")
    if spec.get("holderIdentity") == "":
        faults.append('spec.holderIdentity: Invalid value: "": must not be empty')
    for key in TIMES:
        if spec.get(key) is not None:
            try:
                datetime.datetime.strptime(spec[key], "%Y-%m-%dT%H:%M:%S.%fZ")
            except ValueError:
                faults.append(f"spec.{key}: Invalid value: {spec[key]!r}")
    notes = body["metadata"].get("annotations") or {}
    if sum(len(f"{key}{value}".encode()) for key, value in notes.items()) > 256 * 1024:
        faults.append("metadata.annotations: Too long: may not be more than 262144 bytes")
    if faults:
        raise Refused(422, "Invalid", f"Lease is invalid: {faults[0]}")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    store: ClassVar[Store]
    token: ClassVar[str]
    mind: ClassVar[dict[str, Any]] = {"forbid": [], "busy": 0, "asked": {}}

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        try:
            answer = self._answer(method, body)
        except Refused as refused:
            self._send(refused.code, refused.body)
        else:
            if answer is not None:
                self._send(201 if method == "POST" else 200, answer)

    def _answer(self, method: str, body: dict[str, Any]) -> dict[str, Any] | None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/readyz":
            return {}
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token != self.token:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if parts.path == "/standin":
            return self._changed_mind(body)
        namespace, _, rest = parts.path.removeprefix(GROUP).partition("/")
        name = rest.removeprefix("leases").strip("/")
        if not parts.path.startswith(GROUP) or not rest.startswith("leases"):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        verb = {"POST": "create", "PUT": "update", "DELETE": "delete"}.get(method) or (
            "get" if name else "watch" if query.get("watch", "").lower() in ("true", "1") else "list"
        )
        self._admit(verb, namespace, name)
        store = self.store
        if verb == "watch":
            self._watch(namespace, query)
            return None
        with store.changed:
            if verb == "create":
                return store.create(namespace, body)
            if verb == "update":
                return store.replace(namespace, name, body)
            if verb == "delete":
                return store.change("DELETED", store.found(namespace, name))
            if verb == "get":
                return store.found(namespace, name)
            items = [each for (where, _), each in store.objects.items() if where == namespace]
            return {"kind": "LeaseList", "items": items, "metadata": {"resourceVersion": str(store.version)}}

    def _admit(self, verb: str, namespace: str, name: str) -> None:
        mind = self.mind
        mind["asked"][verb] = mind["asked"].get(verb, 0) + 1
        if verb in mind["forbid"]:
            of = f' "{name}"' if name else ""
            raise Refused(
                403, "Forbidden",
                f'leases.coordination.k8s.io{of} is forbidden: User "tester" cannot {verb} resource "leases" in API '
                f'group "coordination.k8s.io" in the namespace "{namespace}"',
                name=name, group="coordination.k8s.io", kind="leases",
            )  # fmt: skip
        if mind["busy"] > 0 and verb != "watch":
            mind["busy"] -= 1
            raise Refused(
                429, "TooManyRequests", "the server has received too many requests", retryAfterSeconds=1
            )

    def _changed_mind(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.store.changed:
            if body.pop("compact", False):
                self.store.events.clear()
                self.store.oldest = self.store.version
            self.mind.update(body)
            return dict(self.mind)

    def _watch(self, namespace: str, query: dict[str, str]) -> None:
        store = self.store
        wanted = query.get("fieldSelector", "").removeprefix("metadata.name=")
        version = int(query.get("resourceVersion") or 0)
        until = time.monotonic() + float(query.get("timeoutSeconds") or 60)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with contextlib.suppress(OSError):
            while (left := until - time.monotonic()) > 0:
                with store.changed:
                    if version < store.oldest and version < store.version:
                        old = Refused(410, "Expired", f"too old resource version: {version} ({store.oldest})")
                        self._event("ERROR", old.body)
                        break
                    if store.version == version:
                        store.changed.wait(min(left, 1.0))
                    news = [event for event in store.events if event[0] > version]
                    version = max(version, store.version)
                for _, kind, body in news:
                    here = body["metadata"]
                    if here["namespace"] == namespace and wanted in ("", here["name"]):
                        self._event(kind, body)
            self.wfile.write(b"0\r\n\r\n")

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": body}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()

    def _send(self, code: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the log is for what goes wrong."""


class Httpd(ThreadingHTTPServer):
    """A thread per connection; TLS is spoken there, so that a client that does not finish holds nobody up."""

    daemon_threads = True
    request_queue_size = 64
    context: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        with contextlib.suppress(OSError):  # clients are killed in these tests
            if self.context is not None:
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)


def main(port: str, folder: str, token: str, *tls: str) -> None:
    Handler.store, Handler.token = Store(Path(folder) / "leases"), token
    httpd = Httpd(("127.0.0.1", int(port)), Handler)
    if tls:
        httpd.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        httpd.context.load_cert_chain(*tls)
    httpd.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
