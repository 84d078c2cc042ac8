"""Ways that a program of the lab carries (the driver's `links`): connections, no packets."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import ClassVar

from laila.errors import LabError
from laila.lab.drivers.link_control import Pipe
from laila.lab.faults.base import Scene
from laila.lab.faults.sides import Way
from laila.lab.faults.wires import ANSWERED, CONNECTED, RESET, Dial, Effect, Wires


class LinkWires(Wires):
    """See the top of this file."""

    unit: ClassVar[str] = "connections"

    def __init__(self, scene: Scene) -> None:
        self._links = scene.driver.links
        self._until = scene.until
        self._met: dict[str, int] = {}
        self._imposed: set[str] = set()
        self._pipes: dict[Way, Pipe] = {}

    def impose(self, fault: str, ways: Sequence[Way], effect: Effect) -> None:
        if effect.loss or effect.new:
            raise LabError(
                "connections that a program carries have no packets of their own that could be lost"
            )
        self._links.rule(
            fault,
            ways,
            drop=effect.drop,
            delay_ms=effect.delay_ms,
            jitter_ms=effect.jitter_ms,
            kbit=effect.kbit,
            reset=effect.reset,
            refuse=effect.refuse,
            until=self._until,
        )
        self._imposed.add(fault)
        if effect.reset and not effect.again:
            self._met[fault] = self.hits(fault)
            self._links.clear(fault)

    def lift(self, fault: str) -> None:
        self._links.clear(fault)

    def hits(self, fault: str) -> int:
        if fault in self._met:
            return self._met[fault]
        return int(self._links.counters(fault)["connections"]) if fault in self._imposed else 0

    def knock(self, way: Way) -> None:
        self.dial(way, 0.3)

    # -- measuring

    def dial(self, way: Way, patience: float) -> Dial:
        began = time.monotonic()
        answer = self._links.probe(*way, timeout=patience)
        outcome = CONNECTED if answer["connected"] else _word(answer["error"])
        return Dial(outcome, time.monotonic() - began)

    def arrived(self, way: Way, count: int) -> tuple[int, int]:
        """One piece: of connections that are carried nothing is lost by the way, all of it arrives or nothing."""
        return 1, int(self._links.flow(*way, timeout=1.0)["arrived"])

    def trips(self, way: Way, count: int, patience: float) -> list[float]:
        found = [self._links.probe(*way, timeout=patience) for _ in range(count)]
        return [float(one["seconds"]) for one in found if one["connected"]]

    def pour(self, way: Way, nbytes: int, patience: float) -> float:
        answer = self._links.probe(*way, nbytes=nbytes, timeout=3 * patience)
        return nbytes * 8 / 1000 / max(float(answer["seconds"]), 1e-6) if answer["connected"] else 0.0

    def stand(self, way: Way) -> None:
        with contextlib.suppress(OSError):
            pipe = self._links.pipe(*way)
            self._hang_up(way)
            self._pipes[way] = pipe

    def talk(self, way: Way, patience: float) -> str:
        if way not in self._pipes:
            self.stand(way)
        if (pipe := self._pipes.get(way)) is None:
            return "not connected"
        try:
            for sender, taker in ((pipe.near, pipe.far), (pipe.far, pipe.near)):
                sender.settimeout(patience)
                taker.settimeout(patience)
                sender.sendall(b"x")
                if not taker.recv(1):
                    return RESET
        except TimeoutError:
            return "timed out"
        except OSError:
            return RESET
        return ANSWERED

    def end(self) -> None:
        for way in list(self._pipes):
            self._hang_up(way)

    def _hang_up(self, way: Way) -> None:
        if (pipe := self._pipes.pop(way, None)) is not None:
            pipe.close()


def _word(error: str) -> str:
    return "timed out" if error == "silent" else error
