"""Whether a container is as far as somebody needs it, as `docker compose up --wait` judges it."""

from __future__ import annotations

import time
from typing import Any

from laila.errors import LabError
from laila.lab.drivers.compose_file import COMPLETED, STARTED, last_words

_LOG_LINES = 5


def met(container: Any, condition: str, what: str) -> bool:
    """Asks the engine once. Raises LabError when it will never be so, with the container's last words."""
    container.reload()
    state = container.attrs["State"]
    ended, code = state["Status"] in ("exited", "dead"), state.get("ExitCode")
    if ended and (code or condition != COMPLETED):
        killed = ", killed for want of memory" if state.get("OOMKilled") else ""
        raise LabError(f"{what} ended with {code}{killed} instead of getting ready{_said(container)}")
    if condition == COMPLETED:
        return bool(ended)
    if state["Status"] != "running":
        return False
    return condition == STARTED or _health(container) in ("", "none", "healthy")


def wait(container: Any, condition: str, timeout: float, what: str) -> None:
    """Raises LabError as `met` does, and when it takes too long, with what its health check and it itself said last."""
    deadline = time.monotonic() + timeout
    while not met(container, condition, what):
        if time.monotonic() > deadline:
            state = container.attrs["State"]
            how = " and ".join(word for word in (state["Status"], _health(container)) if word)
            raise LabError(
                f"waited {timeout:g} s for {what} to be ready: it is {how}{_checked(state)}{_said(container)}"
            )
        time.sleep(0.1)


def _health(container: Any) -> str:
    return str((container.attrs["State"].get("Health") or {}).get("Status", ""))


def _checked(state: dict[str, Any]) -> str:
    """What its health check said last."""
    checks = (state.get("Health") or {}).get("Log") or []
    said = last_words(checks[-1].get("Output", "")) if checks else ""
    return f"; its health check said: {said}" if said else ""


def _said(container: Any) -> str:
    text = container.logs(tail=_LOG_LINES, stdout=True, stderr=True).decode("utf-8", "replace")
    said = last_words(text, _LOG_LINES)
    return f"; its last words: {said}" if said else ""
