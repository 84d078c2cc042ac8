"""Log lines: valid JSON whatever is in them, never the secret; what comes by the thousand is counted."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from laila.errors import Busy, SelfPeer, Unreachable
from laila.events import Events
from laila.node import logs
from laila.node.watch import Watch

SECRET = "q7RzV1xk0aBcD-verySecretIndeed_93"  # noqa: S105 -- made up for this test


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What was logged; the logging of pytest itself comes back afterwards."""
    root, laila = logging.getLogger(), logging.getLogger("laila")
    before = (root.handlers[:], root.level, laila.level, logging.raiseExceptions)
    found = io.StringIO()
    logs.configure("info", "json", "n1", (SECRET,), found)
    yield found
    root.handlers[:], logging.raiseExceptions = before[0], before[3]
    root.setLevel(before[1])
    laila.setLevel(before[2])
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_one_json_object(stream: io.StringIO) -> None:
    """Line breaks, quotes and objects in a field do not break the line; long ones are cut."""
    logging.getLogger("laila.x").info("a\nb", extra={"text": 'q"\n', "thing": {1, 2}, "long": "x" * 9999})
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["node"], line["logger"]) == ("a\nb", "info", "n1", "laila.x")
    assert line["text"] == 'q"\n'
    assert len(line["long"]) == logs.MAX_FIELD + 1


def test_secret_is_struck_out_wherever_it_is(stream: io.StringIO) -> None:
    """In the event, in a field, in an exception."""
    log = logging.getLogger("laila.x")
    log.warning("it is %s", SECRET, extra={"field": f"<{SECRET}>"})
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.exception("failed")
    assert SECRET not in stream.getvalue()
    assert lines(stream)[0]["field"] == "<[secret]>"
    assert lines(stream)[1]["error"] == "ValueError: [secret]"


def test_level_holds_for_laila_and_warnings_for_others(stream: io.StringIO) -> None:
    """Debug of laila and info of others are left out."""
    logging.getLogger("laila.x").debug("no")
    logging.getLogger("laila.x").info("yes")
    logging.getLogger("other").info("no")
    logging.getLogger("other").warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes", "yes"]


def test_thousand_refusals_are_one_line(stream: io.StringIO) -> None:
    """Refusals are counted by reason between two turns."""
    events = Events()
    watch = Watch(events)
    for number in range(1000):
        events.refused(f"10.0.0.1:{number}", "crowded", Busy("too many"))
    events.refused("10.0.0.1:1", "SelfPeer", SelfPeer("me"))
    watch.turn()
    watch.turn()
    (line,) = lines(stream)
    assert (line["event"], line["reason"], line["count"], line["address"]) == (
        "refused",
        "crowded",
        1000,
        "10.0.0.1:0",
    )


def test_dialer_that_fails_again_for_the_same_reason_is_silent(stream: io.StringIO) -> None:
    """Each reason is said once per address, until it changes."""
    events = Events()
    watch = Watch(events)
    for reason in ("refused", "refused", "no route", "no route", "refused"):
        events.dial_failed("n2:7400", Unreachable(reason))
    events.dial_failed("n1:7400", SelfPeer("this is me"))
    watch.turn()
    told = [(line["event"], line.get("error")) for line in lines(stream)]
    assert told == [
        ("cannot link yet", "refused"),
        ("cannot link yet", "no route"),
        ("cannot link yet", "refused"),
        ("that peer is this node", None),
    ]
