"""Agreement on one question: which document is membership number n+1. Nothing else is decided like this.

The single-decree Synod, as in the textbook (Lamport, "The Part-Time Parliament", 1998; "Paxos Made Simple", 2001). The
acceptors are the members under number n; what a majority of each of their groups accepted in one ballot is chosen, for
ever. A register cannot do this: it lets the later of two changes win, and both would have begun.

Acceptors have no program of their own. Whoever proposes reads an acceptor's state from the replica, works out what the
textbook's acceptor would do, and puts the new state in place of exactly the one that was read (`ballot`, `cast`), or
else begins again. That is the same: an acceptor's step is a function of its state and the request, and the
compare-and-swap makes it atomic and durable before anybody sees the answer. A request whose answer was lost may be
repeated: a ballot belongs to one proposer, and the same step twice changes nothing.

What an acceptor keeps
- The state of one number only, the highest that anybody proposed for. Who proposes for n+1 knows the document with
  number n, so n is decided; and a majority of its members has learned it by then, so whom an acceptor tells that n is
  over finds it among them.
- Whose state it is. A replica that lost its disk has no state, or a fresh one, and must not vote as if it had never
  voted: it abstains until a number comes up in which it cannot have voted before (`silent`). Only number 1, with
  which a store begins, is voted on by replicas without a state.

The core knows no clock and no replica: states and requests in, states and answers out. `decide` carries it out.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import msgpack

from ..errors import Busy, Corrupt, MembershipStale, QuorumLost
from .calls import Answers, Crowd, said_of
from .replica import Replica

MOST_BYTES = 1 << 20
"""Bytes of a document."""
TRIES = 64
"""Times that one step is begun again because somebody else stepped in between."""
ATTEMPTS = 3
"""Ballots that are begun while replicas do not answer; with those that do, only time ends it."""
PAUSE = 0.02
"""Seconds of the first pause between ballots; each is up to twice as long as the one before."""
LONGEST = 1.0

T = TypeVar("T")
_SCHEME = 1
_MOST = 1 << 62
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """Ballots are ordered by round; no two proposers have the same."""

    round: int
    proposer: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Will you take part in this ballot, and in no lower one? What did you accept so far?"""

    number: int
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Accept:
    """Accept this document in this ballot."""

    number: int
    ballot: Ballot
    document: bytes


@dataclass(frozen=True, slots=True)
class Promise:
    """It will, and accepted `document` in ballot `accepted` (None: nothing)."""

    ballot: Ballot
    accepted: Ballot | None = None
    document: bytes = b""


@dataclass(frozen=True, slots=True)
class Accepted:
    """It accepted in this ballot."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Refused:
    """It promised to a higher ballot."""

    promised: Ballot


@dataclass(frozen=True, slots=True)
class Superseded:
    """That number is decided: this higher one is being decided there."""

    number: int


@dataclass(frozen=True, slots=True)
class Abstains:
    """It has no vote on this number."""

    reason: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The document has this number, for ever."""

    document: bytes


Request = Prepare | Accept
Answer = Promise | Accepted | Refused | Superseded | Abstains


@dataclass(frozen=True, slots=True)
class Acceptor:
    """What one replica promised and accepted on the document with `number`."""

    number: int
    replica: str = ""
    """Whose vote it is; empty before the store's first membership has given the replica an id."""
    silent: bool = False
    """It may have voted on this number before it lost its state."""
    promised: Ballot | None = None
    accepted: Ballot | None = None
    document: bytes = b""

    def prepare(self, request: Prepare) -> tuple[Self, Answer]:
        if self.promised is not None and request.ballot < self.promised:
            return self, Refused(self.promised)
        promise = Promise(request.ballot, self.accepted, self.document)
        return replace(self, promised=request.ballot), promise

    def accept(self, request: Accept) -> tuple[Self, Answer]:
        if self.promised is not None and request.ballot < self.promised:
            return self, Refused(self.promised)
        ballot = request.ballot
        after = replace(self, promised=ballot, accepted=ballot, document=request.document)
        return after, Accepted(ballot)

    def encode(self) -> bytes:
        fields = [
            _SCHEME,
            self.number,
            self.replica,
            self.silent,
            _listed(self.promised),
            _listed(self.accepted),
            self.document,
        ]
        encoded: bytes = msgpack.packb(fields)
        return encoded

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Raises Corrupt for anything but what `encode` gives."""
        try:
            fields = msgpack.unpackb(raw, max_bin_len=MOST_BYTES, max_str_len=256, max_array_len=8)
            scheme, number, replica_id, silent, promised, accepted, document = fields
            state = cls(number, replica_id, silent, _ballot(promised), _ballot(accepted), document)
            types = [type(one) for one in (scheme, number, replica_id, silent, document)]
            if types != [int, int, str, bool, bytes] or scheme != _SCHEME or not 0 <= number < _MOST:
                raise ValueError("a field cannot be one")
            if (accepted is None) != (not document):
                raise ValueError("it accepted a document without a ballot, or nothing in one")
            if state.accepted is not None and (state.promised is None or state.promised < state.accepted):
                raise ValueError("it accepted in a ballot that it was not in")
            if state.encode() != raw:
                raise ValueError("it is written in another way than we write it")
        except Exception as error:  # whatever msgpack says about bytes that are none of ours
            raise Corrupt(f"a replica's vote on its membership cannot be read: {error}") from error
        return state


def respond(state: Acceptor | None, id: str, request: Request) -> tuple[Acceptor | None, Answer]:
    """The step of the acceptor that is replica `id`: its state afterwards, and what it answers."""
    number = request.number
    if state is None:
        if number != 1:
            return None, Abstains("its vote is not there: it is new, or it lost what it had")
        state = Acceptor(1)
    if state.number > number:
        return state, Superseded(state.number)
    if state.silent and state.number == number:
        return state, Abstains("it lost what it had, and may have voted on this membership before")
    if state.replica != id and not (number == state.number == 1):
        return state, Abstains("its vote is that of another replica")
    if state.number < number:
        state = Acceptor(number, state.replica)
    return state.prepare(request) if isinstance(request, Prepare) else state.accept(request)


def majority(groups: Collection[Collection[str]], ids: Collection[str]) -> bool:
    """Whether these are more than half of each group."""
    return all(2 * sum(id in ids for id in group) > len(group) for group in groups)


def because(
    answers: Answers[T], groups: Collection[Collection[str]], where: Mapping[str, str]
) -> dict[str, str]:
    """Why there was no majority, by place. Who was not waited for, since others had failed already, is no reason."""
    reasons = answers.reasons(where)
    if not majority(groups, set(answers.got) | answers.silent):
        for id in answers.silent:
            reasons.pop(where.get(id, id), None)
    return reasons


@dataclass(frozen=True, slots=True)
class Proposer:
    """Who wants `document` to have `number`. `groups` are the acceptors' ids."""

    name: str
    number: int
    document: bytes
    groups: tuple[frozenset[str], ...]
    ballot: Ballot = Ballot(0, "")
    highest: int = 0
    """The highest round that it heard of."""
    promises: frozenset[tuple[str, Ballot | None, bytes]] = frozenset()
    value: bytes | None = None
    """What it asks to accept in this ballot."""
    votes: frozenset[str] = frozenset()

    def begin(self) -> tuple[Self, Prepare]:
        """A new ballot, above all that it heard of."""
        ballot = Ballot(max(self.highest, self.ballot.round) + 1, self.name)
        begun = replace(self, ballot=ballot, promises=frozenset(), value=None, votes=frozenset())
        return begun, Prepare(self.number, ballot)

    def hear(self, id: str, answer: Answer) -> tuple[Self, Accept | Chosen | None]:
        """What an acceptor answered, and what follows. Answers of earlier ballots and phases count for nothing."""
        if isinstance(answer, Refused):
            return replace(self, highest=max(self.highest, answer.promised.round)), None
        if isinstance(answer, Promise) and answer.ballot == self.ballot and self.value is None:
            promises = self.promises | {(id, answer.accepted, answer.document)}
            if not majority(self.groups, {one for one, _, _ in promises}):
                return replace(self, promises=promises), None
            value = self._free(promises)
            return replace(self, promises=promises, value=value), Accept(self.number, self.ballot, value)
        if isinstance(answer, Accepted) and answer.ballot == self.ballot and self.value is not None:
            votes = self.votes | {id}
            chosen = majority(self.groups, votes)
            return replace(self, votes=votes), Chosen(self.value) if chosen else None
        return self, None

    def _free(self, promises: Collection[tuple[str, Ballot | None, bytes]]) -> bytes:
        """What it may propose: what was accepted in the highest ballot, for that may be chosen; else its own."""
        accepted = [(ballot, document) for _, ballot, document in promises if ballot is not None]
        return max(accepted)[1] if accepted else self.document


# -- carrying it out --------------------------------------------------------------------------------------


def vote(replica: Replica, id: str, request: Request) -> Answer:
    """One step of a replica's acceptor. Raises Corrupt, Busy, and what the replica raises."""
    for _ in range(TRIES):
        before = replica.ballot()
        state = None if before is None else Acceptor.decode(before)
        after, answer = respond(state, id, request)
        if after == state or after is None or replica.cast(before, after.encode()):
            return answer
    raise Busy("too many others vote on its membership just now; try again")


def decide(
    crowd: Crowd,
    groups: Collection[Collection[str]],
    number: int,
    document: bytes,
    *,
    timeout: float,
    where: Mapping[str, str] | None = None,
) -> bytes:
    """The document that has `number`: ours, or the one that came first. `groups` are those of the number before.

    `where` names the replicas in messages. Raises: QuorumLost when too few voted (a later attempt of anybody may then
    still find our document chosen); MembershipStale when `number` was decided long ago, without the document.
    """
    deadline, patience = time.monotonic() + timeout, timeout / 4
    proposer = Proposer(uuid.uuid4().hex, number, document, tuple(frozenset(group) for group in groups))
    pause, attempts = PAUSE, 0
    while True:
        proposer, request = proposer.begin()
        proposer, event, answers = _phase(
            crowd, proposer, request, min(deadline, time.monotonic() + patience)
        )
        if isinstance(event, Accept):
            proposer, event, answers = _phase(
                crowd, proposer, event, min(deadline, time.monotonic() + patience)
            )
        if isinstance(event, Chosen):
            return event.document
        for answer in answers.got.values():
            if isinstance(answer, Superseded):
                message = f"membership {number} was decided before, {answer.number} is being decided now"
                raise MembershipStale(message, number=answer.number - 1)
        contested = any(isinstance(answer, Refused) for answer in answers.got.values())
        attempts += not contested
        wait = _random.uniform(0, pause)
        if attempts >= ATTEMPTS or time.monotonic() + wait >= deadline:
            raise _lost(answers, groups, number, where or {})
        time.sleep(wait)
        pause = min(2 * pause, LONGEST)


def _phase(
    crowd: Crowd, proposer: Proposer, request: Request, deadline: float
) -> tuple[Proposer, Accept | Chosen | None, Answers[Answer]]:
    """Put a request to all acceptors, until the answers suffice or cannot suffice any more.

    One that hangs must not use up all the time: another ballot may do without it.
    """
    ids = sorted({id for group in proposer.groups for id in group})
    wanted = Promise if isinstance(request, Prepare) else Accepted

    def call(id: str, replica: Replica) -> Answer:
        return vote(replica, id, request)

    def enough(answers: Answers[Answer]) -> bool:
        useful = {id for id, answer in answers.got.items() if isinstance(answer, wanted)}
        return majority(proposer.groups, useful) or not majority(proposer.groups, useful | answers.silent)

    answers = crowd.ask(ids, call, enough, max(0.0, deadline - time.monotonic()))
    event: Accept | Chosen | None = None
    for id, answer in answers.got.items():
        proposer, follows = proposer.hear(id, answer)
        event = event or follows
    return proposer, event, answers


def _lost(
    answers: Answers[Answer],
    groups: Collection[Collection[str]],
    number: int,
    where: Mapping[str, str],
) -> QuorumLost:
    helpful: dict[str, Answer] = {
        id: answer for id, answer in answers.got.items() if not isinstance(answer, Abstains | Refused)
    }
    reasons = because(replace(answers, got=helpful), groups, where)
    for id, answer in answers.got.items():
        if isinstance(answer, Abstains):
            reasons[where.get(id, id)] = answer.reason
        elif isinstance(answer, Refused):
            reasons[where.get(id, id)] = "it takes part in somebody else's ballot"
    needed = max(len(group) // 2 + 1 for group in groups)
    voiceless = {id for id, answer in answers.got.items() if isinstance(answer, Abstains)}
    everybody = {id for group in groups for id in group}
    advice = "Try again when they answer: it may be found decided then"
    if not majority(groups, everybody - voiceless):
        advice = (
            "So many lost their votes that trying again does not help: when all members answer, and no program is "
            "changing the members, give them votes on your word with renew(lost=True)"
        )
    why = "; ".join(said_of(place, reason) for place, reason in sorted(reasons.items()))
    return QuorumLost(
        f"membership {number} could not be decided: a majority ({needed}) of the members has to vote: "
        f"{why or 'they did not answer'}. {advice}",
        needed=needed,
        reasons=reasons,
    )


# -- who has a vote ---------------------------------------------------------------------------------------


def read_vote(replica: Replica) -> tuple[bytes | None, Acceptor | None]:
    """The state as it lies there, and what it says; nothing when it is damaged."""
    raw = replica.ballot()
    try:
        return raw, None if raw is None else Acceptor.decode(raw)
    except Corrupt:
        return raw, None


def claim(replica: Replica, id: str) -> None:
    """Let the state of a replica that voted on number 1 be that of replica `id` from now on. Idempotent."""
    for _ in range(TRIES):
        before, state = read_vote(replica)
        if state is None or state.replica:
            return
        if replica.cast(before, replace(state, replica=id).encode()):
            return
    raise Busy("too many others vote on its membership just now; try again")


def reset(replica: Replica, before: bytes | None, state: Acceptor) -> None:
    """Give a replica another state, for what it had is lost, or was nobody's. Raises Busy when it changed meanwhile."""
    if not replica.cast(before, state.encode()) and replica.ballot() != state.encode():
        raise Busy("somebody else is giving it a vote just now; try again")


def _listed(ballot: Ballot | None) -> list[Any] | None:
    return None if ballot is None else [ballot.round, ballot.proposer]


def _ballot(listed: Any) -> Ballot | None:
    if listed is None:
        return None
    round_, proposer = listed
    if type(round_) is not int or type(proposer) is not str or not 0 < round_ < _MOST:
        raise ValueError("a ballot cannot be one")
    return Ballot(round_, proposer)
