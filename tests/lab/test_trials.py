"""A trial on systems that are right, wrong, dead, silent, or tell rubbish: the verdict says which."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.errors import LabError
from laila.lab import workloads
from laila.lab.checkers.operations import OK, UNKNOWN
from laila.lab.checkers.verdict import Verdict
from laila.lab.drivers.local_client import LocalPrograms
from laila.lab.faults import Scene
from laila.lab.history import History
from laila.lab.remote import RemoteClient
from laila.lab.trials.invoking import Invoker, ObjectInvoker, ProgramInvoker, Said, fail, ok, unknown
from laila.lab.trials.trial import Plan, Trial
from laila.lab.workloads.base import Invocation, Script, Who, Workload
from laila.lab.workloads.register import Register

NODES = ("east", "west")
PROGRAM = """
import json, sys
data = {}
for turn, line in enumerate(sys.stdin):
    request = json.loads(line)
    op, key = request["op"], request.get("key")
    result = {}
    if op == "write": data[key] = request["value"]
    if op == "read": result = {"value": data.get(key)}
    answer = {"id": request["id"], "ok": True, "result": result}
    WRONG
    print(json.dumps(answer), flush=True)
"""
"""A whole system in one process: a client that WRONG makes a bad one."""


class Store:
    """A system in this process: right, unless a subclass is not."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.lock = threading.Lock()

    def invoke(self, asked: Invocation) -> Said:
        with self.lock:
            return self.do(asked)

    def do(self, asked: Invocation) -> Said:
        if asked.op == "write":
            self.data[asked.key] = asked.value
            return ok()
        return ok(self.data.get(asked.key))


class Stale(Store):
    """Every fourth read gives what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Any] = {}
        self.turn = 0

    def do(self, asked: Invocation) -> Said:
        if asked.op == "write":
            self.before[asked.key] = self.data.get(asked.key)
            return super().do(asked)
        self.turn += 1
        return ok((self.before if self.turn % 4 == 0 else self.data).get(asked.key))


class Doubtful(Store):
    """Some writes happen and are not answered, some do not, some are refused for certain; all of it is said."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def do(self, asked: Invocation) -> Said:
        if asked.op == "read":
            return super().do(asked)
        self.writes += 1
        match self.writes % 10:
            case 3:
                super().do(asked)
                raise ConnectionResetError("in the middle")
            case 6:
                return unknown("it took too long")
            case 9:
                return fail("not now")
        return super().do(asked)


class Liar(Store):
    """Says of every third write that it refused what it has done."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def do(self, asked: Invocation) -> Said:
        said = super().do(asked)
        self.writes += asked.op == "write"
        return fail("not now") if asked.op == "write" and self.writes % 3 == 0 else said


def trial(
    tmp_path: Path, start: Callable[[Workload, Who], Invoker], *names: str, seconds: float = 0.5, **more: Any
) -> Iterator[Trial]:
    """One without faults, which no driver is needed for."""
    made = tuple(workloads.make(name) for name in names or ("register",))
    plan = Plan(made, (), seed=3, seconds=seconds, calm=0.1, patience=more.pop("patience", 5.0), **more)
    scene = Scene(None, NODES, random.Random(3))  # type: ignore[arg-type]  # noqa: S311
    with History(tmp_path / "history.jsonl") as history:
        yield Trial(plan, scene, history, start)


def play(tmp_path: Path, system: Any, *names: str, **more: Any) -> Trial:
    for made in trial(tmp_path, lambda workload, who: ObjectInvoker(system), *names, **more):
        made.run()
    return made


def test_a_system_that_is_right_is_ok(tmp_path: Path) -> None:
    done = play(tmp_path, Store())
    assert {one.verdict for one in done.judgements} == {Verdict.OK}
    assert {one.workload for one in done.judgements} == {"register"}
    assert len(done.ops["register"]) > 50
    assert {op.node for op in done.ops["register"]} == set(NODES)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["what"] == "invoke" for line in lines) == len(done.ops["register"])


def test_a_system_that_answers_stale_is_illegal_with_the_operations_that_show_it(tmp_path: Path) -> None:
    done = play(tmp_path, Stale())
    bad = [one for one in done.judgements if one.verdict is Verdict.ILLEGAL]
    assert bad
    assert bad[0].why is not None
    assert 1 <= len(bad[0].why.operations) <= 4
    assert bad[0].why.offender.op == "read"
    assert bad[0].faults > 0


def test_what_nobody_knows_accuses_nobody(tmp_path: Path) -> None:
    done = play(tmp_path, Doubtful())
    assert {one.verdict for one in done.judgements} == {Verdict.OK}
    open_ended = [op for op in done.ops["register"] if op.outcome == UNKNOWN]
    assert open_ended
    names = [op.client for op in open_ended]
    assert len(set(names)) == len(names), "a client goes on under another name after what nobody knows"


def test_a_client_that_says_refused_of_what_was_done_is_seen(tmp_path: Path) -> None:
    done = play(tmp_path, Liar(), seconds=1.5)
    assert Verdict.ILLEGAL in {one.verdict for one in done.judgements}


def test_the_same_seed_asks_for_the_same(tmp_path: Path) -> None:
    asked = []
    for turn in (1, 2):
        (tmp_path / str(turn)).mkdir()
        done = play(tmp_path / str(turn), Store(), clients=1)
        own = [op for op in done.ops["register"] if op.client == "east/register/0"]
        asked.append([(op.op, op.key, op.value) for op in own[:20]])
    assert asked[0] == asked[1]


def test_a_system_that_never_answers_shows_nothing(tmp_path: Path) -> None:
    class Dead(Store):
        def do(self, asked: Invocation) -> Said:
            time.sleep(0.6)
            raise TimeoutError("no answer")

    with pytest.raises(LabError, match=r"the workload register could not begin"):
        play(tmp_path, Dead(), patience=1.5)


def test_an_answer_that_is_none_is_unknown_and_told(tmp_path: Path) -> None:
    class Rubbish(Store):
        def do(self, asked: Invocation) -> Any:
            return "yes"

    with pytest.raises(LabError, match=r"gave 'yes' instead of ok"):
        play(tmp_path, Rubbish(), patience=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", ""),
        ("if turn > 30: sys.exit('out of cheese')", r"out of cheese"),
        ("if turn > 30: sys.stderr.write('oh dear\\n'); print('hello')", r"oh dear"),
        ("if turn > 30 and op == 'read': answer['result'] = {'colour': 'red'}", r"'value'"),
        ("if turn == 30: answer['result'] = 'red'", r"not an answer"),
        ("if turn == 30: answer['ok'] = 'no'", r"not an answer"),
        ("if turn == 30: answer = '[' * 200_000; print(answer); continue", r"what is no answer"),
        ("answer['clock'] = 5", ""),
        (
            "if turn > 30: sys.stderr.write('zzz\\n'); sys.stderr.flush(); import time; time.sleep(60)",
            r"no answer.*zzz",
        ),
    ],
    ids=["right", "dies", "rubbish", "lies", "text", "ok is text", "deep", "other words", "hangs"],
)
def test_client_programs_of_all_sorts(tmp_path: Path, wrong: str, said: str) -> None:
    """One process is the whole system, so that it is right as long as it works."""
    script = tmp_path / "client.py"
    script.write_text(PROGRAM.replace("WRONG", wrong or "pass"))
    programs = LocalPrograms("a-test")
    opened: list[RemoteClient] = []

    def start(workload: Workload, who: Who) -> Invoker:
        if not opened:
            channel = programs.open("east", [sys.executable, str(script)], {})
            opened.append(RemoteClient(channel, "east"))
        return Kept(opened[0])

    class Kept(ProgramInvoker):
        def close(self) -> None:
            """It is closed below."""

    try:
        for made in trial(
            tmp_path, start, patience=5.0 if "sleep" in wrong else 1.5, timeout=0.3, seconds=0.3
        ):
            if said:
                with pytest.raises(LabError, match=f"(?s){said}"):
                    made.run()
            else:
                made.run()
        assert {one.verdict for one in made.judgements} <= {Verdict.OK, Verdict.UNKNOWN}
    finally:
        for client in opened:
            client.close(0.1)
        programs.end_all()


class Gives:
    """A client in Python that says ok to everything, and this."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def invoke(self, asked: Invocation) -> Said:
        return ok(self.value)


@pytest.mark.parametrize(
    ("op", "gives", "wrong"),
    [
        ("read", b"bytes", "is no JSON value"),
        ("read", object(), "is no JSON value"),
        ("cas", 1, "true or false"),
        ("cas", None, "true or false"),
        ("acquire", "7", "whole number"),
        ("list", None, "is a list"),
        ("list", [b"a"], "is no JSON value"),
        ("peers", None, "a list of names"),
        ("digest", [], "text by name"),
    ],
)
def test_a_python_client_that_gives_another_shape_has_said_nothing(op: str, gives: Any, wrong: str) -> None:
    """Neither does that fell a judge, nor is a right system accused by it."""
    told = ObjectInvoker(Gives(gives)).invoke(Invocation(op, "k", ["a", "b"]), 5.0)
    assert (told.outcome, told.result) == (UNKNOWN, None)
    assert f"the client's answer to {op} is none" in told.lie
    assert wrong in told.lie


@pytest.mark.parametrize(
    ("op", "gives", "result"),
    [
        ("read", ("a", 1), ["a", 1]),
        ("write", "OK", None),
        ("list", {"a"}, ["a"]),
        ("list", ("a", "b"), ["a", "b"]),
        ("acquire", None, None),
        ("peers", frozenset({"b", "a"}), ["a", "b"]),
    ],
)
def test_what_a_python_client_gives_is_kept_as_json(op: str, gives: Any, result: Any) -> None:
    told = ObjectInvoker(Gives(gives)).invoke(Invocation(op, "k"), 5.0)
    assert (told.outcome, told.result, told.lie) == (OK, result, "")


def test_a_list_that_grows_after_it_was_given_is_what_it_was(tmp_path: Path) -> None:
    class Own(Store):
        """Gives its own list away."""

        def do(self, asked: Invocation) -> Said:
            added = self.data.setdefault(asked.key, [])
            if asked.op == "list":
                return ok(added)
            added.append(asked.value)
            return ok()

    assert {one.verdict for one in play(tmp_path, Own(), "set").judgements} == {Verdict.OK}


@pytest.mark.parametrize("part", ["script", "closing"])
def test_a_workload_that_cannot_go_on_has_shown_nothing(tmp_path: Path, part: str) -> None:
    class Falls(Register):
        def script(self, who: Who, chance: random.Random) -> Script:
            yield from super().script(who, chance) if part == "closing" else iter(())
            raise ZeroDivisionError("of its own")

        def closing(self, who: Who) -> Script:
            yield from super().closing(who)
            if part == "closing":
                raise ZeroDivisionError("of its own")

    plan = Plan((Falls(),), (), seed=3, seconds=0.3, calm=0.1, patience=1.0)
    scene = Scene(None, NODES, random.Random(3))  # type: ignore[arg-type]  # noqa: S311
    system = Store()
    with (
        History(tmp_path / "history.jsonl") as history,
        pytest.raises(LabError, match="could not go on: ZeroDivisionError: of its own"),
    ):
        Trial(plan, scene, history, lambda workload, who: ObjectInvoker(system)).run()
