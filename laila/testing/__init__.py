"""For tests of your own system: nodes, faults and judges of `laila lab` in pytest.

    import pytest
    from laila.testing import fail, ok, unknown

    @pytest.mark.lab("app.toml")                 # your compose file, or a topology of laila's own
    @pytest.mark.faults("partition,pause", time=20)
    def test_it_answers_as_one(lab):
        lab.run("register", client=MyClient).check()

`MyClient(node)` has `invoke(op)`, which gives `ok(value)`, `fail(reason)` or `unknown(reason)`. docs/testing.md has the
whole story.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from laila.lab.trials.invoking import Said, fail, ok, unknown
    from laila.lab.workloads.base import Invocation
    from laila.testing.lab import Lab
    from laila.testing.node import Node
    from laila.testing.ran import Ran

__all__ = ["Invocation", "Lab", "Node", "Ran", "Said", "fail", "ok", "unknown"]

_WHERE = {
    "Invocation": "laila.lab.workloads.base",
    "Lab": "laila.testing.lab",
    "Node": "laila.testing.node",
    "Ran": "laila.testing.ran",
}


def __getattr__(name: str) -> Any:
    """Imported when asked for: pytest imports this package in every run of everybody who has laila."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE.get(name, "laila.lab.trials.invoking")), name)
