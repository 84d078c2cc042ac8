"""The loop of a program that answers JSON lines: a line in, one operation, a line out, in any order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from laila.errors import BadValue

DEFAULT_TIMEOUT = 10.0
MAX_TIMEOUT = 600.0
WORKERS = 16


def serve(
    answer: Callable[[Any], dict[str, Any]], lines: IO[str], out: IO[str], workers: int = WORKERS
) -> None:
    """Answer every line until there are no more, then wait for what is still running."""
    lock = threading.Lock()

    def handle(request: Any) -> None:
        text = json.dumps(answer(request), separators=(",", ":"))
        with lock:
            out.write(text + "\n")
            out.flush()

    with ThreadPoolExecutor(workers, thread_name_prefix="operation") as pool:
        for line in lines:
            try:
                request = json.loads(line)
            except ValueError:
                request = {"op": "a line that is no JSON"}
            pool.submit(handle, request)


def checked(request: Any, operations: Mapping[str, Any]) -> float:
    """The timeout of a request, in seconds. Raises BadValue for what is none."""
    if not isinstance(request, dict) or request.get("op") not in operations:
        raise BadValue(f"a request is an object whose `op` is one of {', '.join(operations)}")
    timeout = request.get("timeout", DEFAULT_TIMEOUT)
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= MAX_TIMEOUT:
        raise BadValue(f"`timeout` must be above 0 and at most {MAX_TIMEOUT:g} seconds")
    return float(timeout)
