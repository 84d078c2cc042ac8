"""What a person sees: a table on a terminal, a line per finished step elsewhere."""

from __future__ import annotations

import io

import pytest

from laila.lab.progress import Lines, Live, Progress, for_stream


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(shown: Progress) -> None:
    shown.plan({"one": "first step", "two": "second step"})
    shown.begin("one")
    shown.tell("one", "half way")
    shown.end("one", "ok", "6 of 6")
    shown.begin("two")
    shown.end("two", "failed", "it broke")
    shown.say("a line that stays")
    shown.close()


def test_lines_say_each_step_once_when_it_ends() -> None:
    stream = io.StringIO()
    drive(Lines(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "failed", "a"]
    assert lines[0].endswith("first step: 6 of 6")
    assert lines[1].endswith("second step: it broke")


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    shown = for_stream(stream, "the title")
    assert isinstance(shown, Live)
    drive(shown)
    for text in ("the title", "first step", "6 of 6", "it broke", "a line that stays"):
        assert text in stream.getvalue()


def test_ci_gets_lines_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert isinstance(for_stream(Terminal(), "title"), Lines)


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    drive(for_stream(stream, "title", quiet=True))
    assert stream.getvalue() == ""
