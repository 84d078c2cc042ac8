"""The service `replica/NAME`: what a node answers to peers about a replica that it serves.

Rules
- A word from a peer is believed when it has been checked; what cannot be is refused in words, and nothing happens.
- A version is verified here before the replica is given it, whoever sent it.
- Answers are bounded: what is long is asked for page by page, what is large in pieces. Looks at bytes at rest take
  turns of a moment each, so that they keep no thread from those who wait for a version.
"""

from __future__ import annotations

import bisect
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..artifacts import TrustSet
from ..artifacts.vouchers import Pair, digest, packed, unpacked
from ..codec import Buffer
from ..errors import ArtifactCorrupt, BadValue, Busy, Closed, LimitExceeded, StorageError
from ..shared.trouble import told
from ..wire.messages import Answer
from .copies import CHUNK, Copy
from .replica import Replica
from .tags import Stand
from .transfer import IDLE, Scrub, UnderWay, Upload, Who, check_size
from .words import (
    LISTED,
    MARK,
    PAGE,
    TEXT,
    WEIGHT,
    Words,
    of_branch,
    of_found,
    of_health,
    of_stamp,
    same_file,
    weight,
)

HUNG = 10.0
"""Seconds after which a call counts as one that hangs on a dead disk."""
MAY_HANG = 12
"""Calls that may hang; from there on others are refused at once, and the node keeps threads for its other services."""
LOOKS = 2
"""Peers whose looks at bytes at rest go on at the same time."""


class Asker(Protocol):
    """Who asks, as services are told."""

    @property
    def node_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def origin(self) -> tuple[str, str] | None: ...


@dataclass(slots=True)
class Counts:
    """What has been done for peers since the node started."""

    questions: int = 0
    puts: int = 0
    """Versions that came and were verified, whether they were newer or not."""
    fetches: int = 0
    bytes_taken: int = 0
    bytes_served: int = 0
    refusals: int = 0
    """Questions that ended in an error."""
    last_error: str = ""
    last_error_at: float | None = None
    """Seconds of the epoch."""


class ReplicaService:
    """The handler to offer as `replica/NAME`. Close it before the replica, which stays its owner's.

    `trust`: whom the replica believes. `alive`: whether a peer is connected, so that what it left is dropped early.
    """

    def __init__(
        self,
        replica: Replica,
        trust: TrustSet,
        *,
        idle: float = IDLE,
        alive: Callable[[str], bool] = lambda peer: True,
    ) -> None:
        self.replica = replica
        self.counts = Counts()
        self._trust = trust
        self._book: tuple[list[Pair] | None, str] = (None, "")
        self._counting = threading.Lock()
        self._inside: dict[int, float] = {}
        self._looks = threading.BoundedSemaphore(LOOKS)
        self._uploads = UnderWay[Upload]("copies that come", Upload.end, idle=idle, alive=alive)
        self.taken: Callable[[str], None] = lambda name: None
        """Told the name of each version that was taken."""
        self._loans = UnderWay[Copy]("copies that go", Copy.close, idle=idle, alive=alive)
        self._scrubs = UnderWay[Scrub]("scrubs", Scrub.end, idle=idle, alive=alive)
        self._handlers: dict[str, Callable[[Who, Words, Sequence[Buffer]], Mapping[str, Any] | Answer]] = {
            "stamp": self._stamp,
            "mark": self._mark,
            "membership": self._membership,
            "learn": self._learn,
            "vouchers": self._vouchers,
            "vouch": self._vouch,
            "ballot": self._ballot,
            "cast": self._cast,
            "look": self._look,
            "fetch": self._fetch,
            "read": self._read,
            "return": self._return,
            "put": self._put,
            "begin": self._begin,
            "piece": self._piece,
            "end": self._end,
            "drop": self._drop,
            "branches": self._branches,
            "names": self._names,
            "quarantined": self._quarantined,
            "check": self._check,
            "scrub": self._scrub,
            "distrust": self._distrust,
            "settle": self._settle,
        }

    @property
    def under_way(self) -> int:
        """Copies and scrubs that peers have begun and not ended."""
        return len(self._uploads) + len(self._loans) + len(self._scrubs)

    def __call__(
        self, asker: Asker, words: dict[str, Any], buffers: Sequence[Buffer] = ()
    ) -> Mapping[str, Any] | Answer:
        """Answer one question. Raises BadValue for one that makes no sense, and what the replica raises."""
        with self._counted():
            question = Words(words, "the question to this replica", BadValue)
            handler = self._handlers.get(question.text("do", 32))
            if handler is None:
                raise BadValue(
                    f"a replica is not asked to {words['do']!r}; it knows {', '.join(self._handlers)}"
                )
            if len(buffers) != (words["do"] in ("put", "piece")):
                raise BadValue(
                    f"{len(buffers)} buffers came with {words['do']!r}; one goes with put and with piece"
                )
            return handler(_who(asker), question, buffers)

    def close(self) -> None:
        """Drop what is under way. Idempotent."""
        self._uploads.close()
        self._loans.close()
        self._scrubs.close()

    # ---- identity and membership ----

    def _stamp(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return {"stamp": of_stamp(self.replica.stamp()), "vouchers": self._digest()}

    def _mark(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return {"done": self.replica.mark(words.stamp(), words.perhaps_stamp("before"))}

    def _membership(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return {"document": self.replica.membership()}

    def _learn(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        self.replica.learn(words.data("document"))
        return {}

    def _ballot(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return {"state": self.replica.ballot()}

    def _cast(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return {"cast": self.replica.cast(words.perhaps_data("before"), words.data("after"))}

    # ---- who is believed ----

    def _digest(self) -> str:
        """Of the vouchers that are here. A replica gives the same list as long as they are the same."""
        found = self.replica.vouchers()
        if found is not self._book[0]:
            self._book = found, digest(found)
        return self._book[1]

    def _vouchers(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        found, at = self.replica.vouchers(), words.number("at")
        return {"vouchers": packed(found[at : at + PAGE]), "more": at + PAGE < len(found)}

    def _vouch(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        self.replica.vouch(unpacked(words.data("vouchers")))
        return {}

    # ---- versions ----

    def _look(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        found = self.replica.look(words.names(), words.number())
        return {"found": [of_found(one) for one in found]}

    def _fetch(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> Answer:
        copy = self.replica.fetch(words.name(), words.number())
        if copy is None:
            return Answer({"stand": None})
        with contextlib.ExitStack() as undo:
            undo.callback(copy.close)
            answer: dict[str, Any] = {"stand": copy.stand.words()}
            first = self._sent(copy, 0, min(copy.size, CHUNK))
            if copy.size > CHUNK:
                answer["loan"] = self._loans.begin(who, copy, copy.size)
                undo.pop_all()  # it is lent, and is closed when it comes back
            self._note(fetches=1)
            return Answer(answer, [first])

    def _read(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> Answer:
        at, count = words.number("at"), words.number("count")
        if not 0 < count <= CHUNK:
            raise BadValue(f"a piece has from 1 to {CHUNK} bytes, not {count}")
        with self._loans.use(who, words.text("loan")) as copy:
            if at + count > copy.size:
                raise BadValue(f"a piece of {count} bytes from {at} on lies outside of {copy.size} bytes")
            return Answer({}, [self._sent(copy, at, count)])

    def _return(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        number, token = words.number(), words.text("loan")
        with self._loans.use(who, token) as copy:
            # The pieces took their time: what was asked under an older membership does not count in the end.
            self.replica.look([copy.name], number)
        self._loans.drop(who, token)
        return {}

    def _put(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        name, number, stand = words.name(), words.number(), words.some_stand()
        data = memoryview(buffers[0])
        if data.nbytes > CHUNK:
            raise LimitExceeded(
                f"{data.nbytes} bytes in one put; above {CHUNK} they come in pieces, after `begin`",
                limit="CHUNK",
                allowed=CHUNK,
                got=data.nbytes,
            )
        with Copy.of_bytes(name, data, self._trust) as copy:
            return self._given(copy, stand, number, came=copy.size)

    def _begin(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        name, stand = words.name(), words.some_stand()
        check_size(stand.size)
        there = self.replica.look([name], words.number())[0]
        if isinstance(there, Stand) and there.tag >= stand.tag:
            return {"stand": there.words()}
        upload = Upload(self.replica, name, stand)
        try:
            return {"upload": self._uploads.begin(who, upload, stand.size)}
        except BaseException:
            upload.end()
            raise

    def _piece(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        at, piece = words.number("at"), memoryview(buffers[0])
        if not 0 < piece.nbytes <= CHUNK:
            raise BadValue(f"a piece has from 1 to {CHUNK} bytes, not {piece.nbytes}")
        with self._uploads.use(who, words.text("upload")) as upload:
            upload.write(at, piece)
        self._note(bytes_taken=piece.nbytes)
        return {}

    def _end(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        number = words.number()
        upload = self._uploads.take(who, words.text("upload"))
        with upload.arrival.seal(self._trust) as copy:
            return self._given(copy, upload.stand, number, came=0)

    def _drop(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        token = words.text("token")
        self._uploads.drop(who, token)
        self._loans.drop(who, token)
        self._scrubs.drop(who, token)
        return {}

    def _given(self, copy: Copy, announced: Stand, number: int, *, came: int) -> dict[str, Any]:
        if not same_file(copy.stand, announced):
            raise ArtifactCorrupt(
                f"version {announced.tag} of {copy.name!r} was announced, and {copy.stand.tag} came",
                path=copy.name,
            )
        there = self.replica.put(copy, number)
        self._note(puts=1, bytes_taken=came)
        if there.tag == announced.tag:
            self.taken(copy.name)
        return {"stand": there.words()}

    # ---- care ----

    def _branches(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        found: list[list[Any]] = []
        weighs = 0
        for branch in self.replica.branches(words.prefixes()):
            weighs += weight(branch)
            if found and weighs > WEIGHT:
                break
            found.append(of_branch(branch))
        return {"branches": found}

    def _names(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        listing = self.replica.names(words.number())
        unsure = set(listing.unsure)
        page = _page(sorted([*listing.live, *unsure]), words)
        return {
            "names": [name for name in page["names"] if name not in unsure],
            "unsure": [name for name in page["names"] if name in unsure],
            "more": page["more"],
        }

    def _quarantined(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        return _page(self.replica.quarantined(), words)

    def _check(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        name, number = words.name(), words.number()
        with self._looking():
            return {"health": of_health(self.replica.check(name, number))}

    def _scrub(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        if "run" not in words:
            return {"run": self._scrubs.begin(who, Scrub(self.replica.scrub()))}
        token = words.text("run")
        with self._looking(), self._scrubs.use(who, token) as scrub:
            healths, done = scrub.turn()
        if done:
            self._scrubs.drop(who, token)
        return {"healths": [[name, *of_health(health)] for name, health in healths], "done": done}

    def _distrust(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        self.replica.distrust(words.name(), words.text("reason"))
        return {}

    def _settle(self, who: Who, words: Words, buffers: Sequence[Buffer]) -> dict[str, Any]:
        self.replica.settle(words.name(), words.tag(), words.text("mark", MARK))
        return {}

    # ---- inside ----

    @contextlib.contextmanager
    def _looking(self) -> Iterator[None]:
        if not self._looks.acquire(blocking=False):
            raise Busy(f"{LOOKS} looks at bytes at rest are under way here; ask again in a moment")
        try:
            yield
        finally:
            self._looks.release()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        now, thread = time.monotonic(), threading.get_ident()
        try:
            with self._counting:
                hanging = sum(now - since > HUNG for since in self._inside.values())
                self._inside[thread] = now
            if hanging >= MAY_HANG:
                raise StorageError(
                    f"the disk of this replica does not answer: {hanging} calls have been waiting for it for more than "
                    f"{HUNG:g} s; see to it",
                    reason="ETIMEDOUT",
                )
            with told("serve this replica"):
                yield
        except Exception as error:
            with self._counting:
                self.counts.questions += 1
                self.counts.refusals += 1
                self.counts.last_error = f"{type(error).__name__}: {error}"[:TEXT]
                self.counts.last_error_at = time.time()
            raise
        finally:
            with self._counting:
                del self._inside[thread]
        self._note(questions=1)

    def _note(
        self, questions: int = 0, puts: int = 0, fetches: int = 0, bytes_taken: int = 0, bytes_served: int = 0
    ) -> None:
        with self._counting:
            counts = self.counts
            counts.questions += questions
            counts.puts += puts
            counts.fetches += fetches
            counts.bytes_taken += bytes_taken
            counts.bytes_served += bytes_served

    def _sent(self, copy: Copy, at: int, count: int) -> Buffer:
        data = copy.read(at, count)
        if len(data) != count:
            raise Closed(f"the file of {copy.name!r} was cut while it was read; begin again")
        self._note(bytes_served=count)
        return data


def _who(asker: Asker) -> Who:
    return (asker.node_id, asker.origin[0] if asker.origin is not None else "")


def _page(names: Sequence[str], words: Words) -> dict[str, Any]:
    """Those after the name `after`, as many as one answer holds."""
    start = bisect.bisect_right(names, words.text("after"))
    page = names[start : start + LISTED]
    return {"names": page, "more": start + len(page) < len(names)}
