"""Who the members of a store are: the document, opening a store, and changing its members, on disks in memory."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import create_maif
from laila.errors import (
    ArtifactCorrupt,
    ArtifactError,
    BadConfig,
    BadValue,
    LailaError,
    MembershipBusy,
    MembershipStale,
    MixedReplicas,
    QuorumLost,
    Unsigned,
    UntrustedSigner,
)
from laila.replication import opening
from laila.replication.agreement import Acceptor, Ballot, read_vote
from laila.replication.membership import NAME, Document, Membership, decode, encode, place
from laila.replication.opening import MembershipDiffers, open_membership
from laila.replication.replica import Stamp
from laila.replication.views import Member, Quorums, View
from tests.replication.programs import Links, Program, World
from tests.replication.versions import Author

ABC = ["/a", "/b", "/c"]
STORE, OTHER = "5" * 32, "6" * 32
A, B, C, D = (Member(letter * 32, f"/{letter}") for letter in "abcd")
VIEW = View(STORE, 7, (A, B, C), (A, B, D), Quorums(2, 2))


@pytest.fixture
def world(author: Author) -> World:
    return World(author.signer, author.trust)


# -- the document -----------------------------------------------------------------------------------------


def test_a_document_says_what_was_signed(author: Author) -> None:
    for view in (VIEW, replace(VIEW, next=(), quorums=Quorums(1, 1, True)), View(STORE, 1, (A,))):
        data = encode(view, author.signer, author.trust, by="me", change="add /d", parent="ab" * 32)
        assert decode(data, author.trust) == view
        document = Document.read(data, author.trust)
        assert (document.by, document.change, document.data) == ("me", "add /d", data)
        again = encode(
            replace(view, number=view.number + 1), author.signer, author.trust, parent=document.root
        )
        assert decode(again, author.trust).number == view.number + 1


def test_a_document_is_a_version_like_any_other(author: Author) -> None:
    """A reader of artifacts sees name, number and members."""
    from laila.artifacts import Artifact

    artifact = Artifact.from_bytes(encode(VIEW, author.signer, author.trust), trust=author.trust)
    assert (artifact.name, artifact.sequence) == (NAME, 7)
    (item,) = artifact.get_content_list()
    assert item["content"]["members"] == [{"id": one.id, "where": one.where} for one in (A, B, C)]
    assert (item["content"]["write_quorum"], item["content"]["allow_stale_reads"]) == (2, False)


def test_who_is_not_trusted_says_nothing(author: Author, stranger: Author) -> None:
    forged = encode(VIEW, stranger.signer, stranger.trust)
    with pytest.raises(UntrustedSigner):
        decode(forged, author.trust)
    with pytest.raises(UntrustedSigner, match="which its own trust set does not hold"):
        encode(VIEW, stranger.signer, author.trust)
    with pytest.raises(Unsigned), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        artifact = create_maif("x")
        artifact.name_as(NAME, sequence=1)
        decode(artifact.to_bytes(sign=False), author.trust)


def test_every_turned_bit_is_found(author: Author) -> None:
    good = encode(VIEW, author.signer, author.trust)
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 16
        with pytest.raises(ArtifactError):
            decode(bytes(bad), author.trust)


GOOD: dict[str, Any] = {
    "store": STORE,
    "number": 7,
    "members": [{"id": one.id, "where": one.where} for one in (A, B, C)],
    "next": [],
    "write_quorum": None,
    "read_quorum": None,
    "allow_stale_reads": False,
    "by": "me",
    "change": "made",
}


def signed(author: Author, words: Any, sequence: int = 7, name: str = NAME) -> bytes:
    artifact = create_maif("x")
    artifact.add_json(words)
    artifact.name_as(name, sequence=sequence)
    return artifact.to_bytes(key=author.signer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"store": "5" * 31},
        {"store": 5},
        {"number": 0},
        {"number": 8},
        {"number": True},
        {"number": 7.0},
        {"members": []},
        {"members": "abc"},
        {"members": [{"id": A.id, "where": "/a"}] * 2},
        {"members": [{"id": A.id, "where": "/a"}, {"id": B.id, "where": "/x/../a"}]},
        {"members": [{"id": A.id, "where": "/a", "more": 1}]},
        {"members": [{"id": A.id.upper(), "where": "/a"}]},
        {"members": [{"id": A.id, "where": ""}]},
        {"members": [{"id": A.id, "where": "/a\n"}]},
        {"members": [{"id": f"{number:032x}", "where": f"/{number}"} for number in range(100)]},
        {"next": None},
        {"write_quorum": 4},
        {"write_quorum": True},
        {"write_quorum": 1, "read_quorum": 1},
        {"read_quorum": 0},
        {"allow_stale_reads": 0},
        {"by": None},
        {"change": "x" * 5000},
        {"extra": 1},
    ],
    ids=lambda wrong: str(wrong)[:50],
)
def test_a_trusted_signer_cannot_say_everything(author: Author, wrong: dict[str, Any]) -> None:
    assert decode(signed(author, GOOD), author.trust).number == 7
    with pytest.raises(ArtifactCorrupt, match="no membership of a store"):
        decode(signed(author, GOOD | wrong), author.trust)


def test_another_artifact_is_no_membership(author: Author) -> None:
    lacking = {key: value for key, value in GOOD.items() if key != "by"}
    for data in (
        signed(author, GOOD, name="another"),
        signed(author, lacking),
        signed(author, [1]),
        author.unnamed(),
    ):
        with pytest.raises(ArtifactCorrupt, match="no membership of a store"):
            decode(data, author.trust)
    with pytest.raises(ArtifactError):
        decode(b"nothing", author.trust)
    with pytest.raises(ArtifactCorrupt, match="at most"):
        decode(bytes(2 << 20), author.trust)


def test_what_cannot_be_read_is_not_written(author: Author) -> None:
    for view, error in (
        (replace(VIEW, store="x"), BadValue),
        (replace(VIEW, members=(A, A)), BadValue),
        (replace(VIEW, quorums=Quorums(1, 1)), BadConfig),
    ):
        with pytest.raises(error):
            encode(view, author.signer, author.trust)


def test_only_a_newer_membership_of_the_same_store_is_adopted(author: Author) -> None:
    def document(view: View) -> bytes:
        return encode(view, author.signer, author.trust)

    membership = Membership(Document.read(document(VIEW), author.trust), author.trust)
    assert not membership.adopt(document(VIEW))
    assert not membership.adopt(document(replace(VIEW, number=6)))
    newer = replace(VIEW, number=9, members=(A, B, D), next=())
    assert membership.adopt(document(newer))
    assert membership.view == newer
    with pytest.raises(MixedReplicas, match="another store"):
        membership.adopt(document(replace(VIEW, store=OTHER, number=20)))
    assert membership.view == newer
    assert "Membership 9" in repr(membership)


def test_places_are_compared_without_detours() -> None:
    assert place("/data/x/../a//b/.") == place("/data/a/b/") == "/data/a/b"
    assert place("laila://n1:7/store/") == "laila://n1:7/store"
    assert place("pool:a/../b") == "pool:a/../b"


# -- opening a store ----------------------------------------------------------------------------------------


def test_new_replicas_become_a_store(world: World) -> None:
    with world.program(ABC, quorums=Quorums(2, 2)) as first:
        view = first.view
        assert (view.number, first.wheres, view.next, view.quorums) == (1, ABC, (), Quorums(2, 2))
        for member in view:
            disk = world.disks[member.where]
            assert disk.stamp == Stamp(view.store, member.id)
            assert Acceptor.decode(disk.ballot or b"").replica == member.id
    with world.program(["/c", "/x/../a", "/b"]) as again:
        assert again.view == view
    assert world.numbers() == dict.fromkeys(ABC, 1)
    assert world.check()[1].change == "made the store"


def test_programs_that_make_one_store_at_once_make_one(world: World) -> None:
    """All blank, opened by several programs at the same moment: one wins, the others adopt, none is rebuilt."""
    for round in range(10):
        wheres = [f"/{round}{letter}" for letter in "abcde"]
        views: list[View] = []
        gate = threading.Barrier(5)

        def open_it(wheres: list[str] = wheres, views: list[View] = views, gate: Any = gate) -> None:
            gate.wait()
            with world.program(wheres) as program:
                views.append(program.view)

        threads = [threading.Thread(target=open_it) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(views) == 5
        assert len({view.store for view in views}) == 1
        for member in views[0]:
            assert world.disks[member.where].stamp == Stamp(views[0].store, member.id)
        world.disks.clear()


def test_a_founder_that_dies_anywhere_leaves_what_another_finishes(world: World) -> None:
    """Cut off after each call in turn; the next program ends with one store in which all count."""
    finished = False
    limit = 0
    while not finished:
        world.disks.clear()
        links = Links(limit)
        with contextlib.suppress(LailaError), world.program(ABC, links, timeout=20):
            pass
        finished = not links.cut
        with world.program(ABC) as second:
            assert second.view.number == 1
            for member in second.view:
                stamp = world.disks[member.where].stamp
                assert stamp == Stamp(second.view.store, member.id), limit
        world.check()
        limit += 1
    assert limit > 20


def test_who_is_away_when_a_store_is_made_is_rebuilt_later(world: World) -> None:
    """Nobody can tell it from one that lost everything; its vote is silent until the membership is renewed."""
    world.disks["/c"].away = True
    with world.program(ABC) as first:
        view = first.view
        assert world.disks["/c"].stamp == Stamp()
        world.disks["/c"].away = False
        with world.program(ABC):
            member = view.members[2]
            stamp = world.disks["/c"].stamp
            assert stamp == Stamp(view.store, member.id, rebuilding=True, life=stamp.life)
            assert read_vote(world.replica("/c"))[1] == Acceptor(2, member.id, silent=True)
        assert first.changes.renew().number == 2
        assert first.changes.renew().number == 2
        world.disks["/a"].away = True
        assert first.changes.remove("/a").members == view.members[1:]


def test_who_was_there_when_a_store_was_made_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the others decided before it could vote."""
    decided = opening.decide

    def without_it(*words: Any, **more: Any) -> bytes:
        world.disks["/c"].away = True
        try:
            return decided(*words, **more)
        finally:
            world.disks["/c"].away = False

    monkeypatch.setattr(opening, "decide", without_it)
    with world.program(ABC) as first:
        assert world.disks["/c"].stamp == Stamp(first.view.store, first.view.members[2].id)


def test_who_is_marked_by_somebody_else_just_now_is_not_rebuilt(world: World) -> None:
    """Its stamp was blank, and its vote has an owner a moment later: that is no loss."""
    document = Document.read(encode(View(STORE, 1, (A, B, C)), world.signer, world.trust), world.trust)
    replica, same = world.replica("/a"), world.replica("/a")
    replica.cast(None, Acceptor(1).encode())

    def confirm() -> Document:
        raise AssertionError("nothing was lost")

    def overtake(what: str) -> None:
        if what == "ballot":
            replica.before = lambda what: None  # type: ignore[method-assign]
            opening.enrol(same, A.id, document, confirm)

    replica.before = overtake  # type: ignore[method-assign]
    assert opening.enrol(replica, A.id, document, confirm) == Stamp(STORE, A.id)
    with pytest.raises(
        MixedReplicas, match="/a is replica aaaaaaaa… of store 55555555…, where replica bbbbbbbb…"
    ):
        opening.enrol(replica, B.id, document, confirm)


def test_a_lost_disk_is_taken_back_as_one_that_lost_everything(world: World) -> None:
    with world.program(ABC) as first:
        member = first.view.members[0]
        world.disks["/a"].wipe()
        with world.program(ABC) as second:
            assert second.view == first.view
        stamp = world.disks["/a"].stamp
        assert stamp == Stamp(first.view.store, member.id, rebuilding=True, life=stamp.life)
        assert len(stamp.life) == 16
        assert world.numbers()["/a"] == 1
        world.disks["/a"].wipe()
        with world.program(ABC):
            assert world.disks["/a"].stamp.life not in ("", stamp.life)


def test_two_that_take_a_lost_disk_back_at_once_give_it_one_mark(world: World) -> None:
    """Else the later one would take back what a repair has said of it since."""
    with world.program(ABC) as first:
        member = first.view.members[0]
        world.disks["/a"].wipe()
        document = Document.read(world.disks["/b"].document or b"", world.trust)
        replica, same = world.replica("/a"), world.replica("/a")
        marks: list[Stamp] = []

        def overtake(what: str) -> None:
            if what == "mark":
                replica.before = lambda what: None  # type: ignore[method-assign]
                marks.append(opening.enrol(same, member.id, document, lambda: document))

        replica.before = overtake  # type: ignore[method-assign]
        assert opening.enrol(replica, member.id, document, lambda: document) == marks[0]
        assert world.disks["/a"].stamp == marks[0]


def test_who_knows_an_old_membership_asks_the_members_of_the_newest(world: World) -> None:
    """Members that were removed know less, and what a lost disk voted on is newer."""
    with world.program(ABC) as stale, world.program(ABC) as other:
        for old, new in (("/a", "/d"), ("/b", "/e"), ("/e", "/f")):
            other.changes.replace(old, new)
        assert other.wheres == ["/d", "/f", "/c"]
        assert (stale.view.number, other.view.number) == (1, 7)
        id = other.view.members[2].id
        world.disks["/c"].wipe()
        replica = world.replica("/c")
        world.disks["/d"].away = world.disks["/f"].away = True
        with pytest.raises(QuorumLost):
            stale.members.vet(stale.view, id, replica)
        assert (world.disks["/c"].stamp, world.disks["/c"].ballot) == (Stamp(), None)
        world.disks["/d"].away = world.disks["/f"].away = False
        stale.members.vet(stale.view, id, replica)
        assert read_vote(replica)[1] == Acceptor(8, id, silent=True)
        assert world.disks["/c"].stamp.rebuilding
        assert stale.view == other.view
        assert set(stale.crowd.replicas) == {member.id for member in other.view}


def test_a_lost_disk_that_is_no_member_any_more_is_not_enrolled(world: World) -> None:
    with world.program(ABC) as stale, world.program(ABC) as other:
        other.changes.replace("/c", "/d")
        world.disks["/c"].wipe()
        with pytest.raises(MembershipStale, match="/c is no member any more, under membership 3"):
            stale.members.vet(stale.view, stale.view.members[2].id, world.replica("/c"))
        assert (world.disks["/c"].stamp, world.disks["/c"].ballot) == (Stamp(), None)
        assert stale.view == other.view


def open_only(world: World, *wheres: str) -> View:
    """As who must not make a store."""
    opened = open_membership(
        [world.replica(where) for where in wheres],
        world.replica,
        signer=world.signer,
        trust=world.trust,
        found=False,
    )
    return opened.membership.view


def test_who_only_looks_makes_no_store(world: World) -> None:
    for wheres in (["/c"], ABC):
        with pytest.raises(QuorumLost, match="none is made.*/c: it is blank") as caught:
            open_only(world, *wheres)
        assert sorted(caught.value.reasons) == wheres
    assert all((disk.stamp, disk.ballot) == (Stamp(), None) for disk in world.disks.values())
    with world.program(ABC) as program:
        assert open_only(world, *ABC) == program.view
        world.disks["/c"].wipe()
        with pytest.raises(QuorumLost, match="/c: it is blank"):
            open_only(world, "/c")


def test_two_names_of_one_place_have_no_two_votes(world: World) -> None:
    world.disks["/same"] = world.disks["/a"]
    with pytest.raises(MixedReplicas, match="another name of a place that is listed"):
        with world.program(["/a", "/same", "/b"]):
            pass


def test_a_link_to_a_directory_is_that_directory(world: World, tmp_path: Path) -> None:
    """Seen before a store is made of it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    wheres = [str(tmp_path / name) for name in ("a", "b", "link")]
    with pytest.raises(MixedReplicas, match=f"{wheres[0]} and {wheres[2]} are two names of one place"):
        with world.program(wheres):
            pass
    assert all(world.disks[where].stamp == Stamp() for where in wheres)


def test_disks_that_are_lost_one_after_another_have_votes_after_each(world: World) -> None:
    with world.program(ABC) as program:
        for where in ("/b", "/c", "/a", "/b"):
            world.disks[where].wipe()
            program.members.vet_again()
            program.changes.renew()
        assert program.changes.replace("/c", "/d").number == 7
    world.check()


def lose_two_votes(world: World, program: Program) -> None:
    for where in ("/b", "/c"):
        world.disks[where].wipe()
        with world.program(ABC):
            assert world.disks[where].stamp.rebuilding


def test_lost_votes_come_back_on_somebodys_word(world: World) -> None:
    """A majority that lost its votes can decide nothing; what is said then blames nobody who is well."""
    with world.program(ABC, timeout=10.0) as program:
        lose_two_votes(world, program)
        slow = threading.Event()
        a = program.crowd.replicas[program.view.members[0].id]
        a.before = lambda what: what == "ballot" and slow.wait(30)  # type: ignore[attr-defined]
        with pytest.raises(QuorumLost, match=r"renew\(lost=True\)") as caught:
            program.changes.remove("/b")
        slow.set()
        assert sorted(caught.value.reasons) == ["/b", "/c"]
        for call in (lambda: program.changes.remove("/b"), program.changes.renew):
            with pytest.raises(QuorumLost, match=r"renew\(lost=True\)") as caught:
                call()
            assert sorted(caught.value.reasons) == ["/b", "/c"]
        world.disks["/a"].away = True
        with pytest.raises(QuorumLost, match="only when all members answer: /a: is not there"):
            program.changes.renew(lost=True)
        world.disks["/a"].away = False
        assert program.changes.renew(lost=True).number == 2
        world.disks["/a"].away = True
        assert program.changes.remove("/a").number == 4
    world.check()


def test_a_vote_that_was_begun_is_kept_by_who_gets_a_lost_vote_back(world: World) -> None:
    """Those that lost theirs may have accepted it, too, so nothing else may be decided."""
    with world.program(ABC) as program:
        lose_two_votes(world, program)
        view, a = program.view, program.view.members[0]
        begun = replace(view, number=2, next=view.members[:2])
        data = encode(begun, world.signer, world.trust, change="remove /c")
        ballot = Ballot(7, "who died")
        state = Acceptor(2, a.id, False, ballot, ballot, data)
        world.disks["/a"].ballot = state.encode()

        def without_it(words: str) -> None:
            world.disks["/a"].away = words.startswith("deciding")

        with pytest.raises(MembershipBusy, match="another change came first: remove /c"):
            program.changes.renew(lost=True, progress=without_it)
        world.disks["/a"].away = False
        assert program.changes.resume().number == 3
        assert program.wheres == ["/a", "/b"]
    assert world.check()[2].data == data


def test_without_a_majority_no_vote_is_given_back(world: World) -> None:
    """Who cannot know which membership is the newest does not let the blank one vote, nor marks it."""
    with world.program(ABC):
        world.disks["/a"].wipe()
        world.disks["/b"].away = True
        with world.program(ABC):
            assert world.disks["/a"].stamp == Stamp()
            assert world.disks["/a"].ballot is None


def test_a_majority_must_answer_to_make_a_store(world: World) -> None:
    world.disks["/a"].away = world.disks["/b"].away = True
    with pytest.raises(QuorumLost, match="1 of 3 replicas answer.*2 are needed: /a: is not there") as caught:
        with world.program(ABC):
            pass
    assert sorted(caught.value.reasons) == ["/a", "/b"]
    assert world.disks["/c"].stamp == Stamp()


def test_one_that_hangs_does_not_keep_a_store_from_being_made(world: World) -> None:
    """It is waited for a moment, and not once per question."""
    release = threading.Event()

    def opened(where: str) -> Any:
        replica = world.replica(where)
        if where == "/b":
            replica.before = lambda what: release.wait(60) and None  # type: ignore[method-assign]
        return replica

    try:
        found = open_membership(
            [opened(where) for where in ABC], opened, signer=world.signer, trust=world.trust, timeout=30
        )
        assert found.membership.view.number == 1
        assert len(found.known) == 3
    finally:
        release.set()


def test_an_unreachable_store_can_be_opened_to_look_at_it(world: World) -> None:
    """Reading and writing say which replicas are away; opening does not need them once the members are known."""
    with world.program(ABC) as first:
        world.disks["/a"].away = world.disks["/b"].away = True
        with world.program(ABC) as second:
            assert second.view == first.view


def test_replicas_of_two_stores_are_refused(world: World) -> None:
    with world.program(ABC) as one, world.program(["/x", "/y", "/z"]) as other:
        stores = (one.view.store[:8], other.view.store[:8])
        with pytest.raises(MixedReplicas) as caught:
            with world.program(["/a", "/b", "/x"]):
                pass
    assert f"/a, /b of store {stores[0]}…; /x of store {stores[1]}…" in str(caught.value)


def test_who_is_no_member_is_refused_and_left_as_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FOUNDING", 0.2)
    with world.program(ABC):
        with pytest.raises(MixedReplicas, match="/d is no member.*add_replica\\('/d'\\).*members add /d"):
            with world.program([*ABC, "/d"]):
                pass
    assert world.disks["/d"].stamp == Stamp()


def test_a_removed_replica_is_no_member(world: World) -> None:
    with world.program(ABC) as program:
        program.changes.remove("/c")
    with pytest.raises(MixedReplicas, match="/c is no member"):
        with world.program(ABC):
            pass


def test_one_replica_under_two_names_is_refused(world: World) -> None:
    with world.program(ABC):
        world.disks["/copy"] = world.disks["/a"]
        with pytest.raises(MixedReplicas, match="the same replica"):
            with world.program(["/a", "/copy", "/b"]):
                pass


def test_the_list_must_be_one(world: World) -> None:
    with pytest.raises(BadConfig, match="listed twice"):
        with world.program(["/a", "/x/../a"]):
            pass
    with pytest.raises(BadConfig, match="no replicas"):
        with world.program([]):
            pass
    with pytest.raises(BadConfig, match="need not meet"):
        with world.program(ABC, quorums=Quorums(1, 1)):
            pass
    assert all(disk.stamp == Stamp() for disk in world.disks.values())


@pytest.mark.parametrize(
    ("listed", "quorums", "words"),
    [
        (["/a", "/b"], None, "/c is a member not listed"),
        (["/a"], None, "/b, /c are members not listed"),
        (["/a", "/b", "/alias"], None, "/alias is listed, which is the member /c"),
        (["/a", "/b", "/c", "/gone"], None, "/gone is listed, is no member, and does not answer"),
        (ABC, Quorums(3, 1), "write_quorum=3 is given, and the store's is 2"),
        (ABC, Quorums(stale=True), "allow_stale_reads=True"),
    ],
)
def test_the_membership_counts_where_the_list_differs(
    world: World, listed: list[str], quorums: Quorums | None, words: str
) -> None:
    with world.program(ABC) as first:
        view = first.view
    world.disks["/alias"] = world.disks["/c"]
    world.disks["/gone"].away = True
    with pytest.warns(MembershipDiffers) as caught:  # noqa: PT031  # what the warning is about has to be looked at
        with world.program(listed, quorums=quorums) as second:
            assert second.view == view
            assert set(second.crowd.replicas) == {member.id for member in view}
    assert words in str(caught[0].message)
    assert "counts (number 1: /a, /b, /c)" in str(caught[0].message)


def test_a_newer_membership_of_members_not_listed_is_found(world: World) -> None:
    """The listed ones were away while everything moved: the trail leads to the newest."""
    with world.program(ABC) as program:
        world.disks["/a"].away = True
        program.changes.replace("/a", "/d")
        program.changes.replace("/b", "/e")
        world.disks["/b"].away = True
        program.changes.replace("/c", "/f")
        newest = program.view
    world.disks["/a"].away = world.disks["/b"].away = False
    assert world.numbers()["/b"] < newest.number
    with pytest.raises(MixedReplicas, match="/b is no member"):
        with world.program(["/b"]):
            pass
    with world.program(["/d"], differs=True) as again:
        assert again.view == newest


def test_a_forged_membership_is_not_believed(world: World, stranger: Author) -> None:
    """One replica that shows another's document does not count; one whose every document is forged is an error."""
    with world.program(ABC) as first:
        forged = encode(replace(first.view, number=50), stranger.signer, stranger.trust)
    world.disks["/a"].document = forged
    with world.program(ABC) as again:
        assert again.view == first.view
    for where in ABC:
        world.disks[where].document = forged
    with pytest.raises(UntrustedSigner):
        with world.program(ABC):
            pass


# -- changing the members -----------------------------------------------------------------------------------


def test_add_remove_and_replace(world: World) -> None:
    told: list[str] = []
    with world.program(ABC) as program:
        store = program.view.store
        view = program.changes.add("/d", told.append)
        assert (view.number, program.wheres, view.next) == (3, ["/a", "/b", "/c", "/d"], ())
        assert program.changes.remove("/b").number == 5
        view = program.changes.replace(view.members[0].id[:8], "/e")
        assert (view.number, program.wheres) == (7, ["/e", "/c", "/d"])
        assert [one.number for one in program.caught_up] == [2, 4, 6]
        assert [[member.where for member in one.next] for one in program.caught_up][-1] == ["/e", "/c", "/d"]
        assert set(program.crowd.replicas) == {member.id for member in view}
    assert world.numbers() == {"/a": 7, "/b": 5, "/c": 7, "/d": 7, "/e": 7}
    assert all(world.disks[member.where].stamp == Stamp(store, member.id) for member in view)
    changes = world.check()
    assert [changes[number].change for number in sorted(changes)] == [
        "made the store",
        *["add /d"] * 2,
        *["remove /b"] * 2,
        *["replace /a by /e"] * 2,
    ]
    assert told[0] == "asking the members which membership is the newest"
    assert told[-1] == "the members are /a, /b, /c, /d (membership 3)"
    assert "bringing every name to a quorum of /a, /b, /c, /d" in told


def test_from_one_replica_to_many_and_back(world: World) -> None:
    with world.program(["/a"]) as program:
        for where in ("/b", "/c", "/d", "/e"):
            program.changes.add(where)
        for where in ("/a", "/b", "/c", "/d"):
            program.changes.remove(where)
        assert program.wheres == ["/e"]
        assert program.view.number == 17
        with pytest.raises(BadConfig, match="/e is the last replica"):
            program.changes.remove("/e")
    world.check()


def test_one_that_was_a_member_before_comes_back_as_itself(world: World) -> None:
    with world.program(ABC) as program:
        id = program.view.members[2].id
        program.changes.remove("/c")
        assert program.changes.add("/c").members[2] == Member(id, "/c")


def test_old_members_know_before_anything_is_caught_up(world: World) -> None:
    """A majority of both groups; so nothing is acknowledged under the old membership while names are copied."""
    seen: list[dict[str, int]] = []
    world.disks["/a"].away = True
    with world.program(ABC, differs=True) as program:  # /a is silent from the beginning
        program.changes._catch_up = lambda view: seen.append(world.numbers())
        program.changes.add("/d")
    assert [seen[0][where] for where in ("/b", "/c", "/d")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("write", "read", "tolerated"), [(None, None, True), (3, 1, False), (1, 3, False), (2, 2, True)]
)
def test_quorums_decide_how_many_must_know(
    world: World, write: int | None, read: int | None, tolerated: bool
) -> None:
    """With a quorum of one, every old member must know, or one alone could be asked under the old membership."""
    with world.program(ABC, quorums=Quorums(write, read)) as program:
        world.disks["/a"].away = True
        if tolerated:
            assert program.changes.replace("/a", "/d").number == 3
            return
        with pytest.raises(QuorumLost, match="/a: is not there.*resume\\(\\)"):
            program.changes.replace("/a", "/d")
        assert program.caught_up == []
        assert program.view.next
        with pytest.raises(QuorumLost):
            program.changes.resume()
        assert program.changes.resume(lost=True).number == 3
        assert program.wheres == ["/d", "/b", "/c"]


def test_a_lost_replica_need_not_be_told(world: World) -> None:
    with world.program(ABC, quorums=Quorums(3, 1)) as program:
        world.disks["/c"].away = True
        assert program.changes.replace("/c", "/d", lost=True).number == 3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda changes: changes.add("/a"), BadConfig, "/a is a member already"),
        (lambda changes: changes.add("/x/../a"), BadConfig, "is a member already"),
        (lambda changes: changes.replace("/a", "/b"), BadConfig, "/b is a member already"),
        (
            lambda changes: changes.remove("/nobody"),
            BadValue,
            "'/nobody' is no member; the members are /a, /b",
        ),
        (lambda changes: changes.remove("a"), BadValue, "is no member"),
        (lambda changes: changes.add("/other"), MixedReplicas, "/other belongs to another store"),
        (
            lambda changes: changes.add("/copy"),
            BadConfig,
            "a member already: another name of its place, or a copy",
        ),
        (lambda changes: changes.add("/half"), MixedReplicas, "being made part of another store"),
        (lambda changes: changes.add("/away"), LailaError, "/away is not there"),
        (
            lambda changes: changes.remove("/a"),
            BadConfig,
            "cannot remove /a, which leaves 2 replicas: write_quorum",
        ),
        (
            lambda changes: changes.add("/d"),
            BadConfig,
            "cannot add /d, which leaves 4 replicas.*need not meet",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_done_changes_nothing(
    world: World, call: Callable[[Any], object], error: type[Exception], words: str
) -> None:
    with world.program(["/other"]), world.program(ABC, quorums=Quorums(3, 1)) as program:
        world.disks["/copy"] = world.disks["/a"]
        world.disks["/half"].ballot = Acceptor(1).encode()
        world.disks["/away"].away = True
        with pytest.raises(error, match=words):
            call(program.changes)
        assert program.view.number == 1
    assert world.numbers()["/a"] == 1


def test_two_changes_at_once_one_fails_clearly(world: World) -> None:
    """By several programs: each number has one document, and whoever lost says who and what was first."""
    for _ in range(6):
        world.disks.clear()
        wins: list[str] = []
        losses: list[str] = []
        gate = threading.Barrier(3)
        with contextlib.ExitStack() as stack:
            programs = [
                stack.enter_context(world.program(ABC, by=f"program {number}")) for number in range(3)
            ]

            def change(
                program: Program,
                where: str,
                gate: threading.Barrier = gate,
                wins: list[str] = wins,
                losses: list[str] = losses,
            ) -> None:
                gate.wait()
                try:
                    program.changes.add(where)
                    wins.append(where)
                except MembershipBusy as error:
                    losses.append(str(error))

            threads = [
                threading.Thread(target=change, args=[program, f"/new{number}"])
                for number, program in enumerate(programs)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(wins) + len(losses) == 3
            assert wins
            for text in losses:
                assert "add /new" in text, text
                assert "by program" in text, text
            found = world.check()
            assert {member.where for member in found[max(found)].view.members} == {*ABC, *wins}


def test_a_change_of_the_same_program_is_refused_at_once(world: World) -> None:
    with world.program(ABC) as program:

        def change_again(view: View) -> None:
            with pytest.raises(MembershipBusy, match="this program is about to add /d"):
                program.changes.remove("/a")

        program.changes._catch_up = change_again
        assert program.changes.add("/d").number == 3


def fail(view: View) -> None:
    raise QuorumLost("the next replicas could not be brought up to date")


def test_a_change_under_way_stops_others_and_can_be_resumed_or_cancelled(world: World) -> None:
    with world.program(ABC, catch_up=fail, by="who died") as first:
        with pytest.raises(QuorumLost, match="could not be brought up to date"):
            first.changes.add("/d")
        assert first.view.next
        with world.program(ABC, differs=True) as second:
            for call in (
                lambda: second.changes.add("/e"),
                lambda: second.changes.remove("/a"),
                second.changes.renew,
            ):
                with pytest.raises(
                    MembershipBusy, match="add /d \\(membership 2, by who died\\).*resume\\(\\)"
                ):
                    call()
            assert second.changes.resume().number == 3
            assert second.wheres == [*ABC, "/d"]
            assert second.changes.resume() == second.changes.cancel() == second.view
        with pytest.raises(QuorumLost):
            first.changes.remove("/d")
        assert first.changes.cancel().number == 5
        assert first.wheres == [*ABC, "/d"]
    assert world.check()[5].change == "cancel: remove /d"


def test_several_that_resume_and_cancel_at_once_agree(world: World) -> None:
    for _ in range(5):
        world.disks.clear()
        with world.program(ABC, catch_up=fail) as first, contextlib.suppress(QuorumLost):
            first.changes.add("/d")
        with contextlib.ExitStack() as stack:
            programs = [stack.enter_context(world.program(ABC, differs=True)) for _ in range(4)]
            results: list[object] = []

            def finish(
                number: int, programs: list[Program] = programs, results: list[object] = results
            ) -> None:
                changes = programs[number].changes
                try:
                    results.append((changes.cancel() if number % 2 else changes.resume()).members)
                except MembershipBusy as error:
                    results.append(error)

            threads = [threading.Thread(target=finish, args=[number]) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        final = world.check()[3].view.members
        assert len(results) == 4
        assert final in results
        assert all(isinstance(one, MembershipBusy) or one == final for one in results)


CHANGES: dict[str, Callable[[Program], View]] = {
    "add": lambda program: program.changes.add("/d"),
    "remove": lambda program: program.changes.remove("/c"),
    "replace": lambda program: program.changes.replace("/a", "/d"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_dies_anywhere_is_resumed_or_never_was(world: World, what: str) -> None:
    """The program is cut off after each call in turn. Another one finishes what was decided, or finds the old members;
    then the same change works."""
    goal = {"add": ["/a", "/b", "/c", "/d"], "remove": ["/a", "/b"], "replace": ["/d", "/b", "/c"]}[what]
    resumed = never = found_later = limit = 0
    finished = False
    while not finished:
        world.disks.clear()
        with world.program(ABC):
            pass
        links = Links(limit)
        with contextlib.suppress(LailaError), world.program(ABC, links, timeout=20) as first:
            CHANGES[what](first)
        finished = not links.cut
        with world.program(["/b"], differs=True) as second:
            began = bool(second.view.next)
            view = second.changes.resume()
            found_later += bool(second.caught_up) and not began
            if view.number == 1:
                assert not second.caught_up
                never += 1
                CHANGES[what](second)
            resumed += began
            assert (second.view.number, second.wheres) == (3, goal), limit
            assert not any(world.disks[member.where].stamp.rebuilding for member in second.view)
        world.check()
        limit += 3
    assert resumed > 3
    assert never > 3
    assert found_later


def test_who_finds_a_vote_that_nobody_was_told_of_tells_it(world: World) -> None:
    """A program that died between voting and telling: the next change fails, and from then on everybody knows why."""
    with world.program(ABC) as first:

        def die(*words: object) -> None:
            raise QuorumLost("this program was killed")

        first.changes._take = die  # type: ignore[method-assign, assignment]
        with pytest.raises(QuorumLost):
            first.changes.add("/d")
    assert world.numbers()["/a"] == 1
    with (
        world.program(ABC) as second,
        pytest.raises(MembershipBusy, match="add /d .*resume\\(\\) finishes it"),
    ):
        second.changes.add("/e")
    with world.program(ABC, differs=True) as third:
        assert third.view.number == 2
        assert third.changes.resume().number == 3
        assert third.wheres == [*ABC, "/d"]
    world.check()


def test_a_wiped_member_neither_stops_a_change_nor_votes_twice(world: World) -> None:
    """It abstains on the change, learns it, and votes on the next."""
    with world.program(ABC) as program:
        world.disks["/a"].wipe()
        assert program.changes.add("/d").number == 3
        state = read_vote(world.replica("/a"))[1]
        assert state is not None
        assert (state.silent, state.number) == (False, 3)
        world.disks["/b"].away = True
        assert program.changes.remove("/b").number == 5


def test_renewing_is_nothing_while_all_can_vote(world: World) -> None:
    with world.program(ABC) as program:
        assert program.changes.renew() == program.view
        world.disks["/a"].wipe()
        assert program.changes.renew().number == 2
        assert program.changes.renew().number == 2
    assert world.check()[2].change == "give /a a vote again"


def test_what_was_opened_in_vain_is_closed(world: World) -> None:
    """Replicas that did not become members, and those that were members, are closed."""
    with world.program(ABC, catch_up=fail) as first, world.program(ABC, by="second") as second:
        made = []
        for program in (first, second):
            opened = program.changes._open

            def noting(where: str, opened: Any = opened) -> Any:
                made.append(opened(where))
                return made[-1]

            program.changes._open = noting
        with pytest.raises(QuorumLost):
            first.changes.add("/d")
        assert not made[0].closed
        with pytest.raises(MembershipBusy):
            second.changes.add("/e")
        world.disks["/f"].away = True
        second.changes.cancel()
        with pytest.raises(LailaError):
            second.changes.add("/f")
        assert made[-1].where == "/f"
        assert made[-1].closed


@pytest.fixture(autouse=True)
def no_threads_are_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive(), thread
