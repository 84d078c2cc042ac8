"""A small key-value service, as somebody might write it: one leader, two followers, plain HTTP.

GET /KEY and PUT /KEY go to any node. With READS=leader a follower passes reads on to the leader; with READS=local it
answers from its own copy, which is faster, and wrong as soon as the network is.
"""

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ME, LEADER = os.environ["ME"], os.environ["LEADER"]
FOLLOWERS = [name for name in os.environ["FOLLOWERS"].split(",") if name]
LOCAL = os.environ.get("READS") == "local"
DATA: dict[str, str] = {}


def ask(method: str, node: str, path: str, body: bytes = b"") -> bytes:
    request = urllib.request.Request(f"http://{node}:8000{path}", body or None, method=method)
    with urllib.request.urlopen(request, timeout=1) as answer:
        return answer.read()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if ME == LEADER or LOCAL:
            self.say(json.dumps(DATA.get(self.path)).encode())
        else:
            self.pass_on("GET", b"")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if ME != LEADER and not self.path.startswith("/copy/"):
            return self.pass_on("PUT", body)
        DATA[self.path.removeprefix("/copy")] = json.loads(body)
        for node in FOLLOWERS if ME == LEADER else []:
            try:
                ask("PUT", node, f"/copy{self.path}", body)
            except OSError:
                pass  # it will be told of the next one
        self.say(b"{}")

    def pass_on(self, method: str, body: bytes) -> None:
        try:
            self.say(ask(method, LEADER, self.path, body))
        except OSError as error:
            self.say(str(error).encode(), 503)

    def say(self, body: bytes, code: int = 200) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


ThreadingHTTPServer(("", 8000), Handler).serve_forever()
