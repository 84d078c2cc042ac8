"""What a worker does to files, and that it does nothing outside the volume."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.lab.worker import program
from laila.lab.worker.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def ask(bench: Bench, op: str, **words: Any) -> Any:
    answer = program.answer(bench, {"id": 1, "op": op, **words})
    assert answer["ok"], answer
    assert answer["clock"][0] <= answer["clock"][1]
    return answer["result"]


def refusal(bench: Bench, op: str, **words: Any) -> str:
    answer = program.answer(bench, {"id": 1, "op": op, **words})
    assert not answer["ok"], answer
    return f"{answer['error']['code']}: {answer['error']['message']}"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_it_stays_inside_the_volume(bench: Bench, path: object) -> None:
    for op in ("look", "flip", "cut", "remove", "scribble", "names"):
        assert "not inside the volume" in refusal(bench, op, path=path, at=0, size=0)
    (bench.volume / "file").write_bytes(b"x")
    assert "not inside the volume" in refusal(bench, "copy", path="file", to="../other")


def test_a_flipped_bit_is_one_bit_and_comes_back(bench: Bench) -> None:
    file = bench.volume / "file"
    file.write_bytes(bytes(range(10)))
    ask(bench, "flip", path="file", at=3, bit=7)
    assert file.read_bytes()[3] == 3 | 128
    ask(bench, "flip", path="file", at=-7, bit=7)
    assert file.read_bytes() == bytes(range(10))
    for at in (10, -11):
        assert "not in a file of 10 bytes" in refusal(bench, "flip", path="file", at=at)


def test_looking_cutting_copying_and_removing(bench: Bench) -> None:
    (bench.volume / "file").write_bytes(b"whole")
    told = {"size": 5, "digest": hashlib.sha256(b"whole").hexdigest()}
    assert ask(bench, "look", path="file") == told
    assert ask(bench, "copy", path="file", to="kept/copy") == told
    assert ask(bench, "cut", path="file", size=2)["size"] == 2
    assert ask(bench, "copy", path="kept/copy", to="file") == told
    assert ask(bench, "names", path="kept") == {"names": ["copy"]}
    ask(bench, "remove", path="file")
    assert ask(bench, "look", path="file") == {"size": None, "digest": ""}
    assert ask(bench, "names", path="nowhere") == {"names": []}


def test_filling_stops_at_its_own_bound(bench: Bench) -> None:
    told = ask(bench, "fill", path="ballast", most=3_000_000)
    assert (told["written"], told["stopped"]) == (3_000_000, "")
    assert (bench.volume / "ballast").stat().st_size == 3_000_000
    assert 0 < told["free"] <= told["total"]


def test_filling_stops_when_there_is_no_space(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal, wherever it comes: here from the limit on the size of a file."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_001, before[1]))
    try:
        told = ask(bench, "fill", path="ballast", most=1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, kept)
    assert (told["written"], told["stopped"]) == (1_500_001, errno.errorcode[errno.EFBIG])


def test_it_answers_every_line_in_order_and_ends_with_its_input(tmp_path: Path) -> None:
    lines = [
        "rubbish",
        json.dumps({"id": 1, "op": "hello"}),
        json.dumps({"id": 2, "op": "space", "timeout": 0}),
    ]
    out = io.StringIO()
    assert program.run(str(tmp_path), streams=(io.StringIO("\n".join(lines) + "\n"), out)) == 0
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(answer["id"], answer["ok"]) for answer in answers] == [(None, False), (1, True), (2, False)]


def test_a_volume_that_is_not_there_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(str(tmp_path / "nowhere"), streams=(io.StringIO(), io.StringIO())) == 2
    assert "no directory" in capsys.readouterr().err


def test_it_kills_nothing_but_workers(bench: Bench) -> None:
    with subprocess.Popen(["sleep", "30"]) as other:
        assert "no worker of the lab" in refusal(bench, "kill", pid=other.pid)
        assert other.poll() is None
        other.kill()
