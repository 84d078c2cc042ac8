"""What is owed outlives its process, and is crossed out only when it was paid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from laila.errors import BadName
from laila.replication.hints import EVERYTHING, Debt, Hints

A, B = "a" * 32, "b" * 32
OWING = """
import sys
from laila.replication.hints import Hints
hints = Hints(sys.argv[1])
number = 0
while True:
    hints.owe("a" * 32, f"name-{number}")
    print(number, flush=True)
    number += 1
"""
PAYING = """
import sys, time
from laila.replication.hints import Hints
hints = Hints(sys.argv[1])
debts = hints.take("a" * 32)
hints.paid(debts[0])
print(debts[0].name, flush=True)
time.sleep(600)
"""


@pytest.fixture
def hints(tmp_path: Path) -> Hints:
    return Hints(tmp_path / "hints")


def test_what_is_owed_is_there_until_it_was_paid(hints: Hints) -> None:
    assert hints.owed() == {}
    assert hints.take(A) == []
    for name in ("plan", "list", "plan", "größe", "a.b~c"):
        hints.owe(A, name)
    hints.owe(B, "plan")
    assert hints.owed() == {A: ["a.b~c", "größe", "list", "plan"], B: ["plan"]}
    debts = hints.take(A, 2)
    assert [debt.name for debt in debts] == ["a.b~c", "größe"]
    assert hints.owed()[A] == ["a.b~c", "größe", "list", "plan"]
    for debt in debts:
        hints.paid(debt)
    hints.paid(debts[0])  # idempotent
    assert hints.owed() == {A: ["list", "plan"], B: ["plan"]}


def test_other_processes_see_it(hints: Hints) -> None:
    hints.owe(A, "plan")
    assert Hints(hints.directory).owed() == {A: ["plan"]}


def test_what_is_owed_anew_while_it_is_paid_stays(hints: Hints) -> None:
    """It may be for a version that came after the one that is just being put."""
    hints.owe(A, "plan")
    [debt] = hints.take(A)
    hints.owe(A, "plan")
    hints.paid(debt)
    assert hints.owed() == {A: ["plan"]}


def test_what_could_not_be_paid_is_taken_again(hints: Hints) -> None:
    hints.owe(A, "plan")
    [debt] = hints.take(A)
    hints.unpaid(debt)
    [again] = Hints(hints.directory).take(A)
    hints.paid(debt)  # whoever had it before cannot cross it out any more
    assert hints.owed() == {A: ["plan"]}
    hints.paid(again)
    assert hints.owed() == {}


def test_too_many_names_become_everything(tmp_path: Path) -> None:
    hints = Hints(tmp_path, most=10)
    for number in range(11):
        hints.owe(A, f"name-{number}")
    assert hints.owed() == {A: [EVERYTHING]}
    hints.owe(A, "more")
    assert os.listdir(tmp_path / A) == [EVERYTHING]  # noqa: PTH208  # names are wanted
    [debt] = hints.take(A)
    assert debt.everything
    hints.owe(A, "meanwhile")
    hints.paid(debt)
    assert hints.owed() == {A: ["meanwhile"]}


def test_everything_is_taken_with_the_names(hints: Hints) -> None:
    for number in range(5):
        hints.owe(A, f"name-{number}")
    hints.owe_everything(A)
    debts = hints.take(A, 2)
    assert len(debts) == 6
    for debt in debts:
        hints.paid(debt)
    assert hints.owed() == {}


def test_what_cannot_be_kept_is_owed_in_memory(tmp_path: Path) -> None:
    (tmp_path / "hints").write_text("a file where a directory is expected")
    hints = Hints(tmp_path / "hints")
    hints.owe(A, "plan")
    assert "ENOTDIR" in str(hints.trouble) or "EEXIST" in str(hints.trouble)
    (tmp_path / "hints").unlink()
    assert hints.owed() == {A: [EVERYTHING]}
    debts = hints.take(A)
    assert debts == [Debt(A, EVERYTHING, "")]
    assert hints.owed() == {}
    hints.unpaid(debts[0])
    assert hints.owed() == {A: [EVERYTHING]}


@pytest.mark.parametrize("name", ["../plan", "", ".all", "a/b", "x" * 121])
def test_names_cannot_leave_their_directory(hints: Hints, name: str) -> None:
    with pytest.raises(BadName):
        hints.owe(A, name)
    with pytest.raises(BadName):
        hints.owe(name, "plan")


def test_a_name_may_be_as_long_as_names_may_be(hints: Hints) -> None:
    hints.owe(A, "x" * 120)
    [debt] = hints.take(A)
    assert Hints(hints.directory).owed() == {A: ["x" * 120]}
    hints.paid(debt)
    assert hints.owed() == {}


def test_a_replica_that_is_no_member_any_more_is_forgotten(hints: Hints) -> None:
    hints.owe(A, "plan")
    hints.owe(B, "plan")
    hints.drop(A)
    assert hints.owed() == {B: ["plan"]}


def test_threads_that_owe_and_pay_at_the_same_time_lose_nothing(hints: Hints) -> None:
    """Every debt is paid after it was made, at least once."""
    clock = iter(range(10**9))
    made: dict[str, int] = {}
    paid: dict[str, int] = {}
    over = threading.Event()

    def owing() -> None:
        for turn in range(300):
            name = f"name-{turn % 7}"
            made[name] = next(clock)
            hints.owe(A, name)

    def paying() -> None:
        while not over.is_set() or hints.owed():
            for debt in hints.take(A, 3):
                paid[debt.name] = next(clock)
                hints.paid(debt)

    payer, ower = threading.Thread(target=paying), threading.Thread(target=owing)
    payer.start()
    ower.start()
    ower.join()
    over.set()
    payer.join()
    assert set(made) == set(paid)
    assert all(paid[name] > at for name, at in made.items())


def run(program: str, hints: Hints) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(hints.directory)], stdout=subprocess.PIPE, text=True
    )


def test_it_survives_a_kill(hints: Hints) -> None:
    said = -1
    for count in (1, 40, 200):
        with run(OWING, hints) as process:
            assert process.stdout is not None
            for _ in range(count):
                said = max(said, int(process.stdout.readline()))
            process.send_signal(signal.SIGKILL)
        assert {f"name-{number}" for number in range(said + 1)} <= set(hints.owed()[A])


def test_a_payer_that_is_killed_leaves_what_it_did_not_pay(hints: Hints) -> None:
    for number in range(10):
        hints.owe(A, f"name-{number}")
    with run(PAYING, hints) as process:
        assert process.stdout is not None
        paid = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    left = {f"name-{number}" for number in range(10)} - {paid}
    assert set(hints.owed()[A]) == left
    for debt in hints.take(A):
        hints.paid(debt)
    assert hints.owed() == {}
