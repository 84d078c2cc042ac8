"""Wall clocks jump and drift; nothing else does. Healed by whoever comes, also where a node is down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import fault_holder
import pytest
from fault_conformance import SEED, FaultConformance
from lab_support import until

import laila.lab.drivers.clock_shift as clock_shift
import laila.lab.faults.clock as clock
from laila.errors import BadConfig, LabError
from laila.lab import faults
from laila.lab.drivers.base import Driver, Lever
from laila.lab.drivers.clock_shift import Shift
from laila.lab.faults import Fault, FaultSpec, NoBite, ledger
from laila.lab.topology import Topology, replicated

SOURCE = Path(clock.__file__).with_name("clockshift.c")


class ClockFaults(FaultConformance):
    specs: ClassVar[tuple[str, ...]] = ("clock:seconds=-7200@*",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None  # they have no agents

    @classmethod
    def shape(cls) -> Topology:
        return replace(replicated(2), clocks=True)

    def fault(self, driver: Driver, text: str) -> Fault:
        return faults.make(fault_holder.scene_of(driver, SEED), FaultSpec.parse(text))

    def test_the_node_itself_goes_by_it(self, driver: Driver) -> None:
        """By what it writes into its log when it is started anew; so does `date` beside it, and nobody on node2."""
        fault = self.fault(driver, "clock:seconds=86400@node1")
        entry = ledger.inject(fault)
        before = len(driver.logs("node1"))
        driver.restart("node1")
        until(lambda: b'"event": "ready"' in driver.logs("node1")[before:], "node1 to say that it is ready")
        lines = [json.loads(line) for line in driver.logs("node1")[before:].splitlines()]
        (ready,) = [line["time"] for line in lines if line["event"] == "ready"]
        assert ready.startswith(time.strftime("%Y-%m-%dT%H:", time.gmtime(time.time() + 86400)))
        days = [
            int(driver.exec(node, ["date", "+%s"]).stdout) - time.time() for node in driver.topology.names
        ]
        assert [round(seconds / 86400) for seconds in days] == [1, 0]
        ledger.heal(fault, entry)

    def test_a_clock_is_set_right_while_its_node_is_down_or_stands_still(self, driver: Driver) -> None:
        fault = self.fault(driver, "clock@*")
        entry = ledger.inject(fault)
        driver.pause("node1")
        driver.kill("node2")
        ledger.heal(fault, entry)
        self.ready(driver)
        assert fault.prove_healed()


class TestClocksOfProcesses(ClockFaults):
    driver_name = "process"
    specs: ClassVar[tuple[str, ...]] = (*ClockFaults.specs, "clock:seconds=0:ppm=200000@node2")

    def test_a_clock_that_runs_fast_gains_all_the_time(self, driver: Driver) -> None:
        fault = self.fault(driver, "clock:seconds=10:ppm=500000@node1")
        entry = ledger.inject(fault)
        first, second = (_settled(driver) for _ in range(2))
        gained = second.wall - first.wall
        passed = second.asked - first.asked
        assert gained.least <= 0.5 * passed.most
        assert gained.most >= 0.5 * passed.least
        assert not gained.meets(clock.Span(0.0, 0.0))
        ledger.heal(fault, entry)

    def test_a_jump_that_is_too_small_to_be_seen_is_no_bite(self, driver: Driver) -> None:
        fault = self.fault(driver, "clock:seconds=0.000001@node1")
        fault.scene.within = 0.5
        entry = ledger.inject(fault)
        with pytest.raises(NoBite, match="the clock of node1 to show it"):
            fault.prove()
        ledger.heal(fault, entry)

    def test_a_node_that_has_not_loaded_the_library_is_no_bite(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Programs beside it are bent, the node is not: as one that is linked statically."""
        driver.kill("node1")
        monkeypatch.setattr(clock_shift, "made", lambda run: False)
        driver.start("node1")
        monkeypatch.undo()
        monkeypatch.setenv("LAILA_LAB_HOME", str(driver.run.path.parent))
        self.ready(driver)
        fault = self.fault(driver, "clock@node1")
        entry = ledger.inject(fault)
        with pytest.raises(NoBite, match="no program of node1 has loaded the library"):
            fault.prove()
        ledger.heal(fault, entry)
        driver.kill("node1")

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("clock:seconds=soon", "seconds='soon' is no float"),
            ("clock:seconds=1e12", "seconds must be"),
            ("clock:ppm=2000000", "ppm must be -1e\\+06 to 1e\\+06"),
        ],
    )
    def test_bad_words_are_told_at_once(self, driver: Driver, text: str, complaint: str) -> None:
        with pytest.raises(BadConfig, match=complaint):
            self.fault(driver, text)


@pytest.mark.container
class TestClocksOfContainers(ClockFaults):
    driver_name = "docker"


def test_nodes_that_were_not_started_for_it_have_no_such_clock(lab_home: Path) -> None:
    class Plain(ClockFaults):
        driver_name = "process"

        @classmethod
        def shape(cls) -> Topology:
            return replicated(2)

    with Plain.make() as driver:
        driver.prepare()
        assert "give the topology clocks = true" in faults.KINDS["clock"].hindrance(driver)
        with pytest.raises(LabError, match="node1: the nodes were not started so that their clocks"):
            driver.set_clock("node1", Shift(1.0).pack())


def test_without_a_compiler_nodes_start_with_straight_clocks(
    lab_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bare(ClockFaults):
        driver_name = "process"

    monkeypatch.setattr(clock_shift, "_compiler", lambda: None)
    clock_shift.library.cache_clear()
    with Bare.make() as driver:
        driver.prepare()
        assert "there is no C compiler here, " in driver.lever(Lever.CLOCK)
        driver.start("node1")
        assert b"LD_PRELOAD" not in driver.exec("node1", ["env"]).stdout


# -- the library alone


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clock") / clock_shift.LIBRARY
    path.write_bytes(clock_shift.library())
    return path


Run = Callable[..., list[float]]


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Run:
    """Numbers that a Python program prints under a shift, given as the bytes of its file."""

    def run(program: str, shift: bytes | None) -> list[float]:
        file = tmp_path / "shift"
        if shift is not None:
            file.write_bytes(shift)
        environment = {**os.environ, **clock_shift.environment(str(library), str(file))}
        words = [sys.executable, "-c", f"import time, sys\n{program}", str(file)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return [float(word) for word in done.stdout.split()]

    return run


def test_every_way_to_ask_for_the_wall_clock_is_bent_and_no_other_clock(run: Run) -> None:
    asked = time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    told = run(
        "import ctypes\n"
        "c = ctypes.CDLL(None)\n"
        "both = (ctypes.c_longlong * 2)()\n"
        "print(time.time(), time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime(5), c.time(None))\n"
        "c.gettimeofday(both, None); print(both[0] + both[1] / 1e6)\n"
        "c.timespec_get(both, 1); print(both[0] + both[1] / 1e9)\n"
        "print(time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME), time.process_time())",
        Shift(-1000.5).pack(),
    )
    assert [round(wall - asked[0] + 1000.5) for wall in told[:6]] == pytest.approx([0] * 6, abs=5)
    assert told[6:8] == pytest.approx(asked[1:], abs=10)
    assert 0 < told[8] < 10


@pytest.mark.parametrize("file", [None, b"", b"half of it", b"\1" * 23])
def test_without_a_whole_file_the_clock_is_straight(run: Run, file: bytes | None) -> None:
    assert run("print(time.time())", file)[0] == pytest.approx(time.time(), abs=10)


def test_a_program_that_runs_sees_the_file_change_and_keeps_the_last_when_it_is_gone(run: Run) -> None:
    program = (
        "import os, pathlib, struct\n"
        "file, began = pathlib.Path(sys.argv[1]), time.clock_gettime(time.CLOCK_TAI) - time.time()\n"
        "def off():\n"
        "    time.sleep(0.05)\n"
        "    return round((time.time() - start - (time.monotonic() - steady)) / 100)\n"
        "start, steady = time.time(), time.monotonic()\n"
        "print(off())\n"
        "file.write_bytes(struct.pack('=qqq', 100 * 10**9, 0, 0)); print(off())\n"
        "file.unlink(); print(off())\n"
        "file.write_bytes(struct.pack('=qqq', -300 * 10**9, 0, 0)); print(off())\n"
    )
    assert run(program, None) == [0, 1, 1, -3]


def test_threads_never_see_half_a_shift(run: Run) -> None:
    """Threads read, by calls that run beside each other, while the file goes back and forth between no shift and one
    that doubles the pace since now. Half of one and half of the other would double the time since 1970.
    """
    program = (
        "import ctypes, pathlib, struct, threading\n"
        "file, c, real = pathlib.Path(sys.argv[1]), ctypes.CDLL(None), time.time()\n"
        "both = [struct.pack('=qqq', 0, ppm, since) for ppm, since in ((0, 0), (10**6, round(real * 10**9)))]\n"
        "until, wrong, reads = time.monotonic() + 1.5, [], []\n"
        "def read():\n"
        "    count = 0\n"
        "    while time.monotonic() < until:\n"
        "        for _ in range(200):\n"
        "            if abs((now := c.time(None)) - real) > 60: wrong.append(now)\n"
        "        count += 200\n"
        "    reads.append(count)\n"
        "c.time.restype = ctypes.c_longlong\n"
        "threads = [threading.Thread(target=read) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "turn = 0\n"
        "while time.monotonic() < until:\n"
        "    new = file.with_name('new'); new.write_bytes(both[turn % 2]); new.replace(file); turn += 1\n"
        "    time.sleep(0.002)\n"
        "for thread in threads: thread.join()\n"
        "print(len(wrong), turn, sum(reads))\n"
    )
    wrong, turns, reads = run(program, None)
    assert wrong == 0
    assert turns > 5
    assert reads > 1000


def test_an_unknown_clock_is_refused_as_without_it(run: Run) -> None:
    program = "try: time.clock_gettime(999)\nexcept OSError as error: print(error.errno)"
    assert run(program, Shift(5.0).pack()) == [22]


def test_the_library_needs_nothing(library: Path) -> None:
    """No other library and no version of one: so it loads beside any."""
    told = subprocess.run(["readelf", "-dV", library], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" not in told
    assert "No version information found" in told


def test_the_source_compiles_without_a_warning(tmp_path: Path) -> None:
    strict = (*clock_shift._FLAGS, "-Wall", "-Wextra", "-Werror")
    words = [str(clock_shift._compiler()), *strict, "-o", str(tmp_path / "it"), str(SOURCE)]
    assert subprocess.run(words, capture_output=True, check=False).stderr == b""


def _settled(driver: Driver) -> clock.Reading:
    time.sleep(0.5)
    return clock.Reading.of(driver, "node1")
