"""Pages that tell people what to type, as a person without a terminal would follow them."""

from __future__ import annotations

import re
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "docs/deploy"


def commands(page: str, stage: str) -> str:
    """The shell of one section (`## STAGE`) of a page in docs/deploy, all its blocks together."""
    text = (DEPLOY / page).read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {re.escape(stage)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
