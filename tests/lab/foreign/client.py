"""A client of a Redis server for the lab, `client.py HOST:PORT`: operations as JSON lines in, an answer for each."""

import json
import socket
import sys

SWAP = (
    "if (redis.call('GET', KEYS[1]) or 'null') == ARGV[1] then return redis.call('SET', KEYS[1], ARGV[2]) end"
)
WORDS = {
    "read": lambda op: ["GET", op["key"]],
    "write": lambda op: ["SET", op["key"], json.dumps(op["value"])],
    "cas": lambda op: ["EVAL", SWAP, "1", op["key"], json.dumps(op["old"]), json.dumps(op["new"])],
}


def whole(data):
    if not data.endswith(b"\r\n"):
        raise ConnectionError("the server hung up")  # half an answer would be another answer
    return data


for asked in map(json.loads, sys.stdin):
    answer, executed = {"id": asked["id"]}, "no"
    try:
        command = " ".join(json.dumps(word) for word in WORDS[asked["op"]](asked))
        with socket.create_connection(sys.argv[1].rsplit(":", 1), asked["timeout"]) as server:
            executed = "maybe"  # from here on nobody knows, until there is an answer
            server.sendall(command.encode() + b"\r\n")
            file = server.makefile("rb")
            said = whole(file.readline())
            if said.startswith(b"-"):
                executed = "no"
                raise ValueError(said.decode())
            found = whole(file.read(int(said[1:]) + 2)) if said[:1] == b"$" and said[1:2] != b"-" else b"null"
            answer |= {"ok": True, "result": {"value": json.loads(found), "swapped": said == b"+OK\r\n"}}
    except (OSError, ValueError, KeyError) as error:
        told = {"code": type(error).__name__, "message": str(error), "executed": executed}
        answer |= {"ok": False, "error": told}
    print(json.dumps(answer), flush=True)
