"""What a run left: `laila lab recheck` judges its history again, `laila lab report` draws its page again."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from laila.errors import BadConfig
from laila.lab.cli import common


def add(subs: Any) -> None:
    recheck = common.add(
        subs,
        "recheck",
        _recheck,
        "judge the history of a run again",
        "  laila lab recheck lab-runs/RUN\n  laila lab recheck lab-runs/RUN --write --json",
    )
    recheck.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    recheck.add_argument(
        "--write", action="store_true", help="write the new verdicts into report and junit.xml"
    )
    common.add_json(recheck)
    report = common.add(
        subs,
        "report",
        _report,
        "draw the report of a run again, from what it left",
        "  laila lab report lab-runs/RUN\n  laila lab report lab-runs/RUN --out report.html",
    )
    report.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    report.add_argument("--out", metavar="FILE", help="where to (default: report.html in the folder)")
    common.add_json(report)


def _folder(options: argparse.Namespace) -> Path:
    path = Path(options.folder)
    if not (path / "history.jsonl").is_file():
        raise BadConfig(f"{path} is no folder of a run: it has no history.jsonl")
    return path


def _recheck(options: argparse.Namespace) -> int:
    from laila.lab.recheck import recheck

    found = recheck(_folder(options), write=options.write)
    if options.json:
        told = {
            "verdict": found.verdict.value,
            "same": found.same,
            "judgements": [one.to_dict() for one in found.judgements],
        }
        print(json.dumps(told))
    else:
        print(found.text)
    return {"ok": 0, "illegal": 1, "failed": 1}.get(found.verdict.value, 2)


def _report(options: argparse.Namespace) -> int:
    from laila.lab.report import from_folder

    folder = _folder(options)
    out = Path(options.out) if options.out else folder / "report.html"
    try:
        out.write_text(from_folder(folder), encoding="utf-8")
    except OSError as error:
        raise BadConfig(f"cannot write {out}: {error.strerror}; choose another with --out") from error
    print(json.dumps({"report": str(out)}) if options.json else f"report: {out}")
    return 0
