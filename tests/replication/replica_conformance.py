"""What every replica does, as one suite: subclass ReplicaConformance, say how one is opened, and how to get at what it
keeps behind its back. Two openings of one place stand for two programs; `hammer` is another process.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from laila.artifacts import Signer, TrustSet, UnsignedWarning, create_maif
from laila.artifacts.signing import vouch
from laila.errors import (
    ArtifactError,
    BadName,
    BadValue,
    LailaError,
    MembershipStale,
    MixedReplicas,
    RolledBack,
    Unsigned,
    UntrustedSigner,
)
from laila.replication.branches import branches_of
from laila.replication.copies import Copy
from laila.replication.replica import Health, Listing, Replica, Stamp
from laila.replication.tags import Tag, Unsure
from laila.secret import new_secret
from laila.transport.identity import Identity
from tests.replication.hammer import cast_counts, put_versions
from tests.replication.versions import (
    ANOTHER,
    ME,
    NEW_SECRET,
    OLD_SECRET,
    STAMP,
    bytes_of,
    put,
    settle,
    tampered,
    text_of,
)

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
NAMES = ["doc", "a.b-c", "Straße", "日本", "x" * 120, "doc.maif", "@home", "~"]
Opener = Callable[[], Replica]


def found(replica: Replica, name: str = "doc", number: int = 0) -> object:
    """What it says of one name."""
    (one,) = replica.look([name], number)
    return one


def doubt(replica: Replica, name: str = "doc", number: int = 0) -> str:
    """Why it is unsure of a name."""
    unsure = found(replica, name, number)
    assert isinstance(unsure, Unsure)
    assert unsure.mark
    return unsure.reason


def held(replica: Replica, name: str = "doc") -> bytes:
    copy = replica.fetch(name, 0)
    assert copy is not None
    with copy:
        return bytes_of(copy)


class ReplicaConformance:
    """Subclasses give `place` (a text that says where), `opened`, `stored` and `overwrite`."""

    opener = ""
    """module:function(place, trust), by which another process opens it; empty where there is none."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> str:
        return str(tmp_path / "replica")

    def opened(self, place: str, trust: TrustSet) -> Replica:
        """The replica at a place, as a program opens it that has nothing in common with others but the place."""
        raise NotImplementedError

    def stored(self, place: str, name: str) -> bytes:
        """The file of the live version, or tombstone, as it lies there."""
        raise NotImplementedError

    def overwrite(self, place: str, name: str, data: bytes | None) -> None:
        """Replace the live version behind the replica's back; None removes it."""
        raise NotImplementedError

    @pytest.fixture
    def open_replica(self, place: str, trust: TrustSet) -> Iterator[Opener]:
        """Opens it again; closes all in the end."""
        with contextlib.ExitStack() as stack:

            def open_one() -> Replica:
                replica = self.opened(place, trust)
                stack.callback(replica.close)
                return replica

            yield open_one

    @pytest.fixture
    def replica(self, open_replica: Opener) -> Replica:
        """One that belongs to a store."""
        replica = open_replica()
        replica.mark(STAMP)
        return replica

    def hammer(self, place: str, *arguments: object) -> subprocess.Popen[str]:
        if not self.opener:
            pytest.skip("only this process can open it")
        return subprocess.Popen(
            [sys.executable, "-m", "tests.replication.hammer", self.opener, place, *map(str, arguments)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    # --- identity

    def test_a_new_one_is_blank_and_counts_for_nothing_until_it_is_marked(self, open_replica, author):
        """It takes versions, but must not say "I never had that": it may be an exchanged disk."""
        replica = open_replica()
        assert replica.stamp() == Stamp()
        assert isinstance(found(replica), Unsure)
        with author.version("doc", 1) as copy:
            assert replica.put(copy, 0) == copy.stand
            assert isinstance(found(replica), Unsure)
            replica.mark(STAMP)
            assert replica.stamp() == STAMP
            assert found(replica) == copy.stand
        assert found(replica, "other") is None

    def test_one_that_is_rebuilt_takes_versions_and_counts_when_it_is_done(self, replica, author):
        rebuilding = replace(STAMP, rebuilding=True)
        replica.mark(rebuilding)
        assert replica.stamp() == rebuilding
        with author.version("doc", 1) as copy:
            assert replica.put(copy, 0) == copy.stand
            assert [found(replica, name).__class__ for name in ("doc", "other")] == [Unsure, Unsure]
            with pytest.raises(ArtifactError):
                replica.fetch("doc", 0)
            assert dict(replica.branches([""])[0].entries) == {"doc": copy.stand}, "care sees what is there"
            replica.mark(STAMP)
            assert found(replica) == copy.stand

    def test_a_stamp_is_replaced_only_by_who_knows_it(self, replica, open_replica):
        """So a rebuild ends only the life that it filled, and not that of a disk that was exchanged meanwhile."""
        first, second = (replace(STAMP, rebuilding=True, life=life) for life in ("first", "second"))
        assert not replica.mark(first, Stamp())
        assert replica.mark(first, STAMP)
        assert replica.stamp() == open_replica().stamp() == first
        assert replica.mark(second)
        assert not replica.mark(STAMP, first)
        assert replica.stamp() == open_replica().stamp() == second
        assert replica.mark(STAMP, second)
        assert replica.stamp() == open_replica().stamp() == STAMP
        with pytest.raises(MixedReplicas):
            replica.mark(replace(STAMP, replica="7" * 32), STAMP)

    def test_it_does_not_become_another_one(self, replica, open_replica):
        for other in (replace(STAMP, store="7" * 32), replace(STAMP, replica="7" * 32)):
            with pytest.raises(MixedReplicas):
                replica.mark(other)
        with pytest.raises((BadValue, MixedReplicas)):
            replica.mark(Stamp())
        assert replica.stamp() == open_replica().stamp() == STAMP

    # --- versions

    @pytest.mark.parametrize("name", NAMES)
    def test_what_was_put_comes_back_byte_for_byte(self, replica, author, name):
        assert found(replica, name) is None
        assert replica.fetch(name, 0) is None
        with author.version(name, 1) as copy:
            assert replica.put(copy, 0) == copy.stand
            assert found(replica, name) == copy.stand
            assert held(replica, name) == bytes_of(copy)
            assert replica.names(0).live == [name]

    def test_names_that_are_none_are_refused(self, replica):
        for name in ("", ".hidden", "../up", "a/b", "x" * 121):
            with pytest.raises(BadName):
                replica.look([name], 0)
            with pytest.raises(BadName):
                replica.fetch(name, 0)

    def test_looking_answers_name_by_name_in_the_order_asked(self, replica, author):
        stands = {name: put(replica, author.version(name, 1)) for name in ("b", "a")}
        assert replica.look(["a", "none", "b", "a"], 0) == [stands["a"], None, stands["b"], stands["a"]]
        assert replica.look([], 0) == []

    def test_only_what_is_newer_is_taken(self, replica, author, another):
        """By sequence, then writer, then bytes; whatever came before, the answer says what is there."""
        versions = [author.version("doc", 2), another.version("doc", 2), author.version("doc", 1),
                    author.version("doc", 3), author.version("doc", 3, "other bytes")]  # fmt: skip
        highest = None
        for copy in versions:
            tag = copy.stand.tag
            highest = tag if highest is None else max(highest, tag)
            assert put(replica, copy).tag == highest
            assert found(replica).tag == highest

    @pytest.mark.parametrize("seed", range(3))
    def test_in_whatever_order_they_come_the_greatest_stays(self, replica, author, another, seed):
        versions = [who.version("doc", n, gone=n % 4 == 3) for n in range(1, 9) for who in (author, another)]
        random.Random(seed).shuffle(versions)  # noqa: S311  # an order, no secret
        greatest = max(versions, key=lambda copy: copy.stand.tag)
        expected = bytes_of(greatest)
        for copy in versions:
            put(replica, copy)
        assert held(replica) == expected
        assert found(replica) == greatest.stand

    def test_a_large_one_comes_back_byte_for_byte(self, replica, open_replica, author):
        """20 MiB: more than is kept in memory, and many chunks."""
        with author.version("doc", 1, size=20 << 20) as copy:
            assert replica.put(copy, 0) == copy.stand
            expected = bytes_of(copy)
        assert held(replica) == held(open_replica()) == expected
        assert replica.check("doc", 0).valid

    def test_threads_that_put_at_once_leave_the_greatest(self, replica, author, another):
        """Eight writers of one name: each sees nothing go down, and in the end the greatest is there."""
        with ThreadPoolExecutor(8) as pool:
            work = [
                pool.submit(put_versions, replica, who, "doc", first, 10, 4)
                for first in range(1, 5)
                for who in (author, another)
            ]
            told = [each.result(PATIENCE) for each in work]
        self._require_the_greatest(replica, told)

    def test_processes_that_put_at_once_leave_the_greatest(self, replica, place, another):
        """Three processes and this one."""
        others = [
            self.hammer(place, "put", seed.decode(), "doc", first, 15, 2)
            for seed, first in ((ME, 1), (ME, 2), (ANOTHER, 1))
        ]
        told = [put_versions(replica, another, "doc", 2, 15, 2)]
        for other in others:
            out, _ = other.communicate(timeout=PATIENCE)
            assert other.returncode == 0
            told.append(json.loads(out))
        self._require_the_greatest(replica, told)

    def _require_the_greatest(self, replica, told):
        assert [wrong for each in told for wrong in each["wrong"]] == []
        assert found(replica).tag == max(Tag(*each["mine"]) for each in told)
        assert replica.check("doc", 0).valid

    def test_what_another_program_put_is_seen(self, replica, open_replica, author):
        """Also when this one has looked before, and just now."""
        other = open_replica()
        for sequence in range(1, 30):
            stand = put(
                (replica, other)[sequence % 2], author.version("doc", sequence, gone=sequence % 5 == 4)
            )
            assert found(replica) == found(other) == stand
            assert replica.names(0).live == other.names(0).live == ([] if stand.gone else ["doc"])
            assert replica.branches([""])[0].digest == other.branches([""])[0].digest

    # --- tombstones

    def test_a_tombstone_is_a_version(self, replica, author):
        put(replica, author.version("doc", 1))
        with author.version("doc", 2, gone=True) as tombstone:
            assert replica.put(tombstone, 0) == tombstone.stand
            assert found(replica) == tombstone.stand
            assert held(replica) == bytes_of(tombstone)
            assert tombstone.stand.gone
        assert replica.names(0).live == []
        assert replica.check("doc", 0) == Health(found(replica), True)

    def test_what_was_forgotten_does_not_come_back(self, replica, open_replica, author, another):
        """An old version that arrives late changes nothing; a newer one does."""
        stand = put(replica, author.version("doc", 5, gone=True))
        assert put(replica, another.version("doc", 4)) == stand
        assert open_replica().names(0).live == replica.names(0).live == []
        newer = put(replica, author.version("doc", 6))
        assert found(replica) == found(open_replica()) == newer
        assert replica.names(0).live == ["doc"]

    # --- what must not be taken

    def test_what_nobody_trusted_has_signed_is_refused(self, replica, author, stranger):
        before = put(replica, author.version("doc", 1))
        with stranger.version("doc", 2) as copy, pytest.raises(UntrustedSigner):
            replica.put(copy, 0)
        assert found(replica) == before

    def test_what_nobody_has_signed_is_refused(self, replica, author):
        artifact = create_maif("tester")
        artifact.add_text("unsigned")
        artifact.name_as("doc", sequence=2)
        with pytest.warns(UnsignedWarning):
            data = artifact.to_bytes(sign=False)
        with author.version("doc", 2) as copy:
            lie = Copy("doc", replace(copy.stand, size=len(data)), data)
        with pytest.raises(Unsigned):
            replica.put(lie, 0)
        assert found(replica) is None

    def test_a_version_of_another_name_is_refused(self, replica, author):
        with author.version("other", 1) as copy, pytest.raises((RolledBack, ArtifactError)):
            replica.put(Copy("doc", copy.stand, bytes_of(copy)), 0)
        assert [found(replica, name) for name in ("doc", "other")] == [None, None]

    def test_damaged_bytes_are_refused(self, replica, author):
        with author.version("doc", 1) as copy:
            for at in (8, 700, copy.size // 2, copy.size - 20):
                with pytest.raises(ArtifactError):
                    replica.put(tampered(copy, at), 0)
            with pytest.raises(ArtifactError):
                replica.put(Copy("doc", copy.stand, bytes_of(copy)[:-1]), 0)
        assert found(replica) is None
        assert replica.quarantined() == []

    def test_a_copy_that_says_to_be_another_version_is_refused(self, replica, author):
        with author.version("doc", 1) as copy:
            lie = replace(copy.stand, tag=replace(copy.stand.tag, sequence=9))
            with pytest.raises(ArtifactError):
                replica.put(Copy("doc", lie, bytes_of(copy)), 0)
        assert found(replica) is None

    # --- what it lost

    def damaged(self, place: str, name: str = "doc", at: int = 700) -> None:
        data = bytearray(self.stored(place, name))
        data[at] ^= 1
        self.overwrite(place, name, bytes(data))

    def test_a_scrub_finds_a_flipped_bit(self, replica, place, author):
        """It is set aside, and from there on the name counts for nothing; the others are fine."""
        stands = {name: put(replica, author.version(name, 1)) for name in ("a", "doc", "z")}
        assert {name: health for name, health in replica.scrub()} == {
            name: Health(stand, True) for name, stand in stands.items()
        }
        self.damaged(place)
        health = dict(replica.scrub())
        assert [health[name].valid for name in ("a", "doc", "z")] == [True, False, True]
        assert isinstance(health["doc"].found, Unsure)
        assert health["doc"].error
        assert replica.quarantined() == ["doc"]
        assert isinstance(found(replica), Unsure)
        assert [found(replica, name) for name in ("a", "z")] == [stands["a"], stands["z"]]

    @pytest.mark.parametrize("at", [20, 600, -20])
    def test_damaged_bytes_are_never_handed_out(self, replica, open_replica, place, author, at):
        """Wherever the damage is; the second time it is known, in every program."""
        put(replica, author.version("doc", 1, "x" * 500))
        self.damaged(place, at=at)
        for one in (replica, replica, open_replica()):
            with pytest.raises(ArtifactError):
                one.fetch("doc", 0)
            assert isinstance(found(one), Unsure)
        assert replica.quarantined() == ["doc"]

    def test_checking_reads_every_byte_and_changes_nothing(self, replica, place, author):
        assert replica.check("doc", 0) == Health(None, False)
        stand = put(replica, author.version("doc", 1))
        assert replica.check("doc", 0) == Health(stand, True)
        self.damaged(place)
        for _ in range(2):
            health = replica.check("doc", 0)
            assert not health.valid
            assert isinstance(health.found, Unsure)
            assert health.error
        assert replica.quarantined() == []

    def test_a_version_that_vanished_is_missed(self, replica, place, author):
        """Who saw it does not say "I never had that"; and says so to those who come later."""
        put(replica, author.version("doc", 3))
        self.overwrite(place, "doc", None)
        assert isinstance(found(replica), Unsure)
        with pytest.raises(ArtifactError):
            replica.fetch("doc", 0)

    def test_an_older_version_that_was_put_back_does_not_count(self, replica, open_replica, place, author):
        put(replica, author.version("doc", 3))
        old = self.stored(place, "doc")
        put(replica, author.version("doc", 4))
        self.overwrite(place, "doc", old)
        assert isinstance(found(replica), Unsure)
        assert isinstance(found(open_replica()), Unsure), "it was marked"

    def test_a_distrusted_name_counts_again_when_it_is_settled(self, replica, open_replica, author):
        """Only with what is at least the newest of the others."""
        put(replica, author.version("doc", 3))
        replica.distrust("doc", "somebody said so")
        assert found(replica) == found(open_replica())
        assert doubt(replica) == "somebody said so"
        assert replica.quarantined() == ["doc"]
        with author.version("doc", 4) as newest:
            settle(replica, newest.stand.tag)
            assert isinstance(found(replica), Unsure), "it does not have that"
            older = put(replica, author.version("doc", 2))
            assert older.sequence == 2, "it is stored, and that is an acknowledgement"
            assert isinstance(found(replica), Unsure), "a version alone settles nothing"
            settle(replica, newest.stand.tag)
            assert isinstance(found(replica), Unsure), "what it has is older"
            assert replica.put(newest, 0) == newest.stand
            settle(replica, newest.stand.tag)
            assert found(replica) == found(open_replica()) == newest.stand
            assert held(replica) == bytes_of(newest)

    def test_a_name_that_nobody_had_is_settled_as_nothing(self, replica, open_replica):
        replica.distrust("doc", "somebody said so")
        settle(replica, None)
        assert found(replica) is None
        assert found(open_replica()) is None

    def test_a_mark_is_settled_only_by_who_has_seen_it(self, replica, open_replica, author):
        """What was asked before a later loss does not settle that."""
        with author.version("doc", 1) as copy:
            marks = []
            for reason in ("the first loss", "the second loss"):
                replica.put(copy, 0)
                replica.distrust("doc", reason)
                assert doubt(replica) == doubt(open_replica()) == reason
                assert found(replica) == found(open_replica())
                marks.append(found(replica).mark)
            replica.put(copy, 0)
            for other in (marks[0], "", "no mark of it"):
                replica.settle("doc", copy.stand.tag, other)
                assert doubt(replica) == doubt(open_replica()) == "the second loss"
            replica.settle("doc", copy.stand.tag, marks[1])
            assert found(replica) == found(open_replica()) == copy.stand

    def test_what_is_lost_again_before_it_was_settled_has_another_mark(
        self, replica, open_replica, place, author
    ):
        put(replica, author.version("doc", 1))
        replica.distrust("doc", "the first loss")
        first = found(replica).mark
        old = author.version("doc", 1)
        put(replica, author.version("doc", 2))
        self.damaged(place)
        assert not dict(replica.scrub())["doc"].valid
        with old:
            replica.put(old, 0)
            assert isinstance(found(replica), Unsure)
            replica.settle("doc", old.stand.tag, first)
        assert isinstance(found(replica), Unsure)
        assert found(replica) == found(open_replica())
        assert found(replica).mark != first

    def test_settling_what_is_not_suspect_changes_nothing(self, replica, author):
        stand = put(replica, author.version("doc", 1))
        settle(replica, None)
        settle(replica, replace(stand.tag, sequence=9))
        assert found(replica) == stand
        settle(replica, None, "other")
        assert found(replica, "other") is None

    def test_a_good_version_takes_the_place_of_a_damaged_one(self, replica, place, author):
        """Also one that is not newer; the damaged bytes are kept."""
        put(replica, author.version("doc", 1))
        with author.version("doc", 2) as copy:
            assert replica.put(copy, 0) == copy.stand
            self.damaged(place)
            replica.check("doc", 0)
            with pytest.raises(ArtifactError):
                replica.fetch("doc", 0)
            assert replica.put(copy, 0) == copy.stand
            settle(replica, copy.stand.tag)
            assert held(replica) == bytes_of(copy)
        assert replica.quarantined() == ["doc"]
        assert replica.check("doc", 0).valid

    # --- the digest tree

    def test_branches_tell_what_looking_tells(self, replica, author):
        """At every prefix: the digest of what lies there, and the names where they are few."""
        stands = {}
        for number in range(40):
            name = f"name-{number}"
            stands[name] = put(replica, author.version(name, 1 + number % 3, gone=number % 7 == 0))
        prefixes = ["", *(f"{byte:02x}" for byte in range(256)), "0000"]
        expected = branches_of(stands.items(), prefixes)
        assert replica.branches(prefixes) == expected
        assert replica.branches([""])[0].count == 40
        assert sorted(replica.names(0).live) == sorted(
            name for name, stand in stands.items() if not stand.gone
        )
        assert replica.look(list(stands), 0) == list(stands.values())

    def test_the_digest_changes_with_every_change(self, replica, author):
        digests = [replica.branches([""])[0].digest]
        put(replica, author.version("doc", 1))
        digests.append(replica.branches([""])[0].digest)
        put(replica, author.version("doc", 2))
        digests.append(replica.branches([""])[0].digest)
        put(replica, author.version("doc", 3, gone=True))
        digests.append(replica.branches([""])[0].digest)
        replica.distrust("doc", "somebody said so")
        (branch,) = replica.branches([""])
        digests.append(branch.digest)
        assert branch.entries == (("doc", found(replica)),)
        assert doubt(replica) == "somebody said so"
        assert len(set(digests)) == 5

    def test_what_is_no_prefix_is_refused(self, replica):
        for prefix in ("0", "0g", "AB", "00" * 33, "../.."):
            with pytest.raises(LailaError):
                replica.branches([prefix])

    # --- membership and ballots

    def test_only_a_newer_membership_is_learned(self, replica, open_replica, author):
        assert replica.membership() is None
        three, two = author.membership(3), author.membership(2)
        replica.learn(three)
        replica.learn(two)
        assert replica.membership() == open_replica().membership() == three

    def test_a_membership_that_is_none_is_refused(self, replica, author, stranger):
        with author.version("doc", 9) as copy:
            other = bytes_of(copy)
        damaged = bytearray(author.membership(9))
        damaged[700] ^= 1
        for document in (stranger.membership(9), other, bytes(damaged), b"", b"x" * 1000):
            with pytest.raises(ArtifactError):
                replica.learn(document)
        assert replica.membership() is None

    def test_the_membership_of_another_store_is_refused(self, replica, open_replica, author):
        """By its stamp, and by the one that it knows."""
        with pytest.raises(MixedReplicas):
            replica.learn(author.membership(1, "7" * 32))
        assert replica.membership() is None
        replica.learn(document := author.membership(1))
        with pytest.raises(MixedReplicas):
            replica.learn(author.membership(2, "7" * 32))
        assert replica.membership() == open_replica().membership() == document

    def test_a_blank_one_learns_of_one_store_alone(self, open_replica, author):
        replica = open_replica()
        replica.learn(document := author.membership(1))
        with pytest.raises(MixedReplicas):
            replica.learn(author.membership(2, "7" * 32))
        assert replica.membership() == document

    def test_names_are_live_or_unsure(self, replica, author):
        for name in ("b", "a", "d", "c"):
            put(replica, author.version(name, 1))
        put(replica, author.version("gone", 1, gone=True))
        replica.distrust("b", "somebody said so")
        put(replica, author.version("b", 1))
        replica.distrust("never", "somebody said so")
        assert replica.names(0) == Listing(["a", "c", "d"], ["b", "never"])

    def test_calls_under_an_older_membership_are_refused(self, replica, open_replica, author):
        """With the newer one, also by programs that had it open before; the same and newer ones are served."""
        other, document = open_replica(), author.membership(3)
        stand = put(replica, author.version("doc", 1), 2)
        replica.learn(document)
        with author.version("doc", 2) as copy:
            for one in (replica, other):
                for call in (
                    lambda one=one: one.look(["doc"], 2),
                    lambda one=one: one.fetch("doc", 2),
                    lambda one=one: one.put(copy, 2),
                    lambda one=one: one.names(2),
                    lambda one=one: one.check("doc", 2),
                ):
                    with pytest.raises(MembershipStale) as caught:
                        call()
                    assert caught.value.number == 3
                    assert caught.value.document == document
        assert found(replica, number=3) == found(replica, number=4) == stand

    def test_a_ballot_is_replaced_only_by_who_knows_it(self, replica, open_replica):
        assert replica.ballot() is None
        assert not replica.cast(b"", b"first")
        assert replica.cast(None, b"first")
        assert not replica.cast(None, b"second")
        assert not replica.cast(b"other", b"second")
        assert replica.ballot() == open_replica().ballot() == b"first"
        assert open_replica().cast(b"first", b"\0" * 5000)
        assert replica.ballot() == b"\0" * 5000

    def test_ballots_of_threads_and_processes_are_all_counted(self, replica, open_replica, place):
        """A counter that everybody counts up by compare-and-swap misses nothing."""
        others = [self.hammer(place, "cast", 15)] if self.opener else []
        with ThreadPoolExecutor(4) as pool:
            work = [pool.submit(cast_counts, one, 10) for one in (replica, replica, replica, open_replica())]
            for each in work:
                each.result(PATIENCE)
        for other in others:
            other.communicate(timeout=PATIENCE)
            assert other.returncode == 0
        assert replica.ballot() == b"%d" % (40 + 15 * len(others))

    # --- who is believed

    def test_vouchers_that_prove_themselves_are_kept_and_others_are_not(self, place, author):
        """A version that was signed under an old secret is believed under the new one, by whoever opens the replica
        with nothing but that; what a stranger's authority made is left out."""
        writer = Signer.of(Identity.ephemeral(), OLD_SECRET)
        with contextlib.ExitStack() as stack:

            def opened(secret: str, *others: str) -> tuple[Replica, TrustSet]:
                trust = TrustSet(secret=secret, also_accept=others)
                replica = self.opened(place, trust)
                stack.callback(replica.close)
                return replica, trust

            changing, _ = opened(NEW_SECRET, OLD_SECRET)
            changing.mark(STAMP)
            changing.stamp()
            assert changing.vouchers() == []
            good = (writer.public_key, vouch(NEW_SECRET, writer.public_key))
            bad = (writer.public_key, vouch(new_secret(), writer.public_key))
            torn = (writer.public_key, good[1][:-1] + b"?")
            changing.vouch([good, bad, torn])
            changing.vouch([good])
            changing.close()
            after, trust = opened(NEW_SECRET)
            after.stamp()
            assert after.vouchers() == [good]
            assert trust.trusts(writer.public_key, writer.voucher)
            stranger, distrust = opened(new_secret())
            stranger.stamp()
            assert stranger.vouchers() == []
            assert distrust.trusts(writer.public_key, writer.voucher) is None

    # --- afterwards

    def test_everything_is_there_when_it_is_opened_again(self, replica, open_replica, author):
        stands = [put(replica, author.version("a", 1)), put(replica, author.version("b", 2, gone=True))]
        put(replica, author.version("c", 3))
        replica.distrust("c", "somebody said so")
        mark = found(replica, "c")
        replica.learn(document := author.membership(1))
        assert replica.cast(None, b"ballot")
        replica.close()
        again = open_replica()
        assert again.look(["a", "b"], 1) == stands
        assert found(again, "c", 1) == mark
        assert (again.stamp(), again.membership(), again.ballot()) == (STAMP, document, b"ballot")
        assert again.names(1).live == ["a"]
        assert again.quarantined() == ["c"]
        copy = again.fetch("a", 1)
        assert copy is not None
        with copy:
            assert text_of(copy) == "version 1 of a"

    def test_a_closed_one_says_so(self, replica, author):
        replica.close()
        replica.close()
        with author.version("doc", 1) as copy:
            for call in (
                lambda: found(replica),
                lambda: replica.put(copy, 0),
                lambda: replica.names(0),
                replica.stamp,
            ):
                with pytest.raises(LailaError):
                    call()
