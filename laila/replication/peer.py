"""A replica on another node, asked over a link: `laila://NODE/STORE`.

Rules
- The other side is never believed: what it says is checked when it is read (`words`), what it sends is verified by this
  side's trust set, and an acknowledgement must be for what was sent, or for something newer.
- What it raises is raised here by class; what belongs to the way there (no such peer, a lost link, no such service)
  names the replica and says what to do.
- Large copies travel in pieces, a few of them at the same time, so that the link is never idle and memory is bounded.
  A copy is read as the version that it was when the reading began, or from the start again.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..artifacts import TrustSet
from ..artifacts.vouchers import MOST, Pair, digest, packed, unpacked
from ..codec import Buffer
from ..errors import (
    ArtifactError,
    Busy,
    Closed,
    DeadlineExceeded,
    LailaError,
    MembershipStale,
    PeerLost,
    ProtocolError,
    RemoteError,
    StorageError,
    UnknownPeer,
    UnknownService,
    Unreachable,
    UntrustedSigner,
)
from ..names import check_name
from ..shared.trouble import told
from .copies import CHUNK, Arrival, Copy
from .replica import Branch, Health, Listing, Replica, Stamp
from .tags import Found, Stand, Tag
from .transfer import check_size
from .words import BOOK, LISTED, NAMES, PAGE, PREFIXES, TEXT, Words, of_stamp, of_tag, same_file

if TYPE_CHECKING:
    from ..proxies import Remote
    from ..verbs import CallFuture
    from ..wire.messages import Answer
    from .locations import Here

T = TypeVar("T")

WINDOW = 4
"""Pieces of one copy that are under way at the same time."""
TRIES = 3
"""How often a copy is begun again that was dropped, or changed, under way."""
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds before it is asked again who had too much to do; the last one again and again."""


class _Dropped(PeerLost):
    """The other side knows nothing of what was begun there, or is stopping."""


class _Torn(Exception):
    """What came did not hold together: it changed under way, or the other side lies."""

    def __init__(self, because: ArtifactError) -> None:
        super().__init__(str(because))
        self.because = because


class PeerReplica(Replica):
    """The replica that a node serves as `service`. Safe under threads; closing it leaves the link as it is.

    `connect` gives the peer, anew at each question: a node that restarts is found again. `timeout`: seconds that one
    answer may take; a large copy has as many of them as pieces. `trust`: who must have signed what is fetched.
    """

    remote = True

    def __init__(
        self,
        where: str,
        connect: Callable[[], Remote | Here],
        service: str,
        *,
        timeout: float = 30.0,
        trust: TrustSet,
    ) -> None:
        self.where = where
        self._connect = connect
        self._service = service
        self._timeout = timeout
        self._trust = trust
        self._closed = False
        self._book: tuple[str, list[Pair]] = ("", [])
        self._their_book: str | None = None
        """The digest of what it keeps, by its last stamp; None for a node of a version that keeps no vouchers."""

    # -- identity and membership --

    def stamp(self) -> Stamp:
        words = self._ask({"do": "stamp"})
        self._their_book = words.text("vouchers", BOOK) if "vouchers" in words else None
        return words.stamp()

    def mark(self, stamp: Stamp, before: Stamp | None = None) -> bool:
        known = None if before is None else of_stamp(before)
        return self._ask({"do": "mark", "stamp": of_stamp(stamp), "before": known}).flag("done")

    def membership(self) -> bytes | None:
        return self._ask({"do": "membership"}).perhaps_data("document")

    def learn(self, document: bytes) -> None:
        self._ask({"do": "learn", "document": bytes(document)})

    def ballot(self) -> bytes | None:
        return self._ask({"do": "ballot"}).perhaps_data("state")

    def cast(self, before: bytes | None, after: bytes) -> bool:
        return self._ask({"do": "cast", "before": before, "after": after}).flag("cast")

    # -- who is believed --

    def vouchers(self) -> list[Pair]:
        if self._their_book is None:
            self.stamp()
        if not self._their_book:
            return []
        if self._their_book != self._book[0]:
            found: list[Pair] = []
            more = True
            while more:
                words = self._ask({"do": "vouchers", "at": len(found)})
                page, more = unpacked(words.data("vouchers")), words.flag("more")
                if more and not page:
                    raise ProtocolError(f"{self.where} says that it has more vouchers, and gives none")
                found += page
                if len(found) > MOST:
                    raise ProtocolError(f"{self.where} gives more than {MOST} vouchers")
            self._trust.learn(found)
            self._book = digest(found), [pair for pair in found if pair in self._trust.learned]
        return self._book[1]

    def vouch(self, vouchers: Collection[Pair]) -> None:
        lacking = sorted(set(vouchers).difference(self.vouchers()))
        if self._their_book is None:
            return
        for start in range(0, len(lacking), PAGE):
            self._ask({"do": "vouch", "vouchers": packed(lacking[start : start + PAGE])})

    # -- versions --

    def look(self, names: Sequence[str], number: int) -> list[Found]:
        for name in names:
            check_name("artifact", name)
        pages = [list(names[start : start + NAMES]) for start in range(0, len(names), NAMES)] or [[]]
        found: list[Found] = []
        questions = ({"do": "look", "names": page, "number": number} for page in pages)
        for page, answer in zip(pages, self._stream((words, ()) for words in questions), strict=True):
            found += self._words(answer).found("found", len(page))
        return found

    def fetch(self, name: str, number: int) -> Copy | None:
        check_name("artifact", name)
        return self._again(lambda: self._fetch(name, number))

    def put(self, copy: Copy, number: int) -> Stand:
        if copy.size <= CHUNK:
            words = {"do": "put", "name": copy.name, "number": number, "stand": copy.stand.words()}
            stand = self._ask(words, [copy.read(0, CHUNK)]).some_stand()
        else:
            check_size(copy.size)
            stand = self._again(lambda: self._send(copy, number))
        if stand.tag < copy.stand.tag or (stand.tag == copy.stand.tag and not same_file(stand, copy.stand)):
            raise ProtocolError(
                f"{self.where} was given version {copy.stand.tag} of {copy.name!r} and acknowledged "
                f"{stand.tag}; see to that node"
            )
        return stand

    # -- care --

    def branches(self, prefixes: Sequence[str]) -> list[Branch]:
        found: list[Branch] = []
        while len(found) < len(prefixes):
            page = list(prefixes[len(found) : len(found) + PREFIXES])
            found += self._ask({"do": "branches", "prefixes": page}).branches(page)
        return found

    def names(self, number: int) -> Listing:
        return Listing(*self._names({"do": "names", "number": number}, ("names", "unsure")))

    def quarantined(self) -> list[str]:
        return self._names({"do": "quarantined"}, ("names",))[0]

    def check(self, name: str, number: int) -> Health:
        words = {"do": "check", "name": check_name("artifact", name), "number": number}
        return self._ask(words).health("health")

    def distrust(self, name: str, reason: str) -> None:
        self._ask({"do": "distrust", "name": check_name("artifact", name), "reason": reason[:TEXT]})

    def settle(self, name: str, tag: Tag | None, mark: str) -> None:
        words = {"do": "settle", "name": check_name("artifact", name), "tag": of_tag(tag), "mark": mark}
        self._ask(words)

    def scrub(self) -> Iterator[tuple[str, Health]]:
        token = self._ask({"do": "scrub"}).text("run")
        with self._dropped(token):
            done = False
            while not done:
                answer = self._ask({"do": "scrub", "run": token})
                done = answer.flag("done")
                yield from answer.healths("healths")

    def close(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        return f"<PeerReplica {self.where}>"

    # ---- copies ----

    def _fetch(self, name: str, number: int) -> Copy | None:
        answer = self._answer({"do": "fetch", "name": name, "number": number})
        words = self._words(answer)
        stand = words.stand()
        if stand is None:
            return None
        check_size(stand.size)
        first = self._piece(answer, min(stand.size, CHUNK))
        if stand.size <= CHUNK:
            return self._believed(lambda: Copy.of_bytes(name, first, self._trust), stand)
        token = words.text("loan")
        with self._dropped(token), told(f"keep a copy of {name!r}"):
            arrival = Arrival(name, stand.size)
            try:
                arrival.write(0, first)
                self._receive(arrival, token)
                self._ask({"do": "return", "loan": token, "number": number})
                return self._believed(lambda: arrival.seal(self._trust), stand)
            finally:
                arrival.abandon()

    def _receive(self, arrival: Arrival, token: str) -> None:
        """All pieces but the first."""
        places = [(at, min(CHUNK, arrival.size - at)) for at in range(CHUNK, arrival.size, CHUNK)]
        questions = ({"do": "read", "loan": token, "at": at, "count": count} for at, count in places)
        answers = self._stream((words, ()) for words in questions)
        for (at, count), answer in zip(places, answers, strict=True):
            arrival.write(at, self._piece(answer, count))

    def _send(self, copy: Copy, number: int) -> Stand:
        words = self._ask({"do": "begin", "name": copy.name, "number": number, "stand": copy.stand.words()})
        if "upload" not in words:
            return words.some_stand()  # it has this version, or a newer one
        token = words.text("upload")
        with self._dropped(token):
            pieces = (
                ({"do": "piece", "upload": token, "at": at}, [piece]) for at, piece in copy.chunks(CHUNK)
            )
            for _ in self._stream(pieces):
                pass
            return self._ask({"do": "end", "upload": token, "number": number}).some_stand()

    def _believed(self, verified: Callable[[], Copy], stand: Stand) -> Copy:
        try:
            copy = verified()
        except ArtifactError as error:
            raise _Torn(error) from error
        if same_file(copy.stand, stand):
            return copy
        copy.close()
        raise ProtocolError(
            f"{self.where} announced version {stand.tag} of {copy.name!r} and sent {copy.stand.tag}"
        )

    def _piece(self, answer: Answer, count: int) -> Buffer:
        if len(answer.buffers) != 1 or memoryview(answer.buffers[0]).nbytes != count:
            raise ProtocolError(
                f"{self.where} sent something else than the {count} bytes that it was asked for"
            )
        return answer.buffers[0]

    def _again(self, attempt: Callable[[], T]) -> T:
        """Repeat what was dropped there, or did not hold together here, because it changed under way."""
        for _ in range(TRIES - 1):
            try:
                return attempt()
            except _Torn as torn:
                if isinstance(torn.because, UntrustedSigner):  # somebody may just have vouched for it anew
                    with contextlib.suppress(LailaError):
                        self.stamp()
                        self.vouchers()
            except _Dropped:
                continue
        try:
            return attempt()
        except _Torn as torn:
            raise torn.because from None

    @contextlib.contextmanager
    def _dropped(self, token: str) -> Iterator[None]:
        """When it does not end well, the other side need not keep it until it is idle."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(LailaError):
                self._invoke({"do": "drop", "token": token}, ())
            raise

    # ---- questions ----

    def _names(self, question: Mapping[str, Any], lists: Sequence[str]) -> list[list[str]]:
        """Lists of an answer that comes page by page, each page the names of all lists up to some name."""
        found: list[list[str]] = [[] for _ in lists]
        after, more = "", True
        while more:
            answer = self._ask({**question, "after": after})
            pages, more = [answer.names(LISTED, key) for key in lists], answer.flag("more")
            page = sorted(name for names in pages for name in names)
            ordered = all(names == sorted(names) for names in pages)
            if (
                not ordered
                or any(one >= other for one, other in zip([after, *page], page, strict=False))
                or (more and not page)
            ):
                raise ProtocolError(f"{self.where} lists names that are not in order")
            for names, some in zip(found, pages, strict=True):
                names += some
            after = page[-1] if page else after
        return found

    def _ask(self, words: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> Words:
        return self._words(self._answer(words, buffers))

    def _answer(self, words: Mapping[str, Any], buffers: Sequence[Buffer] = ()) -> Answer:
        """Ask once; when the other side has too much to do, again until the time is over."""
        deadline = time.monotonic() + self._timeout
        pauses = iter(_PAUSES)
        while True:
            try:
                return self._wait(self._invoke(words, buffers), deadline)
            except Busy as error:
                pause = next(pauses, _PAUSES[-1])
                if time.monotonic() + pause > deadline:
                    raise DeadlineExceeded(
                        f"{self.where} had too much to do for {self._timeout:g} s: {error}"
                    ) from error
            time.sleep(pause)

    def _stream(self, questions: Iterable[tuple[Mapping[str, Any], Sequence[Buffer]]]) -> Iterator[Answer]:
        """Answers in the order of the questions, of which `WINDOW` are under way at the same time."""
        window: deque[CallFuture] = deque()
        for words, buffers in questions:
            window.append(self._invoke(words, buffers))
            if len(window) == WINDOW:
                yield self._wait(window.popleft(), time.monotonic() + self._timeout)
        while window:
            yield self._wait(window.popleft(), time.monotonic() + self._timeout)

    def _invoke(self, words: Mapping[str, Any], buffers: Sequence[Buffer]) -> CallFuture:
        if self._closed:
            raise Closed(f"{self.where} was closed here; open it again")
        with self._told():
            return self._connect().invoke(self._service, dict(words), buffers)

    def _wait(self, future: CallFuture, deadline: float) -> Answer:
        with self._told():
            answer: Answer = future.wait(max(0.0, deadline - time.monotonic()))
        return answer

    def _words(self, answer: Answer) -> Words:
        return Words(answer.words, f"the answer of {self.where}", ProtocolError)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say which replica it was, and what to do, where the error itself cannot know."""
        try:
            yield
        except UnknownService as error:
            raise StorageError(
                f"{self.where}: that node serves no replica of this name; set LAILA_REPLICAS there, as in "
                f"{self._service.rpartition('/')[2]}=/var/lib/laila/replica ({error})",
                reason="UnknownService",
            ) from error
        except UnknownPeer as error:
            raise Unreachable(f"{self.where}: no such peer is connected: {error}") from error
        except Closed as error:
            raise _Dropped(f"{self.where}: {error}") from error
        except PeerLost as error:
            raise PeerLost(f"{self.where}: {error}", executed=error.executed) from error
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{self.where} gave no answer within {self._timeout:g} s") from error
        except RemoteError as error:
            raise StorageError(f"{self.where} failed: {error}", reason=error.kind) from error
        except MembershipStale as error:
            if type(error.number) is not int or type(error.document) is not bytes:
                raise ProtocolError(f"{self.where} speaks of a membership that cannot be") from error
            raise
