"""The pytest plugin: fixtures `lab`, `nodes`, `faults`, `history`, markers `lab` and `faults`, options `--lab-…`.

It is loaded by pytest wherever laila-kit is installed, and imports nothing more until a test asks for a lab. A lab is
kept from one test to the next that wants the same one, mended in between, and made anew after a test that failed on it.
Under pytest-xdist each worker has labs of its own, and tells the controller what is to be said in the end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from laila.lab.checkers.operations import Op
    from laila.lab.checks.trials import TrialOrder
    from laila.testing.lab import Lab
    from laila.testing.node import Node

_FAILED = pytest.StashKey[str]()
"""How the test failed."""
_LABS = pytest.StashKey["Labs"]()
_OF_WORKERS = "laila_labs"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("laila", "labs of laila-kit")
    group.addoption(
        "--lab-driver", metavar="DRIVER", help="instead of what tests ask for: docker, process, …"
    )
    group.addoption(
        "--lab-out",
        default="lab-runs",
        metavar="DIR",
        help="evidence of failed tests goes here: report, history, faults, logs (default: lab-runs)",
    )
    group.addoption(
        "--lab-keep",
        choices=("never", "failed"),
        default="never",
        help="`failed`: the nodes of a test that failed go on running, for `laila lab status`, `exec` and `logs`",
    )
    group.addoption(
        "--lab-seed", type=int, metavar="N", help="repeat the operations and faults of an earlier run"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "lab(topology, driver='auto', nodes=None): the topology that the fixture `lab` starts: a shipped one, or a "
        ".toml file beside the test",
    )
    config.addinivalue_line(
        "markers",
        "faults(*schedule, time=0.0, clients=1): what strikes in `lab.run`, and for how many seconds",
    )
    config.stash[_LABS] = Labs()


@dataclass(slots=True)
class Labs:
    """The lab of this process that runs now and what it was asked for by; what is to be said in the end."""

    key: tuple[Any, ...] = ()
    lab: Lab | None = None
    said: list[str] = field(default_factory=list)

    def want(self, key: tuple[Any, ...], start: Callable[[], Lab]) -> Lab:
        """The one that runs, if it is for the same; else a new one."""
        if self.lab is None or self.key != key:
            self.drop()
            self.lab, self.key = start(), key
        return self.lab

    def drop(self) -> None:
        lab, self.lab = self.lab, None
        if lab is not None:
            lab.close()

    def keep(self, test: str) -> None:
        lab, self.lab = self.lab, None
        if lab is not None:
            self.said.append(f"{test}: its nodes go on running; {lab.keep()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = call.excinfo.exconly() if call.excinfo else report.longreprtext
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the fixtures' own ends, also when the session was interrupted."""
    labs = session.config.stash[_LABS]
    try:
        labs.drop()
    finally:
        if (output := getattr(session.config, "workeroutput", None)) is not None:
            output[_OF_WORKERS] = labs.said


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker of pytest-xdist has ended; one that crashed says nothing."""
    said = (getattr(node, "workeroutput", None) or {}).get(_OF_WORKERS, ())
    node.config.stash[_LABS].said.extend(said)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if said := config.stash[_LABS].said:
        terminalreporter.section("labs")
        for line in said:
            terminalreporter.line(line)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab of the topology that the marker `lab` names, whose nodes are ready."""
    from laila.errors import LailaError
    from laila.lab.checks.outfit import NEED_CLOCKS, NEED_DISK
    from laila.testing.lab import Lab

    config = request.config
    labs, out = config.stash[_LABS], config.invocation_params.dir / config.getoption("--lab-out")
    what, options = _wanted(request)
    try:
        order = _order(request)
        needs = order.kinds() & (NEED_DISK | NEED_CLOCKS)
        seed = config.getoption("--lab-seed")
        found = labs.want(
            (what, *sorted(options.items()), *sorted(needs)),
            lambda: Lab.start(what, seed=seed, out=out, faults=order.faults, **options),
        )
    except LailaError as error:
        evidence = getattr(error, "__notes__", [])
        labs.said += [f"{request.node.nodeid}: {one}" for one in evidence]
        pytest.fail("\n".join([f"no lab for this test: {error}", *evidence]), pytrace=False)
    name = re.sub(r"[^\w.-]+", "-", f"{request.node.name}-{found.driver.run.run_id}")
    found.begin(name, f"pytest '{request.node.nodeid}' --lab-seed {found.seed}", order)
    yield found
    if labs.lab is not found:
        return  # the session has ended in the middle of the test
    failure = request.node.stash.get(_FAILED, "")
    if failure:
        left = [*(ran.folder for ran in found.runs), _evidence(found, failure)]
        labs.said += [f"{request.node.nodeid}: {folder / 'report.html'}" for folder in left if folder]
        labs.keep(request.node.nodeid) if config.getoption("--lab-keep") == "failed" else labs.drop()
        return
    _clean(found)
    try:
        found.mend()
    except BaseException as error:
        if isinstance(error, LailaError) and (folder := found.leave_for(error)):
            labs.said.append(f"{request.node.nodeid}: {folder / 'report.html'}")
        labs.drop()
        raise


@pytest.fixture
def nodes(lab: Lab) -> dict[str, Node]:
    """The nodes of the lab by name."""
    return lab.nodes


@pytest.fixture
def faults(lab: Lab) -> Callable[[str], AbstractContextManager[list[str]]]:
    """`with faults("partition@a/b"): …` breaks something, proves it, and mends it."""
    return lab.fault


@pytest.fixture
def history(lab: Lab) -> Callable[[], list[Op]]:
    """The operations of the last `lab.run`, as `laila.lab.checkers.operations.Op`."""
    import json

    from laila.lab.checkers.operations import INVOKED, Op

    def read() -> list[Op]:
        if not lab.runs:
            return []
        lines = (lab.runs[-1].folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [Op.from_record(one) for one in map(json.loads, lines) if one.get("what") == INVOKED]

    return read


def _wanted(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """What the marker `lab` says: the topology, and arguments of `Lab.start`."""
    marker = request.node.get_closest_marker("lab")
    args, options = (marker.args, dict(marker.kwargs)) if marker else ((), {})
    if len(args) > 1 or not all(isinstance(one, str | Path) for one in args):
        _refuse(f"the marker lab takes one topology, a name or a .toml file, not {args!r}")
    if unknown := sorted(set(options) - {"driver", "nodes"}):
        _refuse(f"the marker lab has no {', '.join(unknown)}; it has driver and nodes")
    what = str(args[0]) if args else "replicated"
    if what.endswith(".toml"):
        what = str(request.path.parent / what)
    if driver := request.config.getoption("--lab-driver"):
        options["driver"] = driver
    return what, options


def _order(request: pytest.FixtureRequest) -> TrialOrder:
    """What the marker `faults` says. Raises BadConfig for what is no schedule."""
    from laila.lab.checks.trials import TrialOrder

    marker = request.node.get_closest_marker("faults")
    if marker is None:
        return TrialOrder(faults="none")
    if unknown := sorted(set(marker.kwargs) - {"time", "clients"}):
        _refuse(f"the marker faults has no {', '.join(unknown)}; it has time and clients")
    if not marker.args or not all(isinstance(one, str) for one in marker.args):
        _refuse(
            f"the marker faults takes faults as texts, such as 'kill,partition+latency', not {marker.args!r}"
        )
    try:
        seconds, clients = float(marker.kwargs.get("time", 0.0)), int(marker.kwargs.get("clients", 1))
    except (TypeError, ValueError):
        _refuse(f"time and clients of the marker faults are numbers, not {marker.kwargs!r}")
    order = TrialOrder((), ",".join(marker.args), seconds, clients)
    order.schedule()
    return order


def _refuse(text: str) -> NoReturn:
    pytest.fail(text, pytrace=False)


def _evidence(lab: Lab, failure: str) -> Path | None:
    """The folder of what the test did by hand. What keeps it from being written must not hide why the test failed."""
    from laila.errors import LailaError

    try:
        return lab.leave(failure)
    except (LailaError, OSError):
        return None


def _clean(lab: Lab) -> None:
    """Evidence of what went well is nobody's business."""
    import shutil

    for ran in lab.runs:
        shutil.rmtree(ran.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not there, or others have evidence in it
        lab.out.rmdir()
