"""What a node is told: flags before environment before file before default, checked before anything starts.

Every refusal is one BadConfig sentence that names the key, the place where it was written, and what to
write instead. Building a config touches no network and writes nothing; what only the machine can say (is
the port free, is the directory writable) is found by the daemon, which blames the same key and place
through `NodeConfig.problem`.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import BadConfig
from laila.limits import Limits
from laila.node.addresses import Address, PeerSource
from laila.node.keys import BY_NAME, KEYS, Key
from laila.node.pools import PoolConfig
from laila.node.replicas import ReplicaConfig, check_pools
from laila.node.secretfile import CONTAINER_SECRET
from laila.node.settings import Complaint
from laila.node.sources import ConfigFile, Raw

CONFIG_ENV = "LAILA_CONFIG"
_SEPARATORS = {"access": ";"}
_COMMANDS = ("LAILA_REPLICATED",)
"""Variables of the commands that a node may have in its environment, and that look like keys."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A whole, checked configuration. `places` tells where each key was written, if it was."""

    name: str
    listen: Address
    status: Address
    secret_file: Path
    advertise: Address | None = None
    also_accept: tuple[Path, ...] = ()
    allow_nodes: tuple[str, ...] = ()
    state_dir: Path | None = None
    peers: tuple[PeerSource, ...] = ()
    pools: tuple[PoolConfig, ...] = ()
    access: tuple[str, ...] = ()
    volumes: tuple[Path, ...] = ()
    replicas: tuple[ReplicaConfig, ...] = ()
    resolve_every: float = 3.0
    await_names: str = "no"
    grace: float = 10.0
    log_level: str = "info"
    log_format: str = "json"
    limits: Limits = field(default_factory=Limits)
    places: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status.port and self.listen.port == self.status.port and _overlap(self.listen, self.status):
            raise self.problem(
                "status", f"{self.status} is also the listening address; give them different ports"
            )
        try:
            check_pools(self.replicas, self.pools)
        except Complaint as error:
            raise self.problem("replicas", str(error)) from error

    def problem(self, key: str, text: str) -> BadConfig:
        """The error that blames `key` for `text`, with the place where it was written."""
        return complaint(key, self.places.get(key, "default"), text)

    def summary(self) -> dict[str, Any]:
        """The configuration as plain JSON values, for `laila node --check`. Holds no secret."""
        return {key.name: _plain(getattr(self, key.name)) for key in KEYS}


def complaint(key: str, place: str, text: str) -> BadConfig:
    """One sentence: which key, from where, what is wrong and what to do."""
    return BadConfig(f"{key} ({place}): {text}")


def load(
    flags: Mapping[str, Any], environ: Mapping[str, str], *, config_file: str | None = None
) -> NodeConfig:
    """Build the configuration from all sources. Raises BadConfig, one sentence.

    `flags` maps key names to what was typed, None where a flag is absent.
    """
    chosen = config_file or environ.get(CONFIG_ENV)
    file = ConfigFile.read(Path(chosen)) if chosen else None
    raws = _gather(flags, environ, file)
    values: dict[str, Any] = {}
    for key in KEYS:
        if key.name in raws:
            values[key.name] = _parsed(key, raws[key.name])
        elif key.default is not None:
            values[key.name] = key.default
    places = {name: raw.source for name, raw in raws.items()}
    values.setdefault("name", _host_name())
    if "secret_file" not in values:
        values["secret_file"] = _default_secret()
    return NodeConfig(**values, places=places)


def strangers(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each LAILA_ variable that looks like a misspelt key (others may be others')."""
    known = {key.env for key in KEYS} | {CONFIG_ENV, *_COMMANDS}
    found = []
    strange = sorted(name for name in environ if name.startswith("LAILA_") and name not in known)
    for variable in strange:
        import difflib  # only a mistake pays for it

        if near := difflib.get_close_matches(variable, known, n=1, cutoff=0.8):
            found.append(f"{variable} is set but is no setting; did you mean {near[0]}?")
    return found


def _gather(flags: Mapping[str, Any], environ: Mapping[str, str], file: ConfigFile | None) -> dict[str, Raw]:
    raws: dict[str, Raw] = {}
    if file is not None:
        for key_name in file.values:
            if key_name not in BY_NAME:
                raise complaint(
                    key_name, file.place((key_name,)), f"this key is not known; {_nearest(key_name)}"
                )
            raws[key_name] = file.raw(key_name)
    for key in KEYS:
        if environ.get(key.env, "").strip():  # compose passes unset variables as empty ones
            raws[key.name] = Raw(environ[key.env], key.env)
        typed = flags.get(key.name)
        if typed is not None:
            text = _SEPARATORS.get(key.name, ",").join(typed) if isinstance(typed, list) else typed
            raws[key.name] = Raw(text, key.flag)
    return raws


def _parsed(key: Key, raw: Raw) -> Any:
    try:
        value = key.parse(raw.value, raw.base)
        return limits_of(value) if key.name == "limits" else value
    except Complaint as error:
        raise complaint(key.name, raw.place(error.path), str(error)) from error


def limits_of(named: Mapping[str, float]) -> Limits:
    """The library's limits with some of them set. Complaint names the wrong one."""
    defaults = {limit.name: limit.default for limit in dataclasses.fields(Limits)}
    chosen: dict[str, Any] = {}
    for name, number in named.items():
        if name not in defaults:
            import difflib  # only a mistake pays for it

            near = difflib.get_close_matches(name, list(defaults), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(defaults)}"
            raise Complaint(f"no limit is called {name!r}; {hint}", (name,))
        if isinstance(defaults[name], int) and number != int(number):
            raise Complaint(f"limit {name!r} is a whole number, not {number:g}; round it", (name,))
        chosen[name] = int(number) if isinstance(defaults[name], int) else float(number)
    try:
        return Limits(**chosen)
    except BadConfig as error:
        raise Complaint(str(error)) from error


def _nearest(wrong: str) -> str:
    import difflib  # only a mistake pays for it

    near = difflib.get_close_matches(wrong, list(BY_NAME), n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BY_NAME)}"


def _host_name() -> str:
    host = socket.gethostname().split(".")[0]
    return host if host and host[0].isalnum() else "node"


def _default_secret() -> Path:
    if CONTAINER_SECRET.exists():
        return CONTAINER_SECRET
    text = (
        "secret_file is not set; run `laila secret new > secret && chmod 600 secret`, "
        "give every node that file, and pass --secret-file"
    )
    raise BadConfig(text)


def _overlap(one: Address, other: Address) -> bool:
    return one.host == other.host or one.wildcard or other.wildcard


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Limits):
        return dataclasses.asdict(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
