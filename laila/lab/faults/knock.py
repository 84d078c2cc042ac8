"""Does anybody answer at a door? Stands alone, so that it can also be run beside a node: knock.py HOST PORT PATIENCE.

Any byte is an answer, whatever the door's protocol: what is said to it is a request for a page, and who does not
understand that says so. A frozen program's door still takes connections, because the kernel does that; it says nothing.
"""

from __future__ import annotations

import json
import socket
import sys
import time

ANSWERS, REFUSES, SILENT = "answers", "refuses", "is silent"


def knock(host: str, port: int, patience: float) -> tuple[str, float, str]:
    """What the door does, the seconds that this took, and the system's words when it was refused."""
    began = time.monotonic()
    state, why = SILENT, ""
    try:
        with socket.create_connection((host, port), timeout=patience) as visitor:
            visitor.settimeout(max(0.01, patience - (time.monotonic() - began)))
            visitor.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if visitor.recv(1):
                state = ANSWERS
            else:
                state, why = REFUSES, "it ends the connection without a word"
    except TimeoutError:
        pass
    except OSError as error:
        state, why = REFUSES, error.strerror or str(error)
    return state, time.monotonic() - began, why


if __name__ == "__main__":
    print(json.dumps(knock(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
