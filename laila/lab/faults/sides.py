"""Between which nodes a fault of the network lies: directed ways from one node to another.

`@node1` is node1 against all others, `@node1/node2.node3` the one group against the other, `@*` every pair; without
nodes the seed chooses one, which is set against the others. A partition has shapes besides, and the seed chooses who
has which part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from laila.errors import BadConfig
from laila.lab.faults.base import Scene
from laila.lab.faults.spec import ALL, FaultSpec

Way = tuple[str, str]
"""(from, to): what travels from the one node to the other, on connections that either has dialed."""
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Sides:
    """The ways that are struck, the others, and the nodes that the report shades."""

    struck: tuple[Way, ...]
    free: tuple[Way, ...]
    nodes: tuple[str, ...]

    @property
    def links(self) -> tuple[Way, ...]:
        """Struck ways, each pair of nodes once."""
        return once(self.struck)

    @property
    def free_links(self) -> tuple[Way, ...]:
        """Pairs of nodes between which no way is struck."""
        struck = set(self.links)
        return tuple(link for link in once(self.free) if link not in struck)

    @property
    def ends(self) -> tuple[str, ...]:
        """Every node at one of the struck ways."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.struck)))


def once(ways: Iterable[Way]) -> tuple[Way, ...]:
    """Each pair of nodes once, whichever way."""
    return tuple(dict.fromkeys((min(way), max(way)) for way in ways))


def both(links: Iterable[Way]) -> tuple[Way, ...]:
    """Both ways of each."""
    return tuple(way for a, b in links for way in ((a, b), (b, a)))


def of(names: Sequence[str], struck: Iterable[Way], nodes: Iterable[str]) -> Sides:
    """Sides, of which these ways are struck."""
    chosen = tuple(dict.fromkeys(struck))
    free = tuple(way for way in itertools.permutations(names, 2) if way not in set(chosen))
    return Sides(chosen, free, tuple(dict.fromkeys(nodes)))


def groups_of(scene: Scene, spec: FaultSpec) -> Groups:
    """As they are written, one of the nodes when there are none. Raises BadConfig."""
    if not spec.groups:
        return ((scene.chance.choice(scene.names),),)
    if spec.groups == ((ALL,),):
        return tuple((name,) for name in scene.names)
    named = list(itertools.chain.from_iterable(spec.groups))
    if unknown := [name for name in named if name not in scene.names]:
        known = f"there are {', '.join(scene.names)}; {ALL} alone is all"
        raise BadConfig(f"{spec}: there is no node {', '.join(unknown)}; {known}")
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise BadConfig(f"{spec}: {', '.join(twice)} cannot be on two sides")
    return spec.groups


def between(scene: Scene, spec: FaultSpec) -> Sides:
    """Both ways between the groups; one group is set against all others."""
    groups = groups_of(scene, spec)
    return of(scene.names, both(_across(_opposed(scene, groups))), _fewer(groups))


def towards(scene: Scene, spec: FaultSpec) -> Sides:
    """Only from the first group to the second, or to all others. Raises BadConfig for three."""
    groups = groups_of(scene, spec)
    if spec.groups != ((ALL,),) and len(groups) > 2:
        raise BadConfig(f"{spec}: from one group to one other; write @NODE/NODE.NODE")
    sides = _opposed(scene, groups)
    return of(scene.names, itertools.product(sides[0], sides[1]), groups[0])


def _opposed(scene: Scene, groups: Groups) -> Groups:
    """A single group, and the others; when there are no others, each node of it for itself."""
    if len(groups) > 1:
        return groups
    others = tuple(name for name in scene.names if name not in groups[0])
    return (groups[0], others) if others else tuple((name,) for name in groups[0])


def _across(groups: Groups) -> list[Way]:
    return [
        way for left, right in itertools.combinations(groups, 2) for way in itertools.product(left, right)
    ]


def _fewer(groups: Groups) -> list[str]:
    """Those that are shaded: all groups but the largest."""
    largest = max(groups, key=len)
    alone = len(groups) == 1 or all(len(group) == len(largest) for group in groups)
    return [name for group in groups if alone or group is not largest for name in group]


# -- shapes of a partition


def _pair(names: list[str]) -> tuple[list[Way], list[str]]:
    return [(names[0], names[1])], names[:2]


def _halves(names: list[str]) -> tuple[list[Way], list[str]]:
    half = len(names) // 2
    return list(itertools.product(names[:half], names[half:])), names[:half]


def _majority(names: list[str]) -> tuple[list[Way], list[str]]:
    minority = max(1, (len(names) - 1) // 2)
    return list(itertools.product(names[:minority], names[minority:])), names[:minority]


def _bridge(names: list[str]) -> tuple[list[Way], list[str]]:
    _, *rest = names
    half = len(rest) // 2
    return list(itertools.product(rest[:half], rest[half:])), rest


def _ring(names: list[str]) -> tuple[list[Way], list[str]]:
    count = len(names)
    near = {1, count - 1}
    links = [(names[a], names[b]) for a, b in itertools.combinations(range(count), 2) if b - a not in near]
    return links, names


SHAPES: Mapping[str, tuple[int, Callable[[list[str]], tuple[list[Way], list[str]]]]] = {
    "pair": (2, _pair),
    "halves": (2, _halves),
    "majority": (2, _majority),
    "bridge": (3, _bridge),
    "ring": (4, _ring),
}
"""The nodes that each needs, and what it makes of nodes in any order."""


def shaped(scene: Scene, spec: FaultSpec, shape: str) -> Sides:
    """Raises BadConfig for an unknown shape, and one that so few nodes cannot have."""
    if shape not in SHAPES:
        raise BadConfig(f"{spec}: there is no shape {shape!r}; there are {', '.join(SHAPES)}")
    if spec.groups:
        raise BadConfig(f"{spec}: a shape chooses its nodes itself; give nodes, or a shape")
    least, make = SHAPES[shape]
    if len(scene.names) < least:
        raise BadConfig(f"{spec}: a {shape} needs {least} nodes or more, not {len(scene.names)}")
    names = list(scene.names)
    scene.chance.shuffle(names)
    links, nodes = make(names)
    return of(scene.names, both(links), nodes)


def shown(ways: Sequence[Way], most: int = 4) -> str:
    """For a sentence: `node1-node2` both ways, `node1→node2` one way."""
    links = once(ways)
    have = set(ways)
    texts = [
        f"{a}-{b}" if {(a, b), (b, a)} <= have else f"{a}→{b}" if (a, b) in have else f"{b}→{a}"
        for a, b in links
    ]
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")
