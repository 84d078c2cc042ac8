"""Files of a node are damaged beneath it: a bit flipped, the end cut off, an older version put back.

When the fault is healed the good bytes are put back, unless the file is not the damaged one any more, because the
system mended, replaced or removed it. How: `surgery`.
"""

from __future__ import annotations

import abc
import secrets
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from laila.errors import BadConfig
from laila.lab.drivers.base import Driver
from laila.lab.faults import surgery
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault
from laila.lab.faults.surgery import GONE, OTHER, Hurt

_FILES = "replica/*.maif"
_WATCHED = 64
"""Files of a node of which older versions are kept at once: those that were changed last will soon be changed again."""

_TRIES = 10


class Damage(NodeFault):
    """What they have in common."""

    options: ClassVar[Mapping[str, Option]] = {
        "files": Option(_FILES, "which files may be struck: a pattern below the node's state directory"),
        "count": Option(1, "how many of them on each node", "", 1, 10_000),
    }

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._hurt: list[Hurt] = []
        self._id = secrets.token_hex(4)
        self._became: dict[Hurt, str] = {}
        self._files = str(self.option("files"))
        if self._files.startswith("/") or ".." in self._files.split("/"):
            raise BadConfig(f"{spec}: files={self._files} is not below the state directory of a node")

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return ""

    @classmethod
    def hindrance_of(cls, driver: Driver, spec: FaultSpec) -> str:
        """See Fault.hindrance_of: without a replica there are none of the files that are usually struck."""
        topology = driver.topology
        if "files" in spec.options or any(node.replicas for node in topology.nodes):
            return ""
        return f"the nodes of {topology.name} serve no replicas; say which files: {cls.kind}:files=PATTERN"

    def inject(self) -> dict[str, Any]:
        """Choose files, keep them, make the damaged ones, and put these in their place."""
        self.remember(fault=self._id, nodes=list(self.nodes), hurt=[])
        for name in self.nodes:
            self._strike(name)
        return {}

    def _strike(self, name: str) -> None:
        there = [path for path, size in surgery.listed(self.scene.driver, name, self._files) if size]
        if not there:
            raise NoBite(f"{self.spec}: {name} has no file {self._files} that could be damaged")
        chosen = self.scene.chance.sample(there, min(len(there), self.option("count")))
        for number, path in enumerate(chosen):
            self._hurt_one(name, path, f"{surgery.KEPT}/{self._id}/{number}")

    def _hurt_one(self, name: str, path: str, kept: str, older: str = "") -> None:
        """Damage one file; again when somebody replaces it in between. Raises NoBite when it stays what it was."""
        for _ in range(_TRIES):
            size, good = surgery.keep(self.driver, name, path, kept)
            bad, what = self._spoil(name, kept, size, older)
            hurt = Hurt(name, path, kept, good, bad, what)
            self._hurt.append(hurt)
            self.remember(hurt=[one.to_list() for one in self._hurt])
            became = surgery.harm(self.driver, hurt)
            if good != bad and became == bad:
                return
            self._hurt.pop()
        now = "is the same as before" if good == bad else "was replaced at that very moment"
        raise NoBite(f"{self.spec}: {path} of {name} {now}, {_TRIES} times")

    @abc.abstractmethod
    def _spoil(self, name: str, kept: str, size: int, older: str) -> tuple[str, str]:
        """Make the bad bytes beside the good ones; their digest, and what is wrong with them."""

    def prove(self) -> str:
        """What became of each file, and whether it is still so. That it had changed was seen when it was done."""
        if not self._hurt:
            raise NoBite(f"{self.spec}: no file of {', '.join(self.nodes)} was touched")
        return "; ".join(self._now(hurt) for hurt in self._hurt)

    def _now(self, hurt: Hurt) -> str:
        now = surgery.digests(self.driver, hurt.node, [hurt.path])[0]
        since = "" if now == hurt.bad else ", removed since" if now == GONE else ", replaced since"
        return f"{hurt.path} of {hurt.node}: {hurt.what}, {hurt.good[:8]} became {hurt.bad[:8]}{since}"

    def heal(self) -> None:
        """Put the good bytes back where the bad ones still are."""
        for hurt in self._hurt:
            became = surgery.mend(self.driver, hurt)
            self._became.setdefault(hurt, became)
        for name in self.nodes:
            surgery.forget(self.driver, name, self._id)

    def prove_healed(self) -> str:
        """No file has the bad bytes."""
        found = []
        for name in self.nodes:
            own = self._id if self._hurt else ""
            bad = surgery.still_bad(self.driver, name, own)
            mine = [hurt for hurt in self._hurt if hurt.node == name]
            now = surgery.digests(self.driver, name, [hurt.path for hurt in mine]) if mine else []
            bad += [hurt.path for hurt, digest in zip(mine, now, strict=True) if digest == hurt.bad]
            if bad:
                raise NotHealed(f"{self.spec}: {', '.join(sorted(set(bad)))} of {name}: still damaged")
            surgery.forget(self.driver, name, self._id)  # which cannot be done while a node is down
            found += [f"{hurt.path} of {name} {self._how(hurt)}" for hurt in mine]
            found += [] if mine else [f"{name} has 0 damaged files"]
        return "; ".join(found)

    def _how(self, hurt: Hurt) -> str:
        words = {GONE: "was removed by the system", OTHER: "was replaced by the system"}
        return words.get(self._became.get(hurt, OTHER), f"is {hurt.good[:8]} again")

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        for record in facts.get("hurt", ()):
            surgery.mend(driver, Hurt(*record))
        for name in facts.get("nodes", ()):
            surgery.forget(driver, name, facts["fault"])


class Flip(Damage):
    """One bit is another one than was written."""

    kind: ClassVar[str] = "flip"
    summary: ClassVar[str] = "a bit of a node's file is flipped"

    def _spoil(self, name: str, kept: str, size: int, older: str) -> tuple[str, str]:
        at, bit = self.scene.chance.randrange(size), self.scene.chance.randrange(8)
        bad = surgery.flip(self.driver, name, kept, at, 1 << bit)
        return bad, f"bit {bit} of byte {at} of {size} flipped"


class Truncate(Damage):
    """The end of a file is missing."""

    kind: ClassVar[str] = "truncate"
    summary: ClassVar[str] = "the end of a node's file is cut off"

    def _spoil(self, name: str, kept: str, size: int, older: str) -> tuple[str, str]:
        left = self.scene.chance.randrange(size)
        return surgery.cut(self.driver, name, kept, left), f"cut from {size} bytes to {left}"


class Rollback(Damage):
    """A file is what it was some time ago."""

    kind: ClassVar[str] = "rollback"
    summary: ClassVar[str] = "an older version of a node's file is put back"
    options: ClassVar[Mapping[str, Option]] = {
        **Damage.options,
        "after": Option(1.0, "how old the version is at least", "s", 0.0, 3600),
    }

    def _strike(self, name: str) -> None:
        """Copies are made now; those go back whose files have changed after that time."""
        watched = sorted(surgery.newest(self.driver, name, self._files, _WATCHED))
        old = f"{surgery.KEPT}/{self._id}/old"
        began = time.monotonic()
        were = surgery.copies(self.driver, name, watched, old) if watched else []
        time.sleep(self.option("after"))
        changed: list[int] = []

        def enough() -> bool:
            now = surgery.digests(self.driver, name, watched) if watched else []
            pairs = enumerate(zip(were, now, strict=True))
            changed[:] = [n for n, (was, is_) in pairs if GONE not in (was, is_) and was != is_]
            return len(changed) >= int(self.option("count"))

        self.until(
            enough,
            NoBite,
            f"{self.option('count')} of the {len(watched)} files {self._files} of {name} to change",
        )
        for number in self.scene.chance.sample(changed, self.option("count")):
            self._age = time.monotonic() - began
            self._hurt_one(name, watched[number], f"{surgery.KEPT}/{self._id}/{number}", f"{old}/{number}")

    _age = 0.0

    def _spoil(self, name: str, kept: str, size: int, older: str) -> tuple[str, str]:
        return surgery.age(self.driver, name, kept, older), f"put back as it was {self._age:.1f} s before"
