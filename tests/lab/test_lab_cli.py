"""Options of `laila lab` that mean nothing are refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from laila.cli.main import main
from laila.lab.checkers.operations import short


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clients", "0"), "--clients takes a number of 1 or more, not 0"),
        (("--time", "-5"), "--time takes seconds of 0 or more, not -5"),
        (("--time", "nan"), "--time takes seconds of 0 or more, not nan"),
        (("--time", "inf"), "--time takes seconds of 0 or more, not inf"),
        (("--faults", ""), "--faults names none; to break nothing write --faults none"),
        (("--faults", ","), "--faults names none; to break nothing write --faults none"),
    ],
)
def test_a_trial_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    nowhere = tmp_path / "file"  # should it be begun all the same, it ends here
    nowhere.touch()
    assert main(["lab", "check", "--driver", "process", "--out", str(nowhere), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inject", "pause", "--for", "nan"), "--for takes seconds above 0, not nan"),
        (("heal", "--after", "nan"), "--after takes seconds from 0 to 86400, not nan"),
        (("heal", "--after", "inf"), "--after takes seconds from 0 to 86400, not inf"),
        (("heal", "--after=-1"), "--after takes seconds from 0 to 86400, not -1"),
    ],
)
def test_times_that_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(["lab", "fault", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_value_that_cannot_be_shown_is_told_in_characters_that_can() -> None:
    assert (short("plain ✔"), short("\ud800\x1b[2J")) == ("plain ✔", r"'\ud800\x1b[2J'")
