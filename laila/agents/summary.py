"""`agent_states.maif`: the registrations in one file, as the seed's programs read and write them.

Ours never need it: it is brought up to date for programs that know nothing else, and read for what those wrote
into it. A text of ours says its `sequence`, one of the seed's does not; that is how they are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..artifacts import Artifact, create_maif
from ..artifacts.layout import FILE_HEADER, MAGIC, unpack_file_header
from ..shared.trouble import told
from .layout import Layout
from .records import REGISTRATION, Registration
from .vetting import MAX_SUMMARY, Text, Vetted, Vetting

AUTHOR = "agent-states"
"""What the seed's programs create it as."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a summary says: a text per agent, and anything else that was put in. `signed` None: there is no summary."""

    agents: Mapping[str, Text] = field(default_factory=dict)
    others: tuple[Text, ...] = ()
    signed: Vetted | None = None

    @classmethod
    def of(cls, signed: Vetted) -> Contents:
        agents: dict[str, Text] = {}
        others: list[Text] = []
        for text in signed.texts:
            registration = _registration(text)
            if registration is None:
                others.append(text)
            else:  # the last word on an agent counts, and stands where it was said
                agents.pop(registration.agent_id, None)
                agents[registration.agent_id] = text
        return cls(agents, tuple(others), signed)

    def of_seed(self) -> Iterator[Registration]:
        """Registrations that no program of ours wrote."""
        for text in self.agents.values():
            registration = _registration(text)
            if registration is not None and not registration.sequence:
                yield registration

    def artifact(self) -> Artifact:
        """A new artifact that says this."""
        artifact = create_maif(AUTHOR)
        for text in (*self.others, *self.agents.values()):
            artifact.add_text(text.text, title=text.title or None)
        return artifact


class Summary:
    """Reads the summary of one directory. Safe under threads."""

    def __init__(self, layout: Layout, vetting: Vetting) -> None:
        self._layout = layout
        self._vetting = vetting
        self._last = Contents()

    def read(self, *, strangers: bool = False) -> Contents:
        """What it says now; empty when there is none. `strangers`: also when nobody trusted signed it, to tell
        people.

        Raises: UntrustedSigner, Unsigned, ArtifactCorrupt, NotAnArtifact, UnsupportedVersion, StorageError.
        """
        signed = self._vetting.read(self._layout.summary, full=False, most=MAX_SUMMARY, strangers=strangers)
        if signed is None:
            return Contents()
        if self._last.signed != signed:
            self._last = Contents.of(signed)
        return self._last

    def count(self) -> int:
        """How many blocks it has, by its header alone; 0 for none, and for what is no summary. Raises StorageError."""
        try:
            with told(f"read {self._layout.summary}"), self._layout.summary.open("rb") as file:
                raw = file.read(FILE_HEADER)
        except FileNotFoundError:
            return 0
        if len(raw) < FILE_HEADER or not raw.startswith(MAGIC):
            return 0
        return unpack_file_header(raw)[3].blocks


def _registration(text: Text) -> Registration | None:
    if REGISTRATION not in text.title:
        return None
    try:
        return Registration.parse(text.text)
    except ValueError:
        return None
