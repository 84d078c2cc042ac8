"""The program that carries the links of a run (`links`): how it is started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laila.errors import LabError
from laila.lab.drivers.base import wait_until
from laila.lab.drivers.link_control import CONTROL, LOG, LinkControl

_STARTS = 30.0
"""Seconds that it may take until it answers, on a busy machine."""


def start(
    place: Path, names: Sequence[str], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start it for these nodes in a new directory; the process, and what it says of itself (`LinkControl.hello`).

    It goes on when this process ends. Raises LabError with its last words, DeadlineExceeded.
    """
    place.mkdir(mode=0o700)
    with (place / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "laila.lab.drivers.links", *names],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            cwd=place,
            start_new_session=True,
        )
    control, found = LinkControl(place / CONTROL, {}), dict[str, Any]()

    def answers() -> bool:
        try:
            found.update(control.hello())
        except LabError:
            if process.poll() is None:
                return False
            raise
        return True

    try:
        wait_until(answers, _STARTS, "the program that carries the links to answer", every=0.02)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        control.close()
    return process, found
