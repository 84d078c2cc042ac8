"""The server behind a lock service: its address, what the address and the caller set, and how messages name it.

Rule: no message, representation or cause of an error ever shows a password.
"""

from __future__ import annotations

import importlib
import traceback
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self
from urllib.parse import quote, unquote_plus

from laila.errors import BadConfig, LockUnavailable

HIDDEN = "***"
MAX_PREFIX = 200


@dataclass(frozen=True, slots=True)
class Server:
    """`kind` is its name for people, `where` its address without user and password."""

    kind: str
    where: str
    secret: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"the {self.kind} server at {self.where}"

    def hide(self, text: str) -> str:
        """The text without the password: servers are known to repeat what they did not understand."""
        for secret in filter(None, (self.secret, quote(self.secret, safe=""))):
            text = text.replace(secret, HIDDEN)
        return text

    def failed(self, error: BaseException, reason: str = "") -> LockUnavailable:
        """What to raise when it did not do as asked. The foreign error becomes its cause, if it shows no secret."""
        text = " ".join((reason or str(error) or type(error).__name__).split())
        found = LockUnavailable(
            f"{self} cannot lock now: {self.hide(text).rstrip('.')}; see that it runs and lets this user in"
        )
        shown = "".join(traceback.format_exception(error))
        found.__cause__ = error if self.hide(shown) == shown else None
        found.__suppress_context__ = True
        return found


@dataclass(frozen=True, slots=True)
class Settings:
    """Options that all lock servers have, each of them also possible in the address (`...?ttl=5&prefix=a`)."""

    ttl: float = 10.0
    """Seconds after which a holder that died, or was cut off, blocks others no longer."""
    timeout: float = 5.0
    """Seconds that one request to the server may take."""
    prefix: str = "laila/locks/"
    """Before every name; services with different prefixes do not see each other."""

    def __post_init__(self) -> None:
        for name, least in (("ttl", 0.5), ("timeout", 0.05)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= 86400:
                raise BadConfig(f"{name} of a lock service is {least:g} to 86400 seconds, not {value!r}")
        if not isinstance(self.prefix, str) or not self.prefix.isprintable() or len(self.prefix) > MAX_PREFIX:
            raise BadConfig(f"prefix of a lock service is printable text of at most {MAX_PREFIX} characters")

    @classmethod
    def of(cls, url: str, ttl: float | None, timeout: float | None, prefix: str | None) -> tuple[Self, str]:
        """What was given, else what the address says, else the defaults; and the address without these options."""
        before, mark, query = url.partition("?")
        kept = []
        said: dict[str, str] = {}
        for part in query.split("&"):
            name, _, value = part.partition("=")
            if name in ("ttl", "timeout", "prefix"):
                said[name] = unquote_plus(value)
            else:
                kept.append(part)
        options: dict[str, Any] = {
            name: text if name == "prefix" else _number(name, text) for name, text in said.items()
        }
        given = {"ttl": ttl, "timeout": timeout, "prefix": prefix}
        options.update({name: value for name, value in given.items() if value is not None})
        return cls(**options), before + (mark + "&".join(kept) if any(kept) else "")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadConfig(f"{name} in a lock service's address is a number of seconds, not {text!r}") from None


def client(kind: str, module: str, extra: str) -> ModuleType:
    """A client library, imported when it is needed. Raises BadConfig that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadConfig(
            f"the {kind} lock service needs {module.partition('.')[0]}, which is not installed;"
            f" run: pip install 'laila-kit[{extra}]'"
        ) from error
