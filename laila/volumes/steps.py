"""The steps that one node carries out in a check: a table of words, each a small thing done to the volume.

A step is a table with `do` and what it needs; its answer is a table. What a volume may well refuse (a lock, a
link) is part of the answer, by the system's name for it; what must not fail raises. Every step that waits is
bounded by MAX_WAIT. Times are this node's CLOCK_MONOTONIC, which the conductor maps to its own. `begin` comes
first, `end` and `remove` last; in between everything happens in the directory of that one check.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BadValue
from ..mounts import mount_of
from ..pools.disk import reported
from ..version import VERSION
from . import holder, races
from .ground import Ground
from .locking import HOWS, MODES, refusal, take
from .verdict import Verdict, keep

MAX_WAIT = 5.0
"""Seconds that one step may wait or work; a conductor asks again when it wants more."""
MAX_START = 2.0
"""Seconds that the beginning of a race may lie ahead."""
HOLDER_START = 10.0
_PAUSE = 0.002
_MAX_TEXT = 1 << 16

Step = Mapping[str, Any]
Answer = dict[str, Any]


class Hands:
    """Carries out the steps of one check at a time. Not for several threads at once. Close it."""

    def __init__(self, *, roots: Sequence[Path] | None = None, may_keep: bool = True) -> None:
        self._roots = roots
        self._may_keep = may_keep
        self._ground: Ground | None = None
        self._held: dict[str, int] = {}
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def carry_out(self, step: Step) -> Answer:
        """Do one step. Raises BadValue for what is no step, StorageError when the volume fails, Denied."""
        action = STEPS.get(str(step.get("do")))
        if action is None:
            raise BadValue(f"`do` is one of {', '.join(STEPS)}, not {str(step.get('do'))[:80]!r}")
        with reported(
            f"carry out the step {step['do']!r} in {self._ground.path if self._ground else 'no volume'}"
        ):
            return action(self, step)

    @property
    def ground(self) -> Ground:
        if self._ground is None:
            raise BadValue("no check has begun here; the first step is `begin`")
        return self._ground

    @property
    def idle(self) -> bool:
        """Whether no check has begun, or its directory was removed again."""
        return self._ground is None

    def release(self) -> None:
        """Let go of every lock and holder."""
        for descriptor in self._held.values():
            with contextlib.suppress(OSError):  # such as ESTALE: then it is let go of already
                os.close(descriptor)
        self._held.clear()
        for process in self._holders.values():
            _end(process)
        self._holders.clear()

    def close(self) -> None:
        """Let go of everything, and remove the directory if this node still has it open."""
        self.release()
        ground, self._ground = self._ground, None
        if ground is not None:
            try:
                ground.remove()
            finally:
                ground.close()

    # ---- steps ----

    def hello(self, step: Step) -> Answer:
        """Who this is: kernel, process, clocks."""
        return {
            "boot": _read("/proc/sys/kernel/random/boot_id"),
            "space": str(Path("/proc/self/ns/pid").readlink()),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": os.geteuid(),
            "version": VERSION,
            "monotonic": time.monotonic(),
        }

    def time(self, step: Step) -> Answer:
        return {"monotonic": time.monotonic(), "time": time.time()}

    def begin(self, step: Step) -> Answer:
        """Make the directory of the check at `path`, or find it there. Answers the mount."""
        if self._ground is not None:
            raise BadValue("a check is under way here; `end` and `remove` come before another")
        path = _text(step, "path")
        self._ground = Ground(path, _text(step, "probe"), self._roots)
        return {"mount": mount_of(path).to_dict(), "device": os.fstat(self._ground.directory).st_dev}

    def end(self, step: Step) -> Answer:
        """Let go of every lock, so that nothing is open when the directory is removed."""
        self.release()
        return {}

    def remove(self, step: Step) -> Answer:
        """Remove the directory of the check; `begin` may come again."""
        self.close()
        return {}

    def clock(self, step: Step) -> Answer:
        """The time that the volume gives a file written now, beside this node's clock."""
        before = time.time()
        self.ground.write(_text(step, "file"), b"now")
        after = time.time()
        with os.fdopen(self.ground.open(_text(step, "file"), os.O_RDONLY), "rb") as file:
            return {"before": before, "after": after, "mtime": os.fstat(file.fileno()).st_mtime_ns / 1e9}

    def write(self, step: Step) -> Answer:
        self.ground.write(_text(step, "file"), _text(step, "text").encode())
        return {}

    def await_text(self, step: Step) -> Answer:
        """Read the file until it holds `text`, at most `wait` seconds. Answers whether, and what was read last."""
        wanted, until = _text(step, "text"), time.monotonic() + _seconds(step, "wait")
        started = time.monotonic()
        while True:
            try:
                seen = self.ground.read(_text(step, "file")).decode("utf-8", "replace")
            except FileNotFoundError:
                seen = None
            if seen == wanted or time.monotonic() >= until:
                return {"same": seen == wanted, "seen": seen, "seconds": time.monotonic() - started}
            time.sleep(_PAUSE)

    def lock(self, step: Step) -> Answer:
        """Take a lock and keep it until `unlock`. Answers `held`, or the `error` of a volume that cannot lock."""
        name, how, mode = _text(step, "file"), _choice(step, "how", HOWS), _choice(step, "mode", MODES)
        if name in self._held:
            raise BadValue(f"{name} is locked here already")
        started = time.monotonic()
        until = started + _seconds(step, "wait", 0.0)
        first = int(_seconds(step, "first", 0.0, most=1 << 20))
        descriptor = self.ground.open(name, os.O_RDWR | os.O_CREAT)
        error = None
        try:
            while not (held := take(descriptor, how, mode, first)):
                if time.monotonic() >= until:
                    break
                time.sleep(_PAUSE)
        except OSError as problem:
            held, error = False, refusal(problem)
        if held:
            self._held[name] = descriptor
        else:
            os.close(descriptor)
        return {"held": held, "error": error, "seconds": time.monotonic() - started}

    def unlock(self, step: Step) -> Answer:
        descriptor = self._held.pop(_text(step, "file"), None)
        if descriptor is not None:
            os.close(descriptor)  # nobody else has this open file, so this frees the lock of both kinds
        return {"had": descriptor is not None}

    def hold(self, step: Step) -> Answer:
        """A process of its own takes the lock. Answers `held`, or the `error`."""
        name, how = _text(step, "file"), _choice(step, "how", HOWS)
        if name in self._holders or name in self._held:
            raise BadValue(f"{name} is locked here already")  # to open and close it would free an fcntl lock
        os.close(self.ground.open(name, os.O_RDWR | os.O_CREAT))
        directory = self.ground.directory
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", holder.__file__, str(directory), name, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(directory,),
        )
        said = _first_line(process, HOLDER_START)
        if said == "held":
            self._holders[name] = process
            return {"held": True, "error": None, "pid": process.pid}
        _end(process)
        return {"held": False, "error": said or "no answer"}

    def kill(self, step: Step) -> Answer:
        """SIGKILL the holder, and wait until it is dead."""
        process = self._holders.pop(_text(step, "file"), None)
        if process is None:
            raise BadValue("no holder of that file was started here")
        _end(process)
        return {"monotonic": time.monotonic(), "code": process.returncode}

    def store(self, step: Step) -> Answer:
        """Under the lock: write `text` to `file` in place."""
        with self._locked(step):
            self.ground.write(_text(step, "file"), _text(step, "text").encode())
        return {}

    def recall(self, step: Step) -> Answer:
        """Under the lock: read `file`."""
        with self._locked(step):
            try:
                return {"text": self.ground.read(_text(step, "file")).decode("utf-8", "replace")}
            except FileNotFoundError:
                return {"text": None}

    def hammer(self, step: Step) -> Answer:
        """Take the lock again and again, and count under it. See `races.hammer`."""
        return races.hammer(
            self.ground,
            _choice(step, "how", HOWS),
            _text(step, "lock"),
            _text(step, "file"),
            races.Span(_start(step), _seconds(step, "seconds")),
        )

    def race(self, step: Step) -> Answer:
        """Try to be the one who makes a name, once in each round. See `races.race`."""
        return races.race(
            self.ground,
            _choice(step, "kind", races.KINDS),
            _text(step, "file"),
            races.Span(_start(step), _seconds(step, "seconds")),
            _seconds(step, "gap", most=1.0),
        )

    def publish(self, step: Step) -> Answer:
        """Rename a new version in. `seconds` above 0: version after version, for so long. See `races.publish`."""
        seconds = _seconds(step, "seconds", 0.0)
        version = int(_seconds(step, "version", most=1e12))
        return races.publish(self.ground, _text(step, "file"), version, races.Span(_start(step), seconds))

    def look(self, step: Step) -> Answer:
        """Open the file until it has at least `version`. See `races.look`."""
        version = int(_seconds(step, "version", most=1e12))
        return races.look(self.ground, _text(step, "file"), version, _seconds(step, "wait"))

    def watch(self, step: Step) -> Answer:
        """Open the file again and again, while others rename new versions in. See `races.watch`."""
        return races.watch(
            self.ground, _text(step, "file"), races.Span(_start(step), _seconds(step, "seconds"))
        )

    def keep(self, step: Step) -> Answer:
        """Keep a verdict on the volume at `path`."""
        if not self._may_keep:
            raise BadValue("no verdict is kept over peering; run `laila volume check` on a node itself")
        return {"at": str(keep(_text(step, "path"), Verdict.from_dict(step.get("verdict"))))}

    @contextlib.contextmanager
    def _locked(self, step: Step) -> Any:
        until = time.monotonic() + MAX_WAIT
        how = _choice(step, "how", HOWS)
        descriptor = self.ground.open(_text(step, "lock"), os.O_RDWR | os.O_CREAT)
        try:
            while not take(descriptor, how, "exclusive", 0):
                if time.monotonic() >= until:
                    raise TimeoutError(110, f"the lock was not free for {MAX_WAIT:g} s")
                time.sleep(_PAUSE)
            yield
        finally:
            os.close(descriptor)


STEPS: Mapping[str, Callable[[Hands, Step], Answer]] = {
    name: getattr(Hands, name)
    for name in (
        "hello", "time", "begin", "end", "remove", "clock", "write", "await_text", "lock", "unlock", "hold", "kill",
        "store", "recall", "hammer", "race", "publish", "look", "watch", "keep",
    )
}  # fmt: skip


def _text(step: Step, name: str) -> str:
    value = step.get(name)
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadValue(f"the step {step.get('do')!r} needs `{name}`, a text")
    return value


def _seconds(step: Step, name: str, default: float | None = None, *, most: float = MAX_WAIT) -> float:
    value = step.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value <= most
    ):
        raise BadValue(f"the step {step.get('do')!r} needs `{name}`, a number from 0 to {most:g}")
    return value


def _start(step: Step) -> float:
    """When a race begins, by this node's clock; now, when the step does not say."""
    now = time.monotonic()
    value = step.get("start", now)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= now + MAX_START:
        raise BadValue(f"`start` is a time of this node's monotonic clock, at most {MAX_START:g} s ahead")
    return max(float(value), now)


def _choice(step: Step, name: str, allowed: Sequence[str]) -> str:
    value = step.get(name)
    if value not in allowed:
        raise BadValue(f"the step {step.get('do')!r} needs `{name}`, one of {', '.join(allowed)}")
    return str(value)


def _read(path: str) -> str:
    with reported(f"read {path}"):
        return Path(path).read_text("ascii").strip()


def _first_line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """What it said within that time, else nothing."""
    import select  # only a holder needs it

    stdout = process.stdout
    if stdout is None or not select.select([stdout], [], [], seconds)[0]:
        return ""
    return stdout.readline(100).decode("ascii", "replace").strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
