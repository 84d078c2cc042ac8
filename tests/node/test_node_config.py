"""The configuration: precedence, and one sentence for each thing that is wrong."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from laila.errors import BadConfig
from laila.limits import Limits
from laila.node.addresses import Address, PeerSource
from laila.node.config import NodeConfig, load, strangers
from laila.node.keys import KEYS
from laila.node.pools import PoolConfig

ROOT = Path(__file__).resolve().parents[2]
SECRET = {"LAILA_SECRET_FILE": "/keys/secret"}


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return str(path)


def test_file_is_read_whole(tmp_path: Path) -> None:
    """Every key can stand in a file; paths there are relative to the file."""
    file = write(
        tmp_path,
        """
        name = "n1"
        listen = "0.0.0.0:7000"
        advertise = "n1:7000"
        status = "[::]:7001"
        secret_file = "secret"
        state_dir = "/state"
        peers = ["n2:7000", "dns:nodes:7000", "n2:7000"]
        access = ["deny * *", "allow n2 read kept"]
        volumes = ["/mnt/shared", "/data/", "/data"]
        grace = 2
        resolve_every = 0.5
        log_level = "debug"
        log_format = "text"
        [pools.scratch]
        kind = "memory"
        max_bytes = "64MiB"
        [pools.kept]
        kind = "sqlite"
        path = "kept.sqlite"
        [limits]
        max_links = 7
        max_body = "1MiB"
        spin = 0
        """,
    )
    config = load({}, {}, config_file=file)
    assert dataclasses.replace(config, places={}) == NodeConfig(
        name="n1",
        listen=Address("0.0.0.0", 7000),  # noqa: S104 -- read from the file, not bound
        advertise=Address("n1", 7000),
        status=Address("::", 7001),
        secret_file=tmp_path / "secret",
        state_dir=Path("/state"),
        peers=(PeerSource(Address("n2", 7000)), PeerSource(Address("nodes", 7000), dns=True)),
        access=("deny * *", "allow n2 read kept"),
        volumes=(Path("/mnt/shared"), Path("/data")),
        grace=2.0,
        resolve_every=0.5,
        log_level="debug",
        log_format="text",
        pools=(
            PoolConfig("scratch", "memory", max_bytes=64 << 20),
            PoolConfig("kept", "sqlite", tmp_path / "kept.sqlite"),
        ),
        limits=Limits(max_links=7, max_body=1 << 20, spin=0.0),
    )


def test_environment_says_the_same() -> None:
    """What a file can say in lists and tables, the environment says in one line."""
    config = load(
        {},
        {
            **SECRET,
            "LAILA_PEERS": "n2:7000, dns:nodes:7000,",
            "LAILA_POOLS": "scratch=memory,kept=sqlite:/data/kept.sqlite",
            "LAILA_ACCESS": "deny * *; allow n2 read kept",
            "LAILA_VOLUMES": "/mnt/shared, /data",
            "LAILA_LIMITS": "max_links=7,max_body=1MiB,spin=0.00005",
        },
    )
    assert config.peers == (PeerSource(Address("n2", 7000)), PeerSource(Address("nodes", 7000), dns=True))
    assert config.pools == (
        PoolConfig("scratch", "memory"),
        PoolConfig("kept", "sqlite", Path("/data/kept.sqlite")),
    )
    assert config.access == ("deny * *", "allow n2 read kept")
    assert config.volumes == (Path("/mnt/shared"), Path("/data"))
    assert config.limits == Limits(max_links=7, max_body=1 << 20, spin=0.00005)


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    """Each source hides the ones below it."""
    file = write(tmp_path, 'name = "file"\ngrace = 1\nlog_level = "error"\n')
    environ = {**SECRET, "LAILA_NAME": "env", "LAILA_GRACE": "2", "LAILA_LOG_FORMAT": ""}
    config = load({"name": "flag", "grace": None, "peers": ["a:1", "b:2,c:3"]}, environ, config_file=file)
    assert (config.name, config.grace, config.log_level, config.log_format) == ("flag", 2.0, "error", "json")
    assert [str(peer) for peer in config.peers] == ["a:1", "b:2", "c:3"]
    assert config.places == {
        "name": "--name",
        "grace": "LAILA_GRACE",
        "log_level": f"{file}:3",
        "peers": "--peers",
        "secret_file": "LAILA_SECRET_FILE",
    }


WRONG_FILES = [
    ('nam = "x"', r"nam \(.*node.toml:1\): this key is not known; did you mean 'name'\?"),
    ("\n\nzzz = 1", r"zzz \(.*node.toml:3\): this key is not known; known are name, listen, "),
    ("listen = 7400", r"listen \(.*:1\): it is a number where an address like '0.0.0.0:7400' belongs"),
    ('name = "a b"', r"name \(.*:1\): 'a b' is no node name"),
    ('peers = "n2"', r"peers \(.*:1\): 'n2' has no port; write it like 'node2:7400'"),
    ('peers = ["dns:n2"]', r"peers \(.*:1\): 'n2' has no port; write it like 'dns:nodes:7400'"),
    ('volumes = "data"', r"volumes \(.*:1\): 'data' is no absolute path; write volumes from the root"),
    ("peers = [1]", r"peers \(.*:1\): it must be a list of addresses"),
    ("grace = true", r"grace \(.*:1\): it is a boolean; write a number of seconds"),
    ("grace = nan", r"grace \(.*:1\): nan seconds is out of range"),
    ('log_level = "loud"', r"log_level \(.*:1\): 'loud' is not known; use debug, info, warning or error"),
    ("[pools]\nkept = 3", r"pools \(.*:2\): pool 'kept' is a number"),
    ('[pools.kept]\nkind = "sqlite"', r"pools \(.*:2\): pool 'kept' of kind 'sqlite' needs a path"),
    ('[pools.a]\nkind = "tape"', r"pools \(.*:2\): .*unknown kind 'tape'; use one of memory, "),
    ('[pools.a]\nkind = "memory"\npth = "x"', r"pools \(.*:3\): .*unknown key 'pth'"),
    (
        '[pools.a]\nkind = "memory"\nmax_bytes = "5 apples"',
        r"pools \(.*:3\): .*'5 apples' is no number or size",
    ),
    ('[pools.a]\nkind = "memory"\npath = "x"', r"pools \(.*:2\): .*takes no path"),
    (
        '[pools.a]\nkind="sqlite"\npath="x"\n[pools.b]\nkind="sqlite"\npath="x"',
        r"two pools use the path .*x; give each its own",
    ),
    ("[limits]\nmax_link = 3", r"limits \(.*:2\): no limit is called 'max_link'; did you mean 'max_links'\?"),
    ("[limits]\nmax_links = 1.5", r"limits \(.*:2\): limit 'max_links' is a whole number, not 1.5"),
    ("[limits]\nmax_links = -1", r"limits \(.*:2\): limit 'max_links' is -1; write a number above 0"),
    ('[limits]\nmax_links = "many"', r"limits \(.*:2\): limit 'max_links': 'many' is no number"),
    ("[limits]\nping_interval = 60", r"limits \(.*:1\): limit dead_after .* must be above ping_interval"),
    ("name = \n", r"node.toml:1: not valid TOML at column 8: invalid value; correct that line"),
    ('name = "a"\nname = "b"', r"node.toml: not valid TOML at its end: cannot overwrite a value; correct"),
    ('listen = "a:7480"\nstatus = "0.0.0.0:7480"', r"status \(.*:2\): .* is also the listening address"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG_FILES, ids=[text for text, _ in WRONG_FILES])
def test_wrong_file_names_key_and_line(tmp_path: Path, text: str, sentence: str) -> None:
    """Each mistake in a file is one sentence with the key and the line of the mistake."""
    with pytest.raises(BadConfig) as caught:
        load({}, SECRET, config_file=write(tmp_path, text))
    assert re.search(sentence, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


WRONG_TEXTS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"listen": "1"}, {}, r"listen \(--listen\): '1' has no port"),
    ({"listen": "::1:5"}, {}, r"listen \(--listen\): '::1:5' is ambiguous; .*brackets"),
    ({"listen": "a:99999"}, {}, r"listen \(--listen\): port 99999 is outside 0..65535"),
    ({"advertise": "a:0"}, {}, r"advertise \(--advertise\): port 0 in 'a:0' cannot be dialed"),
    ({"grace": "soon"}, {}, r"grace \(--grace\): 'soon' is no number of seconds"),
    ({}, {"LAILA_POOLS": "kept"}, r"pools \(LAILA_POOLS\): 'kept' is no pool; write NAME=KIND"),
    ({}, {"LAILA_POOLS": "a=memory,a=memory"}, r"pools \(LAILA_POOLS\): the pool 'a' is named twice"),
    ({}, {"LAILA_LIMITS": "max_links=no"}, r"limits \(LAILA_LIMITS\): limit 'max_links': 'no' is no number"),
    (
        {},
        {"LAILA_VOLUMES": "data"},
        r"volumes \(LAILA_VOLUMES\): 'data' is no absolute path; write volumes from",
    ),
    ({}, {"LAILA_SECRET_FILE": ""}, r"secret_file is not set; run `laila secret new"),
    ({}, {"LAILA_CONFIG": "/no/such.toml"}, r"config file /no/such.toml cannot be read: No such file"),
]


@pytest.mark.parametrize(("flags", "environ", "sentence"), WRONG_TEXTS, ids=[s for *_, s in WRONG_TEXTS])
def test_wrong_text_names_key_and_source(
    flags: dict[str, Any], environ: dict[str, str], sentence: str
) -> None:
    """Each mistake in a flag or variable is one sentence that names it."""
    with pytest.raises(BadConfig, match=sentence):
        load(flags, {**SECRET, **environ})


def test_misspelt_variable_is_noticed() -> None:
    """A variable that nearly is a setting gets a hint; what an orchestrator injects does not."""
    environ = {"LAILA_SECRETFILE": "x", "LAILA_PORT_7400_TCP": "x", "LAILA_LAB_SEED": "1", "LAILA_NAME": "a"}
    assert strangers(environ) == [
        "LAILA_SECRETFILE is set but is no setting; did you mean LAILA_SECRET_FILE?"
    ]


def test_every_key_and_limit_is_documented() -> None:
    """docs/node.md has a row for each key, its variable and flag, and for each limit."""
    text = (ROOT / "docs" / "node.md").read_text()
    missing = [key.name for key in KEYS if f"| `{key.name}` | `{key.env}` | `{key.flag}` |" not in text]
    missing += [limit.name for limit in dataclasses.fields(Limits) if f"| `{limit.name}` |" not in text]
    assert missing == []
