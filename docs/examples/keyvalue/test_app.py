"""The application in compose.yaml, tested with partitions: does it answer as one register would?"""

import json
import urllib.request

import pytest

from laila.testing import ok

pytestmark = pytest.mark.lab("app.toml")


class Client:
    def __init__(self, node):
        self.url = f"http://{node.address(8000)}/"

    def invoke(self, op):  # what it raises is an outcome that nobody knows
        method, body = ("PUT", json.dumps(op.value).encode()) if op.op == "write" else ("GET", None)
        request = urllib.request.Request(self.url + op.key, body, method=method)
        with urllib.request.urlopen(request, timeout=2) as answer:
            return ok(json.loads(answer.read()) if op.op == "read" else None)


@pytest.mark.faults("partition@leader/east,pause@west", time=20, clients=2)
def test_it_answers_as_one(lab):
    lab.run("register", client=Client).check()
