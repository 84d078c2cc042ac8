"""The fault agent: it breaks the network and the mounts of one node, where that node is, and mends all that it broke.

One file of the standard library alone (Python 3.9 or newer), so that it can be put anywhere: beside a container as a
process of the host that enters its namespaces (`--pid`), in a side container that shares its network, on a machine
behind ssh. It needs root rights there. It takes operations as JSON lines on its input and answers on its output, as
docs/lab.md says; what it cannot do is an error with a reason.

Whatever it did is undone when its input ends, on SIGTERM, and when a lease runs out that nobody renewed. Everything in
the kernel is named after the fault: chains LAILA-<id>, a class of the queueing discipline 1a17:, mounts laila-<id>. So
another agent can clear what a killed one left. Packets are delayed by a child that holds them; without it they pass.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import heapq
import ipaddress
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Callable, Iterable, Iterator  # noqa: UP035  Python 3.9 too

MAX_LINE = 1 << 20
WORKERS = 24
TOOL_SECONDS = 20.0
SYSTEM_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
ROOT_QDISC = "1a17:"
"""Ours, among the queueing disciplines of a device."""
REPLACEABLE = ("noqueue", "pfifo_fast", "fq_codel", "fq", "mq", "pfifo")
"""Disciplines that the kernel puts there by itself, and puts back when ours goes."""
TABLES = ("filter", "mangle")
_ID = re.compile(r"[0-9a-z]{1,16}")


class Refused(Exception):
    """An operation that is wrong, or that cannot be done here: the sentence says why."""

    def __init__(self, message: str, code: str = "Refused") -> None:
        super().__init__(message)
        self.code = code


def refuse(why: str) -> Refused:
    return Refused(why, "BadRequest")


# -- what a request says


def fault_id(request: dict[str, Any]) -> str:
    found = request.get("fault")
    if not isinstance(found, str) or not _ID.fullmatch(found):
        raise refuse(f"fault must be 1 to 16 lower-case letters and digits, not {found!r}")
    return found


def number(request: dict[str, Any], key: str, default: float | None, least: float, most: float) -> float:
    found = request.get(key, default)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not least <= found <= most:
        raise refuse(f"{key} must be a number from {least:g} to {most:g}, not {found!r}")
    return found


def text(request: dict[str, Any], key: str, *among: str) -> str:
    found = request.get(key, among[0] if among else None)
    if not isinstance(found, str) or (among and found not in among):
        raise refuse(f"{key} must be {' or '.join(among) or 'a text'}, not {found!r}")
    return found


def addresses(request: dict[str, Any]) -> list[str]:
    found = request.get("peers")
    if not isinstance(found, list) or not found:
        raise refuse(f"peers must be a list of addresses, not {found!r}")
    try:
        return [str(ipaddress.ip_address(one)) for one in found]
    except ValueError as error:
        raise refuse(f"peers: {error}") from None


# -- programs of the system


def tool(*names: str) -> str:
    """The path of the first of these programs that is here, else nothing."""
    search = f"{os.environ.get('PATH', '')}:{SYSTEM_PATHS}"
    return next((path for path in (shutil.which(name, path=search) for name in names) if path), "")


def run(argv: list[str], given: str = "") -> str:
    """Its output. Raises Refused with its last complaint."""
    try:
        done = subprocess.run(
            argv, input=given, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{' '.join(argv)} did not end within {TOOL_SECONDS:g} s") from None
    except OSError as error:
        raise Refused(f"{argv[0]}: {error.strerror}") from None
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith("Try `")]
        raise Refused(f"{' '.join(argv)}: {' '.join(said)[-300:] or f'exit code {done.returncode}'}")
    return done.stdout


def enter(pid: int, what: str, flag: int) -> None:
    """Go into a namespace of that process, this thread and those that it starts."""
    try:
        with open(f"/proc/{pid}/ns/{what}", "rb") as namespace:  # noqa: PTH123  one file, one idiom
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), flag):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise Refused(f"cannot enter the {what} namespace of process {pid}: {error.strerror}") from None


def start_time(pid: int) -> str:
    """By which a process is known, because its number is given again."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123  as above
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


# -- packet filters


class Tables:
    """iptables, and ip6tables for peers with such addresses: one chain for each fault and table."""

    def __init__(self) -> None:
        self._programs = {
            4: tool("iptables", "iptables-nft", "iptables-legacy"),
            6: tool("ip6tables", "ip6tables-nft", "ip6tables-legacy"),
        }

    def program(self, version: int) -> str:
        if not self._programs[version]:
            raise Refused(f"there is no {'iptables' if version == 4 else 'ip6tables'} here; install iptables")
        return self._programs[version]

    def install(self, name: str, table: str, hooks: list[str], rules: Iterable[tuple[int, str]]) -> None:
        """Make the chain of a fault, with rules of an address family each, first in those hooks. All or nothing
        for each family.
        """
        every = list(rules)
        for version in (4, 6):
            mine = [rule for family, rule in every if family == version]
            if not mine:
                continue
            chain = f"LAILA-{name}"
            lines = [f"*{table}", f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in mine)]
            lines += [f"-I {hook} 1 -j {chain}" for hook in hooks]
            program = self.program(version)
            restore = f"{program}-restore"
            run([restore, "-w", "5", "--noflush"], "\n".join([*lines, "COMMIT", ""]))

    def remove(self, name: str, table: str) -> bool:
        """Whether there was one."""
        found = False
        chain = f"LAILA-{name}"
        for version, program in self._programs.items():
            if not program:
                continue
            listed = self._listed(version, table)
            if f"-N {chain}" not in listed:
                continue
            hooks = [line.split()[1] for line in listed if line.endswith(f" -j {chain}")]
            lines = [f"*{table}", *(f"-D {hook} -j {chain}" for hook in hooks), f"-F {chain}", f"-X {chain}"]
            run([f"{program}-restore", "-w", "5", "--noflush"], "\n".join([*lines, "COMMIT", ""]))
            found = True
        return found

    def names(self) -> set[str]:
        """The faults that have a chain."""
        chains = [
            line[len("-N LAILA-") :]
            for version, program in self._programs.items()
            for table in TABLES
            if program
            for line in self._listed(version, table)
            if line.startswith("-N LAILA-")
        ]
        return set(chains)

    def counters(self, name: str) -> list[dict[str, Any]]:
        """Packets and bytes that met each rule of a fault."""
        found = []
        for version, program in self._programs.items():
            for table in TABLES:
                if not program or f"-N LAILA-{name}" not in self._listed(version, table):
                    continue
                for line in run([program, "-w", "5", "-t", table, "-v", "-S", f"LAILA-{name}"]).splitlines():
                    rule, counted, rest = line.partition(" -c ")
                    if counted:
                        packets, size, verdict = rest.split(" ", 2)
                        shown = f"{rule.split(' ', 2)[-1]} {verdict}"
                        found.append({"rule": shown, "packets": int(packets), "bytes": int(size)})
        return found

    def _listed(self, version: int, table: str) -> list[str]:
        try:
            return run([self._programs[version], "-w", "5", "-t", table, "-S"]).splitlines()
        except Refused:
            if version == 6:
                return []  # a kernel without IPv6
            raise


def filter_rules(request: dict[str, Any]) -> list[tuple[int, str]]:
    """`rules`: direction in, out or both; peers; proto tcp, udp or any; packets all, new (they open a connection) or
    open (they belong to one); action drop or reset; chance; local_port and peer_port.
    """
    wanted = request.get("rules")
    if not isinstance(wanted, list) or not wanted or not all(isinstance(one, dict) for one in wanted):
        raise refuse("rules must be a list of objects")
    return [rule for one in wanted for rule in _rules_of(one)]


def _rules_of(one: dict[str, Any]) -> Iterator[tuple[int, str]]:
    proto = text(one, "proto", "any", "tcp", "udp")
    packets = text(one, "packets", "all", "new", "open")
    action = text(one, "action", "drop", "reset")
    direction = text(one, "direction", "in", "out", "both")
    if proto != "tcp" and (packets != "all" or action == "reset"):
        raise refuse("packets and reset need proto tcp")
    words = [] if proto == "any" else [f"-p {proto}"]
    if packets == "new":
        words.append("--tcp-flags FIN,SYN,RST,ACK SYN")
    elif packets == "open":
        words.append("--tcp-flags SYN,RST NONE")  # not the resets that this rule itself sends
    chance = number(one, "chance", 1.0, 0.0, 1.0)
    if chance < 1:
        words.append(f"-m statistic --mode random --probability {chance:.6f}")
    words.append("-j DROP" if action == "drop" else "-j REJECT --reject-with tcp-reset")
    ports = {key: int(number(one, key, 0, 0, 65535)) for key in ("local_port", "peer_port")}
    if any(ports.values()) and proto == "any":
        raise refuse("ports need proto tcp or udp")
    for way in ("in", "out") if direction == "both" else (direction,):
        theirs, ours = ("--sport", "--dport") if way == "in" else ("--dport", "--sport")
        some = [f"{theirs} {ports['peer_port']}"] if ports["peer_port"] else []
        some += [f"{ours} {ports['local_port']}"] if ports["local_port"] else []
        for peer in addresses(one):
            at = f"{'-s' if way == 'in' else '-d'} {peer}"
            yield ipaddress.ip_address(peer).version, " ".join([at, *words[:1], *some, *words[1:]])


# -- queues: bandwidth, and delay where the kernel does it


class Queues:
    """A class for each fault under one classful discipline of ours, on every device. What is not of a fault passes
    unqueued; a chain of the fault in `mangle` says what is.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def install(self, name: str, peers: list[str], leaf: Callable[[str], list[str]]) -> list[str]:
        """A class for each peer; `leaf` gives its discipline on a device. Returns the devices. The chain comes first
        and goes last, because it says which classes there are.
        """
        there = devices()
        if not there:
            raise Refused("there is no network device here that is up, besides the loopback")
        minors = {
            peer: f"{ROOT_QDISC}{1 + zlib.crc32(f'{name} {peer}'.encode()) % 0xFFFE:x}" for peer in peers
        }
        for device in there:
            if self._root(device) != ROOT_QDISC:
                self._tc("qdisc", "replace", "dev", device, "root", "handle", ROOT_QDISC, "htb")
            if taken := self._classes(device) & set(minors.values()):
                raise Refused(f"another fault has the class {min(taken)} of {device}")
        rules = [
            (ipaddress.ip_address(peer).version, f"-d {peer} -j CLASSIFY --set-class {minor}")
            for peer, minor in minors.items()
        ]
        self._tables.install(name, "mangle", ["POSTROUTING"], rules)
        for device in there:
            for minor in minors.values():
                parent = ["parent", ROOT_QDISC, "classid", minor, "htb", "rate", "32gbit", "quantum", "60000"]
                self._tc("class", "add", "dev", device, *parent)
                self._tc("qdisc", "add", "dev", device, "parent", minor, *leaf(device))
        return there

    def remove(self, name: str) -> bool:
        """Before the chain of the fault goes, which says which classes are its own."""
        if not tool("tc"):
            return False
        said = [one["rule"].partition("--set-class ")[2] for one in self._tables.counters(name)]
        mine = {_class(one) for one in said if one}
        found = False
        for device in devices(up=False):
            if self._shown(device) != ROOT_QDISC:
                continue
            classes = self._classes(device)
            for minor in classes & mine:
                self._tc("class", "del", "dev", device, "classid", minor)
                found = True
            if not classes - mine:
                self._tc("qdisc", "del", "dev", device, "root")
        return found

    def _root(self, device: str) -> str:
        """The handle of its root discipline. Raises Refused for one that somebody set up and that we would destroy."""
        shown = self._tc("qdisc", "show", "dev", device)
        for line in shown.splitlines():
            kind, handle = line.split()[1:3]
            if " root " in f"{line} " and kind not in REPLACEABLE and handle != ROOT_QDISC:
                raise Refused(f"{device} has a queueing discipline of somebody's own ({kind} {handle})")
        return self._shown(device)

    def _shown(self, device: str) -> str:
        words = [line.split() for line in self._tc("qdisc", "show", "dev", device).splitlines()]
        return next((line[2] for line in words if "root" in line), "")

    def _classes(self, device: str) -> set[str]:
        shown = self._tc("class", "show", "dev", device)
        found = {line.split()[2] for line in shown.splitlines() if line.startswith("class htb")}
        return {one for one in found if one.startswith(ROOT_QDISC)}

    @staticmethod
    def _tc(*words: str) -> str:
        program = tool("tc")
        if not program:
            raise Refused("there is no tc here; install iproute2")
        return run([program, *words])


def _class(written: str) -> str:
    """As tc writes it: iptables pads the numbers with zeros."""
    major, _, minor = written.partition(":")
    return f"{int(major, 16):x}:{int(minor, 16):x}"


def devices(up: bool = True) -> list[str]:
    """Network devices besides the loopback."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(asking, 0x8913, struct.pack("16sH14x", name.encode(), 0))  # SIOCGIFFLAGS
            flags = struct.unpack("16sH14x", answer)[1]
            if not flags & 0x8 and (flags & 0x1 or not up):
                found.append(name)
    return found


def mtu(device: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        answer = fcntl.ioctl(asking, 0x8921, struct.pack("16si12x", device.encode(), 0))  # SIOCGIFMTU
    return int(struct.unpack("16si12x", answer)[1])


# -- packets that are held: a process of its own, so that nothing else makes them late


class Hold:
    """The child that holds packets of one queue of the kernel's."""

    def __init__(self, queue: int, ms: float, jitter_ms: float) -> None:
        words = [sys.executable, "-I", os.path.abspath(__file__), "--hold", f"{queue},{ms},{jitter_ms}"]  # noqa: PTH100
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if self._process.stdout.readline().strip() != "ready":
            complaint = self._process.stderr.read().strip().splitlines()
            self.end()
            why = complaint[-1] if complaint else "no reason given"
            raise Refused(f"packets cannot be held here: {why}", "NoQueue")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """It lets go of what it holds."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=5)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None and not pipe.closed:
                pipe.close()


def hold(queue: int, seconds: float, jitter: float) -> None:
    """Hold each packet of a queue for so long, those of one flow in their order, until the input ends."""
    _QUEUE, _VERDICT, _CONFIG, _ACCEPT = 3 << 8, 1, 2, 1
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as link:  # NETLINK_NETFILTER
        link.setsockopt(270, 5, 1)  # NETLINK_NO_ENOBUFS: what overflows is accepted, not lost
        link.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        link.bind((0, 0))

        def message(kind: int, *parts: tuple[int, bytes], flags: int = 1) -> bytes:
            body = struct.pack(">BBH", 0, 0, queue)
            for attribute, value in parts:
                body += struct.pack("=HH", 4 + len(value), attribute) + value + b"\0" * (-len(value) % 4)
            return struct.pack("=IHHII", 16 + len(body), _QUEUE | kind, flags, 0, 0) + body

        def configure(*parts: tuple[int, bytes]) -> None:
            link.send(message(_CONFIG, *parts, flags=5))  # REQUEST and ACK
            answer = link.recv(4096)
            code = -int(struct.unpack_from("=i", answer, 16)[0])
            if code:
                raise OSError(code, f"NFQUEUE {queue}: {os.strerror(code)}")

        configure((1, struct.pack(">BBH", 1, 0, 0)))  # bind
        configure((2, struct.pack(">IB", 64, 2)))  # copy 64 bytes of each packet: enough to know its flow
        configure((3, struct.pack(">I", 65536)))  # how many may wait
        configure(
            (4, struct.pack(">I", 5)), (5, struct.pack(">I", 5))
        )  # accept when full; large packets whole
        print("ready", flush=True)
        link.setblocking(False)
        waiting: list[tuple[float, int, bytes]] = []
        latest: dict[bytes, float] = {}
        count, open_ = 0, True
        while open_:
            now = time.monotonic()
            pause = max(0.0, waiting[0][0] - now) if waiting else None
            ends: list[Any] = [link, 0]
            readable, _, _ = select.select(ends, [], [], pause)
            now = time.monotonic()
            if 0 in readable and not os.read(0, 4096):
                open_ = False
            while link in readable:
                try:
                    arrived = link.recv(65536)
                except BlockingIOError:
                    break
                for packet, flow in _packets(arrived):
                    due = now + seconds + (random.uniform(-jitter, jitter) if jitter else 0.0)  # noqa: S311  no secret
                    due = latest[flow] = max(due, latest.get(flow, 0.0))
                    count += 1
                    heapq.heappush(waiting, (due, count, packet))
            now = time.monotonic()
            while waiting and (waiting[0][0] <= now or not open_):
                verdict = struct.pack(">I", _ACCEPT) + heapq.heappop(waiting)[2]
                with contextlib.suppress(OSError):  # its connection may be gone already
                    link.send(message(_VERDICT, (2, verdict)))
            if len(latest) > 4096:
                latest = {flow: due for flow, due in latest.items() if due > now}


def _packets(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(its number, its flow) of every packet in what the kernel told."""
    at = 0
    while at + 20 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 20:
            return
        if kind == 3 << 8:
            packet, flow, inner, end = b"", b"", at + 20, at + length
            while inner + 4 <= end:
                size, attribute = struct.unpack_from("=HH", data, inner)
                value = data[inner + 4 : inner + size]
                if attribute == 1:
                    packet = value[:4]
                elif attribute == 10:
                    flow = _flow(value)
                inner += max(4, (size + 3) & ~3)
            if packet:
                yield packet, flow
        at += (length + 3) & ~3


def _flow(head: bytes) -> bytes:
    """Protocol, addresses and ports of a packet of which the first bytes are known."""
    if head[0] >> 4 == 6:
        return head[6:7] + head[8:44]
    ports = 4 * (head[0] & 15)
    return head[9:10] + head[12:20] + head[ports : ports + 4]


# -- mounts: another process, because a program with threads cannot enter a mount namespace


def in_mounts(pid: int, what: dict[str, Any]) -> dict[str, Any]:
    """Do it in the mount namespace of that process, by a child."""
    words = [sys.executable, "-I", os.path.abspath(__file__), "--pid", str(pid), "--mount", json.dumps(what)]  # noqa: PTH100
    answer: dict[str, Any] = json.loads(run(words))
    if "error" in answer:
        raise Refused(answer["error"])
    return answer


def mount_child(pid: int, what: dict[str, Any]) -> dict[str, Any]:
    """One act, as `in_mounts` asks for it: look, cover, remount, uncover."""
    libc = ctypes.CDLL(None, use_errno=True)
    known = open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape")  # noqa: PTH123, SIM115
    enter(pid, "mnt", CLONE_NEWNS)  # where /proc is another one

    def call(name: str, *words: Any) -> None:
        if getattr(libc, name)(*words):
            code = ctypes.get_errno()
            raise Refused(f"{name} {what['path']}: {os.strerror(code)}")

    def mount(source: str, kind: str, flags: int, data: str = "") -> None:
        call(
            "mount",
            source.encode(),
            path,
            kind.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        )

    path = os.fsencode(what["path"])
    act = what["act"]
    if act == "cover":  # an empty directory that nobody can write: the disk is gone
        mount(f"laila-{what['name']}", "tmpfs", 1 | 2 | 4 | 8, "size=4k,mode=0555")
    elif act == "remount":  # the same once more on top, where nobody can write
        flags = 0x1000 | 0x20 | 1  # BIND REMOUNT RDONLY
        for option, flag in (("nosuid", 2), ("nodev", 4), ("noexec", 8)):
            flags |= flag if option in top_mount(mounts(known), what["path"]).get("options", []) else 0
        for chances in range(50, 0, -1):  # a node that opened a file for writing in between makes it busy
            mount(what["path"], "", 0x1000)
            try:
                mount("", "", flags)
                break
            except Refused:
                call("umount2", path, 2)
                if chances == 1:
                    raise
    elif act == "uncover":
        while depth(mounts(known), what["path"]) > what["depth"]:
            call("umount2", path, 2 | 8)  # DETACH NOFOLLOW
    elif act == "clear":
        for one in [one for one in mounts(known) if one["source"] == f"laila-{what['name']}"]:
            call("umount2", os.fsencode(one["path"]), 2 | 8)
    return seen(mounts(known), what["path"])


def mounts(known: IO[str]) -> list[dict[str, Any]]:
    """What /proc/PID/mountinfo says now."""
    found = []
    known.seek(0)
    for line in known.read().splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(" "), right.split(" ")
        path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[4])
        found.append({"path": path, "options": fields[5].split(","), "kind": more[0], "source": more[1]})
    return found


def mounts_of(pid: int) -> list[dict[str, Any]]:
    """As that process sees them. Raises Refused when it is gone."""
    try:
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as known:  # noqa: PTH123
            return mounts(known)
    except OSError as error:
        raise Refused(f"the mounts of process {pid} cannot be read: {error.strerror}") from None


def depth(there: list[dict[str, Any]], path: str) -> int:
    """How many mounts lie at that path, one over the other."""
    return sum(one["path"] == path for one in there)


def top_mount(there: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """The mount that is seen there; nothing when it is an ordinary directory."""
    return next((one for one in reversed(there) if one["path"] == path), {})


def seen(there: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """What is mounted at a path: `depth`, and of the uppermost `read_only`, `kind`, `source`, `options`."""
    top = top_mount(there, path)
    facts = {"depth": depth(there, path), "read_only": "ro" in top.get("options", [])}
    return {**facts, **{key: top.get(key) for key in ("kind", "source", "options")}}


# -- measuring between two agents


class Sink:
    """The far end of what other agents measure: one port, TCP and UDP. A connection says first what it wants: `echo`
    gets back what it sends, `drain` is told at its end how much arrived, in which time.
    """

    def __init__(self) -> None:
        self.arrived: dict[bytes, int] = {}
        self._lock = threading.Lock()
        self._tcp = self._bind()
        self.port = int(self._tcp.getsockname()[1])
        family = self._tcp.family
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            self._udp.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: nothing is lost here
        if family == socket.AF_INET6:
            self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._udp.bind(("", self.port))
        for target in (self._accept, self._count):
            threading.Thread(target=target, daemon=True).start()

    @staticmethod
    def _bind() -> socket.socket:
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        return socket.create_server(("", 0), backlog=128)

    def _accept(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # one that was reset before it was taken
                connection, _ = self._tcp.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(300)
            wish = connection.recv(6, socket.MSG_WAITALL)
            began, ended, size = 0.0, 0.0, 0
            while data := connection.recv(1 << 16):
                if wish == b"echo  ":
                    connection.sendall(data)
                ended = time.monotonic()
                began, size = began or ended, size + len(data)
            connection.sendall(json.dumps({"bytes": size, "seconds": ended - began}).encode() + b"\n")

    def _count(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                tag = self._udp.recv(2048)[:8]
                with self._lock:
                    self.arrived[tag] = self.arrived.get(tag, 0) + 1

    def take(self, tag: bytes) -> int:
        with self._lock:
            return self.arrived.get(tag, 0)


OUTCOMES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


def outcome(error: OSError) -> str:
    """What became of a connection, in a word or two."""
    if isinstance(error, socket.timeout):
        return "timed out"
    return OUTCOMES.get(error.errno or 0, f"failed: {error}")


class Probes:
    """Connections of our own to the sinks of other agents."""

    def __init__(self) -> None:
        self._open: dict[int, socket.socket] = {}
        self._numbers = iter(range(1, 1 << 62))

    def connect(self, request: dict[str, Any], wish: bytes) -> tuple[socket.socket, float]:
        host, port = text(request, "host"), int(number(request, "port", None, 1, 65535))
        timeout = number(request, "within", 2.0, 0.01, 120)
        began = time.monotonic()
        made = socket.create_connection((host, port), timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = time.monotonic() - began
        if wish:
            made.sendall(wish)
        return made, took

    def probe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Dial; with `trips`, that many small round trips."""
        trips = int(number(request, "trips", 0, 0, 1000))
        began, took, found = time.monotonic(), None, []
        try:
            made, took = self.connect(request, b"echo  " if trips else b"")
            with made:
                for _ in range(trips):
                    found.append(self._trip(made))
        except OSError as error:
            said = outcome(error)
            return {
                "outcome": said if took is None else f"connected, then {said}",
                "seconds": time.monotonic() - began,
                "trips": found,
            }
        return {"outcome": "connected", "seconds": took, "trips": found}

    @staticmethod
    def _trip(connection: socket.socket) -> float:
        began = time.monotonic()
        connection.sendall(b"x")
        if not connection.recv(1):
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        return time.monotonic() - began

    def dial(self, request: dict[str, Any]) -> dict[str, Any]:
        """A connection that stays; `local_port` and `peer_port` name it."""
        try:
            made, took = self.connect(request, b"echo  ")
        except OSError as error:
            raise Refused(f"cannot connect: {outcome(error)}", "Unconnected") from None
        key = next(self._numbers)
        self._open[key] = made
        local, peer = made.getsockname()[1], made.getpeername()[1]
        return {"connection": key, "seconds": took, "local_port": local, "peer_port": peer}

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """One round trip on a connection that stays."""
        made = self._of(request)
        began = time.monotonic()
        try:
            made.settimeout(number(request, "within", 2.0, 0.01, 120))
            took = self._trip(made)
        except OSError as error:
            return {"outcome": outcome(error), "seconds": time.monotonic() - began}
        return {"outcome": "answered", "seconds": took}

    def hang_up(self, request: dict[str, Any]) -> dict[str, Any]:
        made = self._of(request)
        self._open.pop(int(request["connection"]), None)
        made.close()
        return {}

    def _of(self, request: dict[str, Any]) -> socket.socket:
        key = int(number(request, "connection", None, 0, 1 << 62))
        if key not in self._open:
            raise refuse(f"there is no connection {key}")
        return self._open[key]

    def pour(self, request: dict[str, Any]) -> dict[str, Any]:
        """As much as goes through in `seconds`, at most `bytes`; what arrived, by the word of the far end."""
        seconds = number(request, "seconds", 1.0, 0.01, 60)
        most = int(number(request, "bytes", 1 << 30, 1, 1 << 40))
        block, sent = b"x" * 16384, 0
        try:
            made, _ = self.connect(request, b"")
            with made:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                made.sendall(b"drain ")
                end = time.monotonic() + seconds
                while sent < most and time.monotonic() < end:
                    sent += made.send(block[: most - sent])
                made.shutdown(socket.SHUT_WR)
                made.settimeout(seconds + number(request, "within", 2.0, 0.01, 120))
                said = made.recv(4096)
        except OSError as error:
            raise Refused(f"pouring ended: {outcome(error)}", "Unconnected") from None
        arrived: dict[str, Any] = json.loads(said or b"{}")
        return arrived

    def burst(self, request: dict[str, Any]) -> dict[str, Any]:
        """`count` datagrams that bear `tag`, evenly, `rate` a second."""
        host, port = text(request, "host"), int(number(request, "port", None, 1, 65535))
        count, rate = int(number(request, "count", 100, 1, 100_000)), number(request, "rate", 5000, 1, 1e6)
        tag = tag_of(request)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        lost, began = 0, time.monotonic()
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            for n in range(count):
                try:
                    sending.sendto(tag + n.to_bytes(8, "big") + b"x" * 48, (host, port))
                except OSError:
                    lost += 1  # our own side dropped it: to the sender of a datagram that is an error
                if (ahead := began + (n + 1) / rate - time.monotonic()) > 0.002:
                    time.sleep(ahead)
        return {"sent": count, "refused": lost, "seconds": time.monotonic() - began}


def tag_of(request: dict[str, Any]) -> bytes:
    found = text(request, "tag").encode()
    if len(found) != 8:
        raise refuse("tag must be 8 bytes")
    return found


def connections(peers: Iterable[str]) -> list[list[Any]]:
    """TCP connections with these addresses that stand: ours, our port, theirs, their port."""
    wanted = {ipaddress.ip_address(peer) for peer in peers}
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/thread-self/net/{name}", encoding="ascii") as file:  # noqa: PTH123
            next(file)
            for line in file:
                _, local, remote, state, *_ = line.split()
                if state == "01":  # ESTABLISHED
                    (here, port), (there, their_port) = _socket(local), _socket(remote)
                    if there in wanted:
                        found.append([str(here), port, str(there), their_port])
    return found


def _socket(written: str) -> tuple[Any, int]:
    """An address and a port, as /proc/net writes them: 32-bit words in the machine's own order."""
    address, _, port = written.partition(":")
    words = struct.pack(
        f"={len(address) // 8}I", *(int(address[n : n + 8], 16) for n in range(0, len(address), 8))
    )
    found = ipaddress.ip_address(words)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found, int(port, 16)


# -- the agent


class Agent:
    """The operations, and the book of what was done."""

    def __init__(self, pid: int, lease: float) -> None:
        self.pid = pid
        self.lease = lease
        self.lease_until = time.monotonic() + lease if lease else 0.0
        self.detached_until = 0.0
        self._target = start_time(pid) if pid else ""
        self._devices = dict(socket.if_nameindex())
        self._tables = Tables()
        self._queues = Queues(self._tables)
        self._probes = Probes()
        self._sink: Sink | None = None
        self._book: dict[str, None] = {}
        self._holds: dict[str, Hold] = {}
        self._mounts: list[tuple[str, str, int]] = []
        self._lock = threading.RLock()
        self._over = False
        self.operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "hello": self.hello,
            "filter": self.filter,
            "shape": self.shape,
            "delay": self.delay,
            "counters": self.counters,
            "clear": self.clear,
            "left": self.left,
            "connections": lambda request: {"connections": connections(addresses(request))},
            "sink": self.sink,
            "counted": self.counted,
            "probe": self._probes.probe,
            "pour": self._probes.pour,
            "burst": self._probes.burst,
            "dial": self._probes.dial,
            "exchange": self._probes.exchange,
            "hang_up": self._probes.hang_up,
            "mounts": self.look,
            "cover": self.cover,
            "remount": self.remount,
            "uncover": self.uncover,
            "lease": self.renew,
            "detach": self.detach,
        }

    def answer(self, request: Any) -> dict[str, Any]:
        """Whatever the request is, an answer."""
        known = request if isinstance(request, dict) else {}
        base = {"id": known.get("id")}
        try:
            operation = self.operations.get(str(known.get("op")))
            if operation is None:
                raise refuse(f"no operation {known.get('op')!r}; there are {', '.join(self.operations)}")
            return {**base, "ok": True, "result": operation(known)}
        except Refused as error:
            return {**base, "ok": False, "error": {"code": error.code, "message": str(error)}}
        except Exception as error:  # an agent that dies of one request would lift every fault
            message = f"{type(error).__name__}: {error}"
            return {**base, "ok": False, "error": {"code": "AgentError", "message": message}}

    # -- about itself

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """`alive`: it is still where the node is."""
        return {
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "target": self.pid,
            "alive": self.alive,
            "lease": self.lease,
            "devices": devices(),
            "tools": {name: tool(name, f"{name}-nft") for name in ("iptables", "ip6tables", "tc")},
            "namespaces": {
                what: os.stat(f"/proc/thread-self/ns/{what}").st_ino  # noqa: PTH116
                for what in ("net", "mnt", "pid")
            },
            "faults": sorted(self._book),
        }

    @property
    def alive(self) -> bool:
        """Whether the node that it was started for still has this network."""
        if self.pid:
            return bool(self._target) and start_time(self.pid) == self._target
        here = dict(socket.if_nameindex())
        lost = {key for key in self._devices if key not in here}
        return not lost or len(here) > 1

    def renew(self, request: dict[str, Any]) -> dict[str, Any]:
        """Go on for so many seconds from now, then undo everything unless this is said again; 0: without end."""
        self.lease = number(request, "seconds", self.lease, 0, 86400)
        self.lease_until = time.monotonic() + self.lease if self.lease else 0.0
        return {"seconds": self.lease}

    def detach(self, request: dict[str, Any]) -> dict[str, Any]:
        """Go on without input for so many seconds from now."""
        seconds = number(request, "seconds", None, 0, 86400)
        self.detached_until = time.monotonic() + seconds
        self.lease = self.lease_until = 0.0
        return {"seconds": seconds}

    # -- the network

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """Into the book; taken back when it fails half way. What the fault did before ends."""
        with self._lock:
            if self._over:
                raise Refused("the agent is ending")
            try:
                yield
                self._book[name] = None
            except BaseException:
                self._undo(name)
                raise

    def filter(self, request: dict[str, Any]) -> dict[str, Any]:
        """Packets that match `rules` are dropped or answered with a reset; an earlier filter of this fault ends."""
        name, rules = fault_id(request), filter_rules(request)
        with self._changing(name):
            self._undo(name)
            self._tables.install(name, "filter", ["INPUT", "OUTPUT"], rules)
        return {"rules": len(rules)}

    def shape(self, request: dict[str, Any]) -> dict[str, Any]:
        """What goes to `peers` goes at `kbit` at most."""
        name, peers, kbit = fault_id(request), addresses(request), number(request, "kbit", None, 8, 1e8)

        def leaf(device: str) -> list[str]:
            burst = max(mtu(device) + 1000, round(kbit * 1.25))  # 10 ms of it
            return ["tbf", "rate", f"{kbit:g}kbit", "burst", str(burst), "latency", "400ms"]

        with self._changing(name):
            self._undo(name)
            return {"devices": self._queues.install(name, peers, leaf)}

    def delay(self, request: dict[str, Any]) -> dict[str, Any]:
        """What comes from `peers` comes `ms` later, give or take `jitter_ms`, each flow in its order: a queue of the
        kernel's does it, which a child of this agent serves. Where packets arrive, because a sender that still owns
        those that are held sends no more. A kernel without such queues (error NoQueue) may have netem, which does it
        to what goes to `peers` (`direction` out).
        """
        name, peers = fault_id(request), addresses(request)
        ms, jitter = number(request, "ms", None, 0, 60_000), number(request, "jitter_ms", 0, 0, 60_000)
        jitter = min(jitter, ms)
        leaf = ["netem", "limit", "100000", "delay", f"{ms:g}ms", f"{jitter:g}ms"]
        outward = text(request, "direction", "in", "out") == "out"
        with self._changing(name):
            self._undo(name)
            if outward:
                return {"by": "netem", "devices": self._queues.install(name, peers, lambda device: leaf)}
            queue = 1 + zlib.crc32(name.encode()) % 0xFFFE
            self._holds[name] = Hold(queue, ms / 1000, jitter / 1000)
            target = f"-j NFQUEUE --queue-num {queue} --queue-bypass"
            rules = [(ipaddress.ip_address(peer).version, f"-s {peer} {target}") for peer in peers]
            self._tables.install(name, "mangle", ["INPUT"], rules)
            return {"by": "queue", "holder": self._holds[name].pid}

    def counters(self, request: dict[str, Any]) -> dict[str, Any]:
        """What each rule of a fault has met so far."""
        found = self._tables.counters(fault_id(request))
        return {
            "rules": found,
            "packets": sum(rule["packets"] for rule in found),
            "bytes": sum(rule["bytes"] for rule in found),
        }

    def clear(self, request: dict[str, Any]) -> dict[str, Any]:
        """Undo all of a fault, whoever did it. `found`: there was something."""
        name = fault_id(request)
        with self._lock:
            return {"found": self._undo(name)}

    def left(self, request: dict[str, Any]) -> dict[str, Any]:
        """Faults that something in the kernel is named after."""
        return {"faults": sorted(self._tables.names())}

    # -- mounts

    def cover(self, request: dict[str, Any]) -> dict[str, Any]:
        """Mount an empty directory that nobody can write over `path`. `was`: the depth of mounts there before."""
        return self._over_mount("cover", request)

    def remount(self, request: dict[str, Any]) -> dict[str, Any]:
        """Mount `path` over itself once more, read-only. Files that are open for writing stay so."""
        return self._over_mount("remount", request)

    def _over_mount(self, act: str, request: dict[str, Any]) -> dict[str, Any]:
        name = fault_id(request)
        with self._changing(name):
            was = self.look(request)["depth"]
            self._mounts.append((name, self._path(request), was))
            return {**self._mounting(act, request, name=name), "was": was}

    def uncover(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take mounts away from over `path` until `depth` are left."""
        down_to = int(number(request, "depth", None, 0, 1000))
        with self._lock:
            return self._mounting("uncover", request, depth=down_to)

    def look(self, request: dict[str, Any]) -> dict[str, Any]:
        """What is mounted at `path`, and how many deep."""
        return seen(mounts_of(self._inside()), self._path(request))

    def _mounting(self, act: str, request: dict[str, Any], **more: Any) -> dict[str, Any]:
        return in_mounts(self._inside(), {"act": act, "path": self._path(request), **more})

    def _inside(self) -> int:
        """The process whose mounts are meant."""
        if not self.pid:
            raise Refused("this agent is not in the node's files: it was started without --pid")
        if not self.alive:
            raise Refused(f"process {self.pid}, whose files this agent would change, is gone")
        return self.pid

    @staticmethod
    def _path(request: dict[str, Any]) -> str:
        path = text(request, "path")
        if not path.startswith("/") or "\0" in path:
            raise refuse(f"path must be absolute, not {path!r}")
        return os.path.normpath(path)

    # -- measuring

    def sink(self, request: dict[str, Any]) -> dict[str, Any]:
        """The port at which other agents measure."""
        with self._lock:
            if self._sink is None:
                self._sink = Sink()
            return {"port": self._sink.port}

    def counted(self, request: dict[str, Any]) -> dict[str, Any]:
        """How many datagrams with that tag have arrived at the sink."""
        tag = tag_of(request)
        return {"arrived": self._sink.take(tag) if self._sink else 0}

    # -- the end

    def undo_all(self) -> list[str]:
        """Everything that this agent did, newest first; what could not be undone."""
        failed = []
        with self._lock:
            self._over = True
            for name in reversed(list(self._book)):
                for attempt in (1, 2, 3):
                    try:
                        self._undo(name)
                        break
                    except Exception as error:  # the rest must be undone all the same
                        if attempt == 3:
                            failed.append(f"{name}: {error}")
                        time.sleep(0.2)
        return failed

    def _undo(self, name: str) -> bool:
        """Classes before the chain that knows them; what is held after the rule that leads there."""
        found = [self._queues.remove(name), *(self._tables.remove(name, table) for table in TABLES)]
        found.append(self._stop_holding(name))
        for entry in [one for one in reversed(self._mounts) if one[0] == name]:
            if self.alive:
                in_mounts(self.pid, {"act": "uncover", "path": entry[1], "depth": entry[2]})
            self._mounts.remove(entry)
            found.append(True)
        if self._covered(name):
            in_mounts(self.pid, {"act": "clear", "path": "/", "name": name})
            found.append(True)
        self._book.pop(name, None)
        return any(found)

    def _covered(self, name: str) -> bool:
        """Whether another agent has covered something under that name."""
        if not self.pid or not self.alive:
            return False
        return any(one["source"] == f"laila-{name}" for one in mounts_of(self.pid))

    @property
    def idle(self) -> bool:
        """Somebody else has undone what this agent did."""
        with self._lock:
            covered = any(
                self.alive and depth(mounts_of(self.pid), path) > was for _, path, was in self._mounts
            )
            return not (covered or self._tables.names() & set(self._book))

    def leave(self) -> None:
        """Go on as a child of nobody, so that whoever started this one sees it end. Only this thread goes on."""
        with self._lock:
            if os.fork():
                os._exit(0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for end in (0, 1, 2):
            os.dup2(nothing, end)

    def _stop_holding(self, name: str) -> bool:
        held = self._holds.pop(name, None)
        if held is not None:
            held.end()
        return held is not None


class Conversation:
    """Lines in, lines out, until the input ends or time is up."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="operation")
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._waker)
        for number_ in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number_, lambda *_: None)  # the byte in the pipe is what counts

    def go_on(self) -> None:
        pending, skipping = b"", False
        while True:
            ready, _, _ = select.select([self._wake, 0], [], [], self._time_left())
            if self._wake in ready or self._time_left() == 0.0:
                return
            if 0 not in ready:
                continue
            data = os.read(0, 65536)
            if not data:
                if self._agent.detached_until:
                    self._agent.leave()
                    self._wait_alone()
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if skipping:
                    skipping = False  # the rest of a line that was too long
                else:
                    self._take(line)
            if len(pending) > MAX_LINE and not skipping:
                skipping = True
                self._say(self._agent.answer({"op": f"a line of over {MAX_LINE} bytes"}))
            if skipping:
                pending = b""

    def _wait_alone(self) -> None:
        """Until time is up, or nothing is left to be undone."""
        while self._time_left() != 0.0:
            ready, _, _ = select.select([self._wake], [], [], min(2.0, self._time_left() or 2.0))
            if ready or self._agent.idle:
                return

    def _time_left(self) -> float | None:
        """Seconds until the lease runs out, or the time without input is over."""
        ends = [end for end in (self._agent.lease_until, self._agent.detached_until) if end]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _take(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = {"op": "a line that is no JSON"}
        if isinstance(request, dict) and request.get("op") in ("lease", "detach"):
            self._say(self._agent.answer(request))  # here, so that what waits for time knows of it
        else:
            self._pool.submit(lambda: self._say(self._agent.answer(request)))

    def _say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer, separators=(",", ":")).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):  # nobody listens: its input ends as well
            while data:
                data = data[os.write(1, data) :]


# -- what this kernel can do


def trial() -> dict[str, str]:
    """For each thing that faults need: empty, or why it cannot be done here. Tried in a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        said = os.strerror(ctypes.get_errno())
        return dict.fromkeys(FEATURES, f"no root rights over the network here: {said}")
    return {name: _tried(attempt) for name, attempt in FEATURES.items()}


def _tried(attempt: Callable[[Tables], None]) -> str:
    try:
        attempt(Tables())
    except Refused as error:
        return str(error)
    return ""


def _try_rule(rule: str) -> Callable[[Tables], None]:
    peer = {"peers": ["192.0.2.1"]}

    def attempt(tables: Tables) -> None:
        wanted: dict[str, dict[str, Any]] = {
            "drop": {},
            "reject": {"proto": "tcp", "packets": "new", "action": "reset"},
            "chance": {"chance": 0.5},
        }
        tables.install(f"try{rule}", "filter", ["INPUT"], list(_rules_of({**peer, **wanted[rule]})))

    return attempt


def _try_delay(tables: Tables) -> None:
    """By a queue, else by netem."""
    try:
        _try_queue(tables)
    except Refused:
        _try_shape(tables)
        run([tool("tc"), "qdisc", "replace", "dev", "lo", "parent", "1a17:1", "netem", "delay", "1ms"])


def _try_queue(tables: Tables) -> None:
    held = Hold(7, 0.001, 0.0)
    try:
        tables.install("tryheld", "mangle", ["INPUT"], [(4, "-j NFQUEUE --queue-num 7 --queue-bypass")])
    finally:
        held.end()


def _try_shape(tables: Tables) -> None:
    tables.install("tryclass", "mangle", ["POSTROUTING"], [(4, "-j CLASSIFY --set-class 1a17:1")])
    program = tool("tc")
    if not program:
        raise Refused("there is no tc here; install iproute2")
    run([program, "qdisc", "replace", "dev", "lo", "root", "handle", ROOT_QDISC, "htb"])
    run(
        [
            program,
            "class",
            "add",
            "dev",
            "lo",
            "parent",
            ROOT_QDISC,
            "classid",
            "1a17:1",
            "htb",
            "rate",
            "1gbit",
        ]
    )
    leaf = ["tbf", "rate", "1mbit", "burst", "99000", "latency", "400ms"]
    run([program, "qdisc", "add", "dev", "lo", "parent", "1a17:1", *leaf])


FEATURES: dict[str, Callable[[Tables], None]] = {
    "drop": _try_rule("drop"),
    "reject": _try_rule("reject"),
    "chance": _try_rule("chance"),
    "delay": _try_delay,
    "shape": _try_shape,
}


def main() -> int:
    """Exit code 0 when all is undone, 1 when something could not be, 2 when it cannot work here."""
    parser = argparse.ArgumentParser(description="the fault agent of laila lab")
    parser.add_argument("--pid", type=int, default=0, help="work in the namespaces of this process")
    parser.add_argument(
        "--lease", type=float, default=0.0, help="seconds after which all is undone unless renewed"
    )
    parser.add_argument(
        "--try", dest="trial", action="store_true", help="print what can be done here, and end"
    )
    parser.add_argument("--hold", default="", help=argparse.SUPPRESS)
    parser.add_argument("--mount", default="", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.mount:
        # One at a time on this host: of an agent that ends and one that clears after it, each would take one away.
        with open(os.path.abspath(__file__), "rb") as turn:  # noqa: PTH100, PTH123  one file, one idiom
            fcntl.flock(turn, fcntl.LOCK_EX)
            try:
                print(json.dumps(mount_child(words.pid, json.loads(words.mount))))
            except Refused as error:
                print(json.dumps({"error": str(error)}))
        return 0
    if words.hold:
        queue, seconds, jitter = words.hold.split(",")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        hold(int(queue), float(seconds), float(jitter))
        return 0
    if words.trial:
        print(json.dumps(trial()))
        return 0
    try:
        if words.pid:
            enter(words.pid, "net", CLONE_NEWNET)
        agent = Agent(words.pid, words.lease)
    except Refused as error:
        print(f"fault agent: {error}", file=sys.stderr)
        return 2
    conversation = Conversation(agent)
    conversation.go_on()
    failed = agent.undo_all()
    for one in failed:
        print(f"fault agent: could not undo {one}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1 if failed else 0)  # threads that still measure do not hold it up


if __name__ == "__main__":
    sys.exit(main())
