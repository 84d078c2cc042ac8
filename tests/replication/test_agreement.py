"""The Synod that decides on memberships: every interleaving within bounds, random longer ones, and real acceptors."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from laila.errors import Corrupt, MembershipStale, QuorumLost, StorageError
from laila.replication import agreement
from laila.replication.agreement import (
    Abstains,
    Accept,
    Accepted,
    Acceptor,
    Answer,
    Ballot,
    Chosen,
    Prepare,
    Promise,
    Proposer,
    Refused,
    Request,
    Superseded,
    claim,
    decide,
    majority,
    read_vote,
    reset,
    respond,
    vote,
)
from laila.replication.calls import Crowd
from tests.replication.memory_replica import MemoryReplica

# -- a world of proposers and acceptors, in which every message may be late or lost -------------------------

Respond = Callable[[Acceptor | None, str, Request], tuple[Acceptor | None, Answer]]
Message = tuple[int, str, Request | Answer]
"""Which proposer, which acceptor, and what is under way: a request to the one, or an answer to the other."""
Groups = tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class World:
    """States and what is under way. A message that is never delivered is a lost one, or a crash of who awaits it."""

    acceptors: tuple[tuple[str, Acceptor | None], ...]
    proposers: tuple[Proposer, ...]
    rounds: tuple[int, ...]
    """Ballots that each proposer may still begin."""
    messages: frozenset[Message]
    accepted: frozenset[tuple[Ballot, bytes, str]] = frozenset()
    """Who accepted what, ever."""
    learned: frozenset[bytes] = frozenset()

    def begin(self, place: int) -> World:
        """A proposer gives up waiting, or comes back after a crash, and begins a ballot. What was on its way to it
        is dropped."""
        proposer, request = self.proposers[place].begin()
        kept = {one for one in self.messages if one[0] != place or isinstance(one[2], Prepare | Accept)}
        sent = {(place, id, request) for id, _ in self.acceptors}
        rounds = _put(self.rounds, place, self.rounds[place] - 1)
        proposers = _put(self.proposers, place, proposer)
        return replace(self, proposers=proposers, rounds=rounds, messages=frozenset(kept | sent))

    def deliver(self, message: Message, answer: Respond, *, again: bool = False) -> World:
        """One message arrives; `again`: and stays under way, so that it may arrive twice."""
        place, id, words = message
        messages = self.messages if again else self.messages - {message}
        if isinstance(words, Prepare | Accept):
            acceptors = dict(self.acceptors)
            acceptors[id], said = answer(acceptors[id], id, words)
            accepted = self.accepted
            if isinstance(said, Accepted) and isinstance(words, Accept):
                accepted = accepted | {(words.ballot, words.document, id)}
            if words.ballot == self.proposers[place].ballot:
                messages = messages | {(place, id, said)}
            states = tuple(acceptors.items())
            return replace(self, acceptors=states, messages=messages, accepted=accepted)
        proposer, event = self.proposers[place].hear(id, words)
        learned = self.learned
        if isinstance(event, Accept):
            messages = messages | {(place, id, event) for id, _ in self.acceptors}
        if isinstance(event, Chosen):
            learned = learned | {event.document}
        proposers = _put(self.proposers, place, proposer)
        return replace(self, proposers=proposers, messages=messages, learned=learned)

    def chosen(self, groups: Groups) -> set[bytes]:
        """What a majority accepted in one ballot: by the facts, whatever proposers believe."""
        ballots: dict[tuple[Ballot, bytes], set[str]] = {}
        for ballot, document, id in self.accepted:
            ballots.setdefault((ballot, document), set()).add(id)
        return {document for (_, document), ids in ballots.items() if majority(groups, ids)}

    def check(self, groups: Groups) -> None:
        chosen = self.chosen(groups)
        assert len(chosen) <= 1, f"two documents were chosen: {self}"
        assert self.learned <= chosen, f"a learner saw what was not chosen: {self}"


def _put(values: tuple, place: int, value: object) -> tuple:
    return (*values[:place], value, *values[place + 1 :])


def world(groups: Groups, rounds: tuple[int, ...], proposer: type[Proposer] = Proposer) -> World:
    ids = sorted({id for group in groups for id in group})
    proposers = tuple(
        proposer(chr(ord("p") + place), 2, b"document %d" % place, groups) for place in range(len(rounds))
    )
    acceptors = tuple((id, Acceptor(1, id)) for id in ids)
    return World(acceptors, proposers, rounds, frozenset())


def explore(start: World, groups: Groups, answer: Respond = respond) -> tuple[int, int]:
    """Check every world that can follow; how many there are, and in how many something is learned."""
    seen = {_key(start)}
    stack = [start]
    learned = 0
    while stack:
        now = stack.pop()
        now.check(groups)
        learned += bool(now.learned)
        for after in _following(now, answer):
            key = _key(after)
            if key not in seen:
                seen.add(key)
                stack.append(after)
    return len(seen), learned


def _following(now: World, answer: Respond) -> Iterator[World]:
    """All that can happen next. An answer arrives at once or never: what it says is settled when it is given, and the
    only thing that a proposer does about it is to send requests, which are late as they please. So nothing is left
    out, and there are a hundred times fewer worlds."""
    for place, left in enumerate(now.rounds):
        if left:
            yield now.begin(place)
    for message in now.messages:
        place, id, _ = message
        after = now.deliver(message, answer)
        answers = after.messages - now.messages
        lost = replace(after, messages=after.messages - answers)
        if any(isinstance(words, Promise) for _, _, words in answers):
            yield lost
        for _, _, words in answers:
            lost = lost.deliver((place, id, words), answer)
        yield lost


def _key(one: World) -> object:
    """Worlds that differ only in which acceptor is which, or in requests that come too late to change anything, are
    one."""
    abouts = []
    for id, state in one.acceptors:
        assert state is not None
        requests = frozenset(
            (place, words)
            for place, whose, words in one.messages
            if whose == id
            and isinstance(words, Prepare | Accept)
            and (state.promised is None or words.ballot >= state.promised)
        )
        accepted = frozenset((ballot, document) for ballot, document, whose in one.accepted if whose == id)
        heard = tuple(
            (frozenset(said[1:] for said in proposer.promises if said[0] == id), id in proposer.votes)
            for proposer in one.proposers
        )
        abouts.append((state.promised, state.accepted, state.document, requests, accepted, heard))
    proposers = tuple((proposer.ballot, proposer.highest, proposer.value) for proposer in one.proposers)
    return frozenset(Counter(abouts).items()), proposers, one.rounds, one.learned


THREE: Groups = (frozenset("abc"),)
FIVE: Groups = (frozenset("abcde"),)
JOINT: Groups = (frozenset("abc"), frozenset("cde"))


def wander(seed: int, groups: Groups, answer: Respond, proposer: type[Proposer] = Proposer) -> bool:
    """One long random run of three proposers: late, lost and repeated messages, in waves. Whether one was chosen."""
    luck = random.Random(seed)  # noqa: S311  # repeatable, no secret
    now = world(groups, (6, 6, 6), proposer)
    for _ in range(luck.choice((60, 120, 240))):
        place = luck.randrange(len(now.proposers))
        if now.rounds[place] and luck.random() < 0.08:
            now = now.begin(place)
        elif now.messages:
            message = luck.choice(sorted(now.messages, key=repr))
            if luck.random() < 0.1:
                now = replace(now, messages=now.messages - {message})
            else:
                now = now.deliver(message, answer, again=luck.random() < 0.1)
        now.check(groups)
    return bool(now.learned)


def test_no_interleaving_lets_two_documents_be_chosen() -> None:
    """Two proposers, three acceptors, three ballots: all orders, losses and crashes."""
    worlds, learned = explore(world(THREE, (2, 1)), THREE)
    assert worlds > 10_000
    assert learned > 5_000


@pytest.mark.parametrize("groups", [FIVE, JOINT], ids=["five", "joint"])
def test_long_random_runs_choose_one_document(groups: Groups) -> None:
    """Three proposers and up to eighteen ballots; of one group of five, and of two groups that share one replica."""
    assert sum(wander(seed, groups, respond) for seed in range(150)) > 50


class Stubborn(Proposer):
    """Does not adopt what acceptors say that they accepted."""

    __slots__ = ()

    def _free(self, promises: object) -> bytes:
        return self.document


class Backwards(Proposer):
    """Adopts what was accepted in the lowest ballot."""

    __slots__ = ()

    def _free(self, promises: object) -> bytes:
        accepted = [(ballot, document) for _, ballot, document in self.promises if ballot is not None]
        return min(accepted)[1] if accepted else self.document


def promise_to_all(state: Acceptor | None, id: str, request: Request) -> tuple[Acceptor | None, Answer]:
    assert state is not None
    state = state if state.number == request.number else Acceptor(request.number, id)
    if isinstance(request, Prepare):
        promise = Promise(request.ballot, state.accepted, state.document)
        return replace(state, promised=request.ballot), promise
    return respond(state, id, request)


def accept_from_all(state: Acceptor | None, id: str, request: Request) -> tuple[Acceptor | None, Answer]:
    if isinstance(request, Accept):
        assert state is not None
        state = state if state.number == request.number else Acceptor(request.number, id)
        after = replace(state, accepted=request.ballot, document=request.document)
        return after, Accepted(request.ballot)
    return respond(state, id, request)


def forget_what_was_accepted(
    state: Acceptor | None, id: str, request: Request
) -> tuple[Acceptor | None, Answer]:
    after, said = respond(state, id, request)
    return after, Promise(said.ballot) if isinstance(said, Promise) else said


@pytest.mark.parametrize(
    ("answer", "proposer"),
    [
        (respond, Stubborn),
        (promise_to_all, Proposer),
        (accept_from_all, Proposer),
        (forget_what_was_accepted, Proposer),
    ],
    ids=["stubborn", "promises to all", "accepts from all", "forgets"],
)
def test_a_broken_core_is_caught_by_exploring(answer: Respond, proposer: type[Proposer]) -> None:
    with pytest.raises(AssertionError, match="two documents were chosen"):
        explore(world(THREE, (1, 1), proposer), THREE, answer)


def test_half_a_quorum_is_caught_by_exploring(monkeypatch: pytest.MonkeyPatch) -> None:
    def half(groups: Groups, ids: set[str]) -> bool:
        return all(2 * len(group & set(ids)) >= len(group) - 1 for group in groups)

    monkeypatch.setattr(agreement, "majority", half)
    with pytest.raises(AssertionError):
        explore(world(THREE, (1, 1)), THREE)


@pytest.mark.parametrize("groups", [FIVE, JOINT], ids=["five", "joint"])
def test_adopting_the_lowest_ballot_is_caught_by_random_runs(groups: Groups) -> None:
    """A mistake that needs three ballots to show."""
    with pytest.raises(AssertionError, match="two documents were chosen"):
        for seed in range(3000):
            wander(seed, groups, respond, Backwards)


@pytest.mark.parametrize("lost", [True, False], ids=["abstains", "votes as if it were new"])
def test_a_replica_that_lost_its_vote_abstains(lost: bool) -> None:
    """Once a majority accepted, exchanging one disk of it must not make room for another document: it does as soon as
    the new disk votes, and does not while it is silent."""
    ids = "abc"
    states: dict[str, Acceptor | None] = {id: Acceptor(1, id) for id in ids}

    def run(proposer: Proposer, reach: str) -> bytes | None:
        proposer, request = proposer.begin()
        follows: Request | Chosen | None = request
        while isinstance(follows, Prepare | Accept):
            asked, follows = follows, None
            for id in reach:
                states[id], said = respond(states[id], id, asked)
                proposer, event = proposer.hear(id, said)
                follows = follows or event
        return follows.document if follows else None

    assert run(Proposer("p", 2, b"first", THREE), "ab") == b"first"
    states["b"] = Acceptor(2, "b", silent=lost)
    assert run(Proposer("q", 2, b"second", THREE, highest=5), "bc") == (None if lost else b"second")
    assert run(Proposer("q", 2, b"second", THREE, highest=6), "abc") == (b"first" if lost else b"second")


# -- steps and states -----------------------------------------------------------------------------------------


LOW, HIGH = Ballot(1, "p"), Ballot(2, "p")


def test_the_steps_of_an_acceptor() -> None:
    state, said = respond(Acceptor(1, "a"), "a", Prepare(2, HIGH))
    assert said == Promise(HIGH)
    assert respond(state, "a", Prepare(2, HIGH)) == (state, Promise(HIGH))
    assert respond(state, "a", Prepare(2, LOW)) == (state, Refused(HIGH))
    assert respond(state, "a", Accept(2, LOW, b"low")) == (state, Refused(HIGH))
    state, said = respond(state, "a", Accept(2, HIGH, b"high"))
    assert said == Accepted(HIGH)
    above = Ballot(3, "o")
    state, said = respond(state, "a", Prepare(2, above))
    assert said == Promise(above, HIGH, b"high")
    assert state == Acceptor(2, "a", promised=above, accepted=HIGH, document=b"high")


def test_a_number_that_is_over_is_not_voted_on() -> None:
    """The next number begins anew; the one before is answered with the number that is being decided."""
    state: Acceptor | None = Acceptor(2, "a", promised=HIGH, accepted=HIGH, document=b"two")
    state, said = respond(state, "a", Prepare(3, LOW))
    assert (state, said) == (Acceptor(3, "a", promised=LOW), Promise(LOW))
    assert respond(state, "a", Accept(2, HIGH, b"late")) == (state, Superseded(3))


def test_who_has_no_vote_abstains() -> None:
    for state in (None, Acceptor(2, "other"), Acceptor(2, "a", silent=True), Acceptor(1)):
        after, said = respond(state, "a", Prepare(2, LOW))
        assert after == state
        assert isinstance(said, Abstains)
    state, said = respond(Acceptor(2, "a", silent=True), "a", Prepare(3, LOW))
    assert (state, said) == (Acceptor(3, "a", promised=LOW), Promise(LOW))


def test_only_number_one_is_voted_on_without_an_identity() -> None:
    state, said = respond(None, "listed first", Prepare(1, LOW))
    assert (state, said) == (Acceptor(1, promised=LOW), Promise(LOW))
    assert isinstance(respond(Acceptor(0, "added"), "listed first", Prepare(1, LOW))[1], Abstains)


@pytest.mark.parametrize(
    "state",
    [
        Acceptor(1),
        Acceptor(7, "a" * 32, silent=True),
        Acceptor(2, "a", promised=HIGH, accepted=LOW, document=bytes(1000)),
    ],
)
def test_states_are_read_as_they_were_written(state: Acceptor) -> None:
    assert Acceptor.decode(state.encode()) == state


def test_a_damaged_state_is_refused() -> None:
    """Every shortened one, one with a tail, other types, and what no acceptor can have come to."""
    good = Acceptor(2, "a", promised=HIGH, accepted=HIGH, document=b"document").encode()
    bad = [good[:end] for end in range(len(good))]
    bad += [good + b"\0", b"[1, 2]", b"\xc1", b"\x97" + b"\xc0" * 7]
    bad += [replace(Acceptor(2, "a"), **fields).encode() for fields in IMPOSSIBLE]  # type: ignore[arg-type]
    for raw in bad:
        with pytest.raises(Corrupt, match="cannot be read"):
            Acceptor.decode(raw)


IMPOSSIBLE = [
    {"accepted": LOW},
    {"document": b"x"},
    {"promised": LOW, "accepted": HIGH, "document": b"x"},
    {"promised": Ballot(0, "p")},
    {"number": -1},
    {"number": True},
    {"silent": 1},
    {"replica": 5},
]


# -- on replicas ----------------------------------------------------------------------------------------------


class Table:
    """Replicas that have a vote from number 2 on, and the crowd that asks them."""

    def __init__(self, ids: str, hung: str = "") -> None:
        self.replicas = {id: MemoryReplica(f"/{id}") for id in ids}
        for id, replica in self.replicas.items():
            assert replica.cast(None, Acceptor(1, id).encode())
        self.released = threading.Event()
        for id in hung:
            self.replicas[id].before = lambda what: self.released.wait(60) and None  # type: ignore[method-assign]
        self.crowd = Crowd(self.replicas)

    def decide(self, document: bytes, number: int = 2, timeout: float = 60.0) -> bytes:
        where = {id: replica.where for id, replica in self.replicas.items()}
        return decide(self.crowd, [list(self.replicas)], number, document, timeout=timeout, where=where)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.crowd.close()


def test_all_who_propose_at_once_get_the_same_document() -> None:
    with Table("abcde") as table:
        for number in (2, 3, 4):
            found: list[bytes] = []

            def propose(place: int, number: int = number, found: list[bytes] = found) -> None:
                found.append(table.decide(b"%d by %d" % (number, place), number))

            threads = [threading.Thread(target=propose, args=[place]) for place in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(found) == 6
            assert len(set(found)) == 1, found
            assert found[0].startswith(b"%d by " % number)


def test_a_minority_that_is_away_or_hangs_holds_nothing_up() -> None:
    with Table("abcde", hung="a") as table:
        table.replicas["b"].disk.away = True
        assert table.decide(b"document") == b"document"
        assert table.decide(b"another") == b"document"


def test_a_majority_that_is_away_is_named() -> None:
    with Table("abc") as table:
        for id in "ab":
            table.replicas[id].disk.away = True
        with pytest.raises(QuorumLost, match="a majority \\(2\\).*/a: is not there") as caught:
            table.decide(b"document")
        assert sorted(caught.value.reasons) == ["/a", "/b"]
        assert caught.value.needed == 2


def test_waiting_for_those_that_hang_ends() -> None:
    with Table("abc", hung="ab") as table:
        with pytest.raises(QuorumLost, match="no answer within"):
            table.decide(b"document", timeout=0.4)


def test_a_number_that_was_decided_long_ago_is_told() -> None:
    with Table("abc") as table:
        for number in (2, 3, 4):
            table.decide(b"%d" % number, number)
        with pytest.raises(MembershipStale) as caught:
            table.decide(b"late", 2)
        assert caught.value.number == 3


def test_an_answer_that_was_lost_after_the_fact_is_no_second_vote() -> None:
    """A cast that took place and then failed is repeated by the next ballot, and finds itself."""
    replicas = {id: Flaky(f"/{id}") for id in "abc"}
    for id, replica in replicas.items():
        replica.cast(None, Acceptor(1, id).encode())
    crowd = Crowd(replicas)
    for replica in replicas.values():
        replica.failures = 2
    assert decide(crowd, ["abc"], 2, b"first", timeout=60) == b"first"
    assert decide(crowd, ["abc"], 2, b"second", timeout=60) == b"first"
    crowd.close()


class Flaky(MemoryReplica):
    failures = 0

    def cast(self, before: bytes | None, after: bytes) -> bool:
        done = super().cast(before, after)
        if self.failures:
            self.failures -= 1
            raise StorageError("the answer was lost")
        return done


def test_a_step_that_was_overtaken_begins_again() -> None:
    """Between reading and swapping another proposer steps in: the answer is the one of its state."""
    replica = MemoryReplica("/a")
    replica.cast(None, Acceptor(1, "a").encode())
    before = replica.ballot()

    def overtake(what: str) -> None:
        if what == "cast":
            replica.before = lambda what: None  # type: ignore[method-assign]
            assert MemoryReplica.cast(replica, before, Acceptor(2, "a", promised=HIGH).encode())

    replica.before = overtake  # type: ignore[method-assign]
    assert vote(replica, "a", Prepare(2, LOW)) == Refused(HIGH)


def test_a_damaged_vote_does_not_count_and_does_not_stop_the_others() -> None:
    with Table("abc") as table:
        replica = table.replicas["a"]
        assert replica.cast(replica.ballot(), b"damaged")
        assert table.decide(b"document") == b"document"
        assert read_vote(replica) == (b"damaged", None)
        reset(replica, b"damaged", Acceptor(2, "a", silent=True))
        table.replicas["b"].disk.away = True
        with pytest.raises(QuorumLost, match="/a: it lost what it had"):
            table.decide(b"another")
        assert table.decide(b"three", 3) == b"three"


def test_a_vote_without_an_owner_is_claimed_once() -> None:
    replica = MemoryReplica("/a")
    claim(replica, "first")
    assert replica.ballot() is None
    vote(replica, "", Prepare(1, LOW))
    claim(replica, "first")
    claim(replica, "second")
    assert read_vote(replica)[1] == Acceptor(1, "first", promised=LOW)
