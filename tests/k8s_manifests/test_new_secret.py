"""k8s/new-secret: random, never over one that is there, and changed in rounds of which neighbours are always peers."""

from __future__ import annotations

import itertools
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from rendering import ROOT, Manifests, render, tree

from laila.secret import check_secret


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return tree(tmp_path / "k8s")


def run(k8s: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([k8s / "new-secret", *words], capture_output=True, text=True, check=False)


def files(k8s: Path) -> tuple[str, str]:
    """The secret, and what is accepted beside it."""
    return (k8s / "secret/secret.txt").read_text(), (k8s / "secret/also-accept.txt").read_text()


def test_it_is_random_and_nobody_elses(fresh: Path, k8s: Path) -> None:
    """Each checkout has another one, good enough for nodes, that only its owner reads and git never sees."""
    secret, further = files(fresh)
    check_secret(secret)
    assert (secret != files(k8s)[0], further) == (True, "")
    for name in ("secret.txt", "also-accept.txt"):
        assert stat.S_IMODE((fresh / "secret" / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in (fresh / "secret").iterdir()) == [
        "also-accept.txt",
        "kustomization.yaml",
        "secret.txt",
    ]


@pytest.mark.parametrize("name", ["secret.txt", "also-accept.txt", ".secret.txt.new"])
def test_git_ignores_it(name: str) -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git checkout")
    assert (
        subprocess.run(["git", "check-ignore", "-q", f"k8s/secret/{name}"], cwd=ROOT, check=False).returncode
        == 0
    )


def test_it_never_writes_over_one_that_is_there(fresh: Path) -> None:
    before = files(fresh)
    done = run(fresh)
    assert (done.returncode, files(fresh)) == (1, before)
    assert "is there already" in done.stderr
    assert before[0] not in done.stdout + done.stderr


def test_a_secret_of_ones_own_gets_what_is_missing(fresh: Path) -> None:
    (fresh / "secret/also-accept.txt").unlink()
    before = (fresh / "secret/secret.txt").read_text()
    assert run(fresh).returncode == 1
    assert files(fresh) == (before, "")


def test_a_change_goes_in_rounds_that_fit(fresh: Path) -> None:
    """Nodes of a round and of the next accept each other; each round is another Secret, so that it is rolled out."""
    rounds = [files(fresh)]
    names = [name_of(fresh)]
    for word in ("announce", "switch", "retire"):
        done = run(fresh, word)
        assert done.returncode == 0, done.stderr
        rounds.append(files(fresh))
        names.append(name_of(fresh))
        assert not any(secret and secret in done.stdout + done.stderr for secret in rounds[-1])
    (old, _), (_, new), _, _ = rounds
    check_secret(new)
    assert rounds == [(old, ""), (old, new), (new, old), (new, "")]
    for one, other in itertools.pairwise(rounds):
        assert one[0] in other
        assert other[0] in one
    assert len(set(names)) == 4


def name_of(k8s: Path) -> str:
    """The Secret's name, which is also the one that pods mount."""
    m = Manifests(render(k8s / "overlays/replicated"))
    name: str = m.one("Secret")["metadata"]["name"]
    assert m.pod["volumes"][0]["secret"]["secretName"] == name
    return name


@pytest.mark.parametrize(
    ("before", "word", "reason"),
    [
        ([], "switch", "nothing is announced"),
        (["announce"], "announce", "under way"),
        (["announce", "switch"], "announce", "under way"),
    ],
)
def test_a_round_out_of_turn_is_refused(fresh: Path, before: list[str], word: str, reason: str) -> None:
    for earlier in before:
        assert run(fresh, earlier).returncode == 0
    kept = files(fresh)
    done = run(fresh, word)
    assert (done.returncode, files(fresh)) == (1, kept)
    assert reason in done.stderr


def test_without_a_secret_nothing_is_rendered(fresh: Path) -> None:
    """Better than nodes that start without one; and the message names the file."""
    for file in ("secret.txt", "also-accept.txt"):
        (fresh / "secret" / file).unlink()
    for word in ("announce", "switch", "retire"):
        assert "there is no secret yet" in run(fresh, word).stderr
    done = subprocess.run(
        [ROOT / "tools/kustomize", fresh / "overlays/replicated"], capture_output=True, text=True, check=False
    )
    assert done.returncode not in (0, 3)
    assert "secret.txt" in done.stderr


def test_words_that_are_none_are_explained(fresh: Path) -> None:
    before = files(fresh)
    done = run(fresh, "rotate")
    assert (done.returncode, files(fresh)) == (2, before)
    assert "announce" in done.stderr
