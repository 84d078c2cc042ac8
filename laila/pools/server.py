"""The server behind a pool: its address, how messages name it, and what its client's errors become.

Rules
- No message, representation or cause of an error ever shows a password.
- Nothing is opened before it is needed, so a node starts also while its server is away, and says so when asked.
"""

from __future__ import annotations

import errno
import importlib
import math
import re
import traceback
from dataclasses import dataclass, field
from types import ModuleType
from urllib.parse import quote, unquote_plus

from laila.errors import BadConfig, StorageError

HIDDEN = "***"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
DEFAULT_POOL = "laila"
DEFAULT_TIMEOUT = 10.0


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

    def failed(self, doing: str, error: BaseException, reason: str, advice: str = "") -> StorageError:
        """What to raise when it did not do as asked. The foreign error becomes its cause, if it shows no secret."""
        text = self.hide(" ".join((str(error) or type(error).__name__).split())).rstrip(".")
        found = StorageError(
            f"cannot {doing} in {self}: {text} ({reason}); {advice or 'see that it runs and lets this user in'}",
            reason=reason,
        )
        shown = "".join(traceback.format_exception(error))
        found.__cause__ = error if self.hide(shown) == shown else None
        found.__suppress_context__ = True
        return found


@dataclass(frozen=True, slots=True)
class Settings:
    """What every pool in a server takes, also in its address (`...?pool=kept&timeout=5`)."""

    pool: str = DEFAULT_POOL
    """Pools of different names in one server do not see each other."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that the server may leave a request without an answer, or without progress of a large one."""

    def __post_init__(self) -> None:
        if not isinstance(self.pool, str) or not NAME.fullmatch(self.pool):
            raise BadConfig(
                f"{self.pool!r} is no name of a pool in a server; use up to 63 letters, digits, '.', '_' and '-'"
            )
        timeout = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0.05 <= timeout <= 86400:
            raise BadConfig(f"timeout of a pool is 0.05 to 86400 seconds, not {timeout!r}")


def split(url: str, names: tuple[str, ...]) -> tuple[dict[str, str], str]:
    """The options with these names in the address, and the address without them."""
    if not isinstance(url, str):
        raise BadConfig(f"the address of a pool is text, not {type(url).__name__}")
    before, mark, query = url.partition("?")
    said: dict[str, str] = {}
    kept = []
    for part in query.split("&") if mark else ():
        name, _, value = part.partition("=")
        if name in names:
            said[name] = unquote_plus(value)
        else:
            kept.append(part)
    return said, before + (mark + "&".join(kept) if any(kept) else "")


def settings(said: dict[str, str], pool: str | None, timeout: float | None) -> Settings:
    """What was given, else what the address said, else the defaults. Raises BadConfig."""
    if timeout is None and "timeout" in said:
        try:
            timeout = float(said["timeout"])
        except ValueError:
            timeout = math.nan
    return Settings(
        said.get("pool", DEFAULT_POOL) if pool is None else pool,
        DEFAULT_TIMEOUT if timeout is None else timeout,
    )


def client(kind: str, module: str, extra: str) -> ModuleType:
    """A client library, imported when it is needed. Raises BadConfig that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadConfig(
            f"a {kind} pool needs {module.partition('.')[0]}, which is not installed;"
            f" run: pip install 'laila-kit[{extra}]'"
        ) from error


def system_reason(error: BaseException | None) -> str:
    """The system's word for a lost or refused connection, from whatever is below the client's own error."""
    while error is not None:
        if isinstance(error, TimeoutError):
            return "ETIMEDOUT"
        if isinstance(error, OSError) and (name := errno.errorcode.get(error.errno or 0)):
            return name
        error = error.__cause__ or error.__context__
    return "ENOTCONN"
