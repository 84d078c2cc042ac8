"""Links that are late, lossy or narrow, as far ones are. All of it holds for each way of a link by itself."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import ClassVar

from laila.errors import LabError
from laila.lab.faults import sides
from laila.lab.faults.base import NoBite, NotHealed, Option
from laila.lab.faults.network import PATIENT, NetworkFault, at_once
from laila.lab.faults.sides import Way
from laila.lab.faults.wires import Effect

_TRIPS = 8
_MEASURED = 4
"""Links that a proof measures at most."""


class Latency(NetworkFault):
    kind: ClassVar[str] = "latency"
    summary: ClassVar[str] = "packets come later, each way"
    needs: ClassVar[str] = "delay"
    options: ClassVar[Mapping[str, Option]] = {
        "ms": Option(100.0, "how much later, each way", " ms", least=2, most=10_000),
        "jitter": Option(0.0, "more or less of it, at random", " ms", most=10_000),
    }

    def _effect(self) -> Effect:
        return Effect(delay_ms=self.option("ms"), jitter_ms=self._jitter)

    @property
    def _jitter(self) -> float:
        return float(min(self.option("jitter"), self.option("ms")))

    @property
    def _least(self) -> float:
        """Seconds that a round trip takes on average at least while it lasts."""
        return 0.9 * (2 * float(self.option("ms")) - self._jitter) / 1000

    def _mean(self, ways: Sequence[Way]) -> dict[Way, float]:
        """Of round trips; those that are not answered take for ever."""
        patience = PATIENT + 4 * self.option("ms") / 1000

        def one(way: Way) -> float:
            trips = self.wires.trips(way, _TRIPS, patience)
            return statistics.fmean(trips) if len(trips) == _TRIPS else float("inf")

        return at_once(ways, one)

    def prove(self) -> str:
        links, found = self._links(_MEASURED), {}

        def late() -> bool:
            found.update(self._mean(links))
            return all(self._least <= mean < float("inf") for mean in found.values())

        self.until(late, NoBite, f"round trips of {self._least * 1000:.0f} ms ({_shown(found)})")
        text = f"mean of {_TRIPS} round trips: {_shown(found)}"
        others = sides.once(self._others(2 * _MEASURED))
        near: dict[Way, float] = {}

        def quick() -> bool:
            near.update(self._mean(others))
            return all(mean < self._least / 2 for mean in near.values())

        self.until(quick, NoBite, f"the others to be quick as before ({_shown(near)})")
        return f"{text}, {self._hits()}; others: {_shown(near) or 'there are none'}"

    def prove_healed(self) -> str:
        links, found = self._links(_MEASURED), {}

        def quick() -> bool:
            found.update(self._mean(links))
            return all(mean < self._least / 2 for mean in found.values())

        self.until(quick, NotHealed, f"round trips below {self._least * 500:.0f} ms ({_shown(found)})")
        return f"mean of {_TRIPS} round trips: {_shown(found)}"


class Loss(NetworkFault):
    kind: ClassVar[str] = "loss"
    summary: ClassVar[str] = "some packets are lost, each way"
    needs: ClassVar[str] = "chance"
    links_cannot: ClassVar[str] = (
        "the program that carries the links forwards the bytes of connections, where no packet can be lost; "
        "use --driver docker"
    )
    options: ClassVar[Mapping[str, Option]] = {
        "percent": Option(30.0, "how many of a hundred, each way", " %", least=1, most=100)
    }

    def _effect(self) -> Effect:
        return Effect(loss=self._chance)

    @property
    def _chance(self) -> float:
        return float(self.option("percent")) / 100

    def _lost(self, ways: Sequence[Way]) -> tuple[int, int]:
        """Of datagrams: (sent, lost). So many that a fifth of what should be lost is seldom missed by chance."""
        count = round(min(4000.0, max(400.0, 40 / self._chance)))
        found = at_once(ways, lambda way: self.wires.arrived(way, count))
        sent = sum(one[0] for one in found.values())
        return sent, sent - sum(one[1] for one in found.values())

    def prove(self) -> str:
        ways = self._some(self.sides.struck, 2 * _MEASURED)
        sent, lost = self._lost(ways)

        def lossy() -> bool:
            nonlocal sent, lost
            if lost / sent >= self._chance / 2:
                return True
            sent, lost = self._lost(ways)
            return False

        self.until(lossy, NoBite, f"loss of {self._chance:.0%} (lost {lost} of {sent})")
        if lost / sent > self._chance + (1 - self._chance) / 2 + 0.02 and self._chance < 1:
            raise NoBite(f"{self.spec}: {lost} of {sent} datagrams were lost, much more than it should be")
        text = f"{lost} of {sent} datagrams lost ({lost / sent:.1%}), {self._hits()}"
        return f"{text}; others: {self._none_lost(self._others(_MEASURED), NoBite)}"

    def _none_lost(self, ways: Sequence[Way], error: type[LabError]) -> str:
        if not ways:
            return "there are none"
        sent, lost = 1, 1

        def whole() -> bool:
            nonlocal sent, lost
            sent, lost = self._lost(ways)
            return lost / sent <= self._chance / 10

        self.until(whole, error, f"nothing to be lost on {sides.shown(ways)}")
        return f"{lost} of {sent} lost"

    def prove_healed(self) -> str:
        return self._none_lost(self._some(self.sides.struck, 2 * _MEASURED), NotHealed)


class Bandwidth(NetworkFault):
    kind: ClassVar[str] = "bandwidth"
    summary: ClassVar[str] = "only so much goes through in a second, each way"
    needs: ClassVar[str] = "shape"
    options: ClassVar[Mapping[str, Option]] = {
        "kbit": Option(
            1000, "thousand bits a second, each way of each link", " kbit/s", least=64, most=1_000_000
        )
    }

    def _effect(self) -> Effect:
        return Effect(kbit=self.option("kbit"))

    def _measured(self, ways: Sequence[Way]) -> dict[Way, float]:
        """kbit/s, by what takes a second at the bandwidth that was asked for."""
        nbytes = max(32_768, self.option("kbit") * 125)
        patience = PATIENT + 2 * nbytes * 8 / 1000 / self.option("kbit")
        return at_once(ways, lambda way: self.wires.pour(way, nbytes, patience))

    def prove(self) -> str:
        ways, found = sides.both(self._links(_MEASURED // 2)), {}
        limit = 1.3 * self.option("kbit")

        def narrow() -> bool:
            found.update(self._measured(ways))
            return all(0 < kbit <= limit for kbit in found.values())

        self.until(narrow, NoBite, f"{limit:.0f} kbit/s at most ({_rates(found)})")
        others = self._others(_MEASURED // 2)
        wide = self._wide(others, NoBite)
        return f"{_rates(found)}, {self._hits()}; others: {_rates(wide) or 'there are none'}"

    def _wide(self, ways: Sequence[Way], error: type[LabError]) -> dict[Way, float]:
        found: dict[Way, float] = {}
        wanted = 1.6 * self.option("kbit")

        def wide() -> bool:
            found.update(self._measured(ways))
            return all(kbit >= wanted for kbit in found.values())

        self.until(wide, error, f"more than {wanted:.0f} kbit/s on {sides.shown(ways)}")
        return found

    def prove_healed(self) -> str:
        return _rates(self._wide(sides.both(self._links(_MEASURED // 2)), NotHealed))


def _shown(found: Mapping[Way, float]) -> str:
    return ", ".join(f"{a}-{b} {mean * 1000:.1f} ms" for (a, b), mean in found.items())


def _rates(found: Mapping[Way, float]) -> str:
    return ", ".join(f"{a}→{b} {kbit:.0f} kbit/s" for (a, b), kbit in found.items())
