"""Where a node listens and whom it dials: `HOST:PORT`, `[IPV6]:PORT` and `dns:NAME:PORT`.

An address is only text here: nothing is resolved, so that a configuration can be read on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- mapped away from, never bound here


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; port 0 lets the system choose. `str(address)` is the text that `parse` reads."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self.host or any(c.isspace() or not c.isprintable() or c in "/,;@" for c in self.host):
            raise ValueError(f"{self.host!r} is no host; write a name, an IPv4 or an [IPv6] address")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is outside 0..65535")

    @classmethod
    def parse(cls, text: str, *, example: str, any_port: bool = False) -> Address:
        """Read `HOST:PORT`; port 0 only with `any_port`. ValueError says what is wrong, with an example."""
        host, colon, port = text.strip().rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port; write it like {example!r}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} is ambiguous; write an IPv6 address in brackets, like '[::1]:7400'")
        if not port.isascii() or not port.isdigit():
            raise ValueError(f"{port!r} is no port number; write it like {example!r}")
        address = cls(host, int(port))
        if address.port == 0 and not any_port:
            raise ValueError(f"port 0 in {text!r} cannot be dialed; write it like {example!r}")
        return address

    def reachable(self) -> Address:
        """The address that a program on the same machine dials: loopback instead of a wildcard."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    @property
    def wildcard(self) -> bool:
        """Whether this stands for every address of the machine."""
        return self.host in _WILDCARDS

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerSource:
    """One item of `peers`: an address, or (`dns:`) a name, looked up again and again, of peers."""

    address: Address
    dns: bool = False

    @classmethod
    def parse(cls, text: str) -> PeerSource:
        """Read `HOST:PORT` or `dns:NAME:PORT`."""
        dns = text.startswith("dns:")
        address = Address.parse(text.removeprefix("dns:"), example="dns:nodes:7400" if dns else "node2:7400")
        return cls(address, dns)

    def __str__(self) -> str:
        return f"dns:{self.address}" if self.dns else str(self.address)
