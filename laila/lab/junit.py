"""junit.xml: what CI systems read. One case for each step, one for each judgement, and one for the verdict.

The verdict has a case of its own because only it says that everything was shown: steps that were skipped are no
failures for a reader of these files, and a run in which all of them were skipped has shown nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from laila.lab.result import Result, Verdict

FILE = "junit.xml"
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STATES: Mapping[str, str] = {"failed": "failure", "illegal": "failure", "error": "error", "unknown": "error"}
"""How a step, a judgement or a run can have ended badly, and the element that says so."""


@dataclass(frozen=True, slots=True)
class Case:
    """One test case. `bad` is failure, error, skipped, or empty."""

    group: str
    name: str
    bad: str
    text: str = ""
    more: Sequence[str] = ()
    seconds: float = 0.0


def write(result: Result, folder: Path) -> None:
    """Beside the report."""
    (folder / FILE).write_bytes(render(result))


def render(result: Result) -> bytes:
    """The file, in UTF-8. Names are the same in every run of the same steps."""
    cases = [*_steps(result), *_judgements(result.facts), _verdict(result)]
    root = xml.Element("testsuites", {"name": "laila lab"})
    suite = xml.SubElement(root, "testsuite", _attributes(result, cases))
    properties = xml.SubElement(suite, "properties")
    for name, value in _properties(result).items():
        xml.SubElement(properties, "property", {"name": name, "value": clean(value)})
    for case in cases:
        _add(suite, f"laila.lab.{result.topology}", case)
    if result.left_behind:
        xml.SubElement(suite, "system-err").text = clean("left behind: " + ", ".join(result.left_behind))
    xml.indent(root)
    written: bytes = xml.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def clean(text: str) -> str:
    """Without the characters that XML cannot have."""
    return _NOT_XML.sub("\ufffd", text)


def _attributes(result: Result, cases: Sequence[Case]) -> dict[str, str]:
    counts = Counter(case.bad for case in cases)
    return {
        "name": f"laila lab, {result.topology}",
        "tests": str(len(cases)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
        "time": f"{result.seconds:.3f}",
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(result.started)),
    }


def _properties(result: Result) -> dict[str, str]:
    return {
        "verdict": result.verdict.value,
        "run": result.run_id,
        "seed": str(result.seed),
        "driver": result.driver,
        "nodes": ", ".join(result.nodes),
        "command": result.command,
    }


def _steps(result: Result) -> Iterator[Case]:
    for step in result.steps:
        bad = "skipped" if step.state == "skipped" else _STATES.get(step.state, "")
        yield Case("steps", step.title, bad, step.detail, step.evidence, step.seconds)


def _judgements(facts: Mapping[str, Any]) -> Iterator[Case]:
    for one in facts.get("judgements", ()):
        why, judged = one.get("why"), f"{one['operations']} operations judged"
        text = f"{why['kind']}: {why['text']}" if why else one.get("reason") or judged
        name = " ".join(filter(None, (one["check"], str(one["name"]))))
        group = ".".join(filter(None, ("judgements", one.get("workload"))))
        more = (f"{judged}, {one['faults']} contradictions",) if why else ()
        yield Case(group, name, _STATES.get(one["verdict"], ""), text, more)


def _verdict(result: Result) -> Case:
    bad = "" if result.verdict is Verdict.OK else _STATES[result.verdict.value]
    return Case("run", "verdict", bad, result.sentence, (result.command,), result.seconds)


def _add(suite: xml.Element, prefix: str, case: Case) -> None:
    name = clean(case.name)
    fields = {"classname": f"{prefix}.{case.group}", "name": name, "time": f"{case.seconds:.3f}"}
    element = xml.SubElement(suite, "testcase", fields)
    if case.bad == "skipped":
        xml.SubElement(element, "skipped", {"message": clean(case.text)})
    elif case.bad:
        found = xml.SubElement(element, case.bad, {"message": clean(case.text), "type": case.bad})
        found.text = clean("\n".join((case.text, *case.more)))
    elif case.text:
        xml.SubElement(element, "system-out").text = clean(case.text)
