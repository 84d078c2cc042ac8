"""A client of a Redis server for the lab, `client.py HOST:PORT`: operations as JSON lines in, an answer for each."""

import json
import socket
import sys

SWAP = "return (redis.call('GET', KEYS[1]) or 'null') == ARGV[1] and redis.call('SET', KEYS[1], ARGV[2])"
WORDS = {
    "read": lambda op: ["GET", op["key"]],
    "write": lambda op: ["SET", op["key"], json.dumps(op["value"])],
    "cas": lambda op: ["EVAL", SWAP, "1", op["key"], json.dumps(op["old"]), json.dumps(op["new"])],
}


def line(file):
    data = file.readline()
    if not data.endswith(b"\r\n"):
        raise ConnectionError("the server hung up")  # half an answer would be another answer
    return data[:-2]


for asked in map(json.loads, sys.stdin):
    answer, executed = {"id": asked["id"], "ok": False}, "no"
    try:
        command = " ".join(map(json.dumps, WORDS[asked["op"]](asked)))
        with socket.create_connection(sys.argv[1].rsplit(":", 1), asked["timeout"]) as server:
            executed = "maybe"  # from here on nobody knows, until there is an answer
            server.sendall(command.encode() + b"\r\n")
            said = line(file := server.makefile("rb"))
            if said.startswith(b"-"):
                executed = "no"
                raise ValueError(said.decode())
            value = json.loads(line(file)) if said.startswith(b"$") and said != b"$-1" else None
            answer |= {"ok": True, "result": {"value": value, "swapped": said == b"+OK"}}
    except (OSError, ValueError, KeyError) as error:
        answer["error"] = {"code": type(error).__name__, "message": str(error), "executed": executed}
    print(json.dumps(answer), flush=True)
