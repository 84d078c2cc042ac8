"""What a pod says of itself, in words: whether it runs, and why not."""

from __future__ import annotations

from typing import Any

HOPELESS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Reasons of a container that waits and will go on waiting."""
_REMEDIES = {
    "ErrImageNeverPull": "bring the image to every machine of the cluster",
    "ErrImagePull": "push the image where the cluster finds it, and name it by --image",
    "ImagePullBackOff": "push the image where the cluster finds it, and name it by --image",
}


def container(pod: Any, name: str, *, ephemeral: bool = False) -> Any | None:
    """The status of one container, None while there is none."""
    statuses = pod.status.ephemeral_container_statuses if ephemeral else pod.status.container_statuses
    return next((one for one in statuses or () if one.name == name), None)


def runs(pod: Any | None, name: str, *, ephemeral: bool = False) -> bool:
    if pod is None or pod.metadata.deletion_timestamp is not None:
        return False
    status = container(pod, name, ephemeral=ephemeral)
    return status is not None and status.state.running is not None


def trouble(pod: Any, name: str, *, ephemeral: bool = False) -> str:
    """Why a container will not run, with what to do; empty while it still may."""
    status = container(pod, name, ephemeral=ephemeral)
    waiting = None if status is None else status.state.waiting
    if waiting is None or waiting.reason not in HOPELESS:
        return ""
    said = " ".join((waiting.message or "").split())[:200]
    remedy = _REMEDIES.get(waiting.reason, "")
    return f"{waiting.reason}{f' ({said})' if said else ''}{f': {remedy}' if remedy else ''}"


def progress(pod: Any | None) -> str:
    """How far a pod has come that does not run."""
    if pod is None:
        return "it has no pod yet"
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"it has no machine: {' '.join((condition.message or condition.reason or '').split())}"
    for status in pod.status.container_statuses or ():
        if status.state.waiting is not None:
            return f"its container waits: {status.state.waiting.reason}"
        if status.state.terminated is not None:
            ended = status.state.terminated
            return f"its container ended with {ended.exit_code} ({ended.reason})"
    return f"its pod is {str(pod.status.phase).lower()}"


def ips(pod: Any) -> tuple[str, ...]:
    """All its addresses; the client has had two names for them."""
    every = getattr(pod.status, "pod_ips", None) or getattr(pod.status, "pod_i_ps", None) or ()
    return tuple(str(one.ip) for one in every if one.ip) or (
        (str(pod.status.pod_ip),) if pod.status.pod_ip else ()
    )
