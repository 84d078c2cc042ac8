"""The worker's loop: a line in, one operation, a line out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from laila.lab.client import describe
from laila.lab.clocks import boot_id
from laila.lab.lines import checked
from laila.lab.worker import agents, artifacts, files, locking, replicas
from laila.lab.worker.bench import Bench, Operation, Words


def hello(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Who and where this is; answers only when the volume is there."""
    found = bench.volume.stat()
    return {"pid": os.getpid(), "boot_id": boot_id(), "uid": os.getuid(), "device": found.st_dev}


def probe(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """One step of a check of the volume, as `laila volume probe` does it."""
    if "hands" not in bench.things:
        from laila.volumes.steps import Hands

        bench.things["hands"] = Hands()
    return dict(bench.things["hands"].carry_out(words["step"]))


OPERATIONS: Mapping[str, Operation] = {
    "hello": hello,
    "probe": probe,
    **locking.OPERATIONS,
    **files.OPERATIONS,
    **artifacts.OPERATIONS,
    **agents.OPERATIONS,
    **replicas.OPERATIONS,
}


def answer(bench: Bench, request: Any) -> dict[str, Any]:
    """The answer to one request, with when it was worked on; every failure is an answer too."""
    began = time.monotonic()
    number = request.get("id") if isinstance(request, dict) else None
    try:
        timeout = checked(request, OPERATIONS)
        told = {"ok": True, "result": OPERATIONS[request["op"]](bench, request, timeout)}
    except Exception as error:
        told = {"ok": False, "error": describe(error)}
    return {"id": number, **told, "clock": [began, time.monotonic()]}


def serve(bench: Bench, lines: IO[str], out: IO[str]) -> None:
    """Answer every line, one after another, until there are no more."""
    for line in lines:
        try:
            request = json.loads(line)
        except ValueError:
            request = {"op": "a line that is no JSON"}
        out.write(json.dumps(answer(bench, request), separators=(",", ":")) + "\n")
        out.flush()


def run(volume: str, *, streams: tuple[IO[str], IO[str]] | None = None) -> int:
    """The program. Exit code 0 after the end of its input, 2 when the volume is not there."""
    path = Path(volume)
    if not path.is_dir():
        print(f"laila lab worker: {volume} is no directory", file=sys.stderr)
        return 2
    bench = Bench(path)
    lines, out = streams or (sys.stdin, sys.stdout)
    try:
        serve(bench, lines, out)
    finally:
        bench.close()
    return 0
