"""A server that speaks S3, for tests: moto's, in a process of its own: python s3_server.py PORT BUCKET

moto looks at the condition of a put and then stores, in threads; S3 does both in one step. So here one request is
carried out at a time.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

from tests.locks.servers import PASSWORD, Server

BUCKET = "pools"


class S3Server(Server):
    """moto's S3 server; it keeps objects in memory, so a restart has lost everything but the bucket."""

    package = "moto"

    @classmethod
    def program(cls) -> str | None:
        return sys.executable if find_spec("moto") and find_spec("flask") else shutil.which("moto_server")

    @property
    def url(self) -> str:
        return f"s3://tester:{PASSWORD}@{BUCKET}/some/prefix?endpoint=http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-W", "ignore", __file__, str(self.port), BUCKET]

    def credentials(self) -> dict[str, Any]:
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120
        return {"env": {**os.environ, "PYTHONPATH": root}}

    def answers(self) -> bool:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="HEAD")
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  # our own server
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False


def serve(port: int, bucket: str) -> None:
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    application = DomainDispatcherApplication(create_backend_app)
    mutex = threading.Lock()

    def one_at_a_time(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with mutex:
            return [b"".join(application(environ, start))]

    s3_backends["123456789012"]["aws"].create_bucket(bucket, "us-east-1")
    make_server("127.0.0.1", port, one_at_a_time, threaded=True).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
