"""`laila artifact show|verify|log FILE`: what is in an artifact, whether to believe it, and how it came to be."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.cli.main import Parser
from laila.cli.output import plain, show, size, table
from laila.errors import ArtifactError, BadConfig, BadValue, NotFound, StorageError

if TYPE_CHECKING:
    from laila.artifacts import Artifact, Finding, TrustSet

_ABOUT = """\
Look at a MAIF 2.1 artifact. Without --trust and --secret-file a file passes when it is whole and signed by the key
that it names itself; with one of them its signer must also be trusted.

exit codes: 0 it is good; 1 it is not (damaged, unsigned, signed by a stranger, not there); 2 asked wrongly."""

_EXAMPLES = """\
examples:
  laila artifact show report.maif
  laila artifact verify report.maif --secret-file /run/secrets/laila_secret
  laila artifact verify report.maif --trust 3e05741cd67cca2285c32e4c5b03efdd0dc4f79c951dff552701993ff570d2d8
  laila artifact log report.maif --json"""

_COMMANDS = {
    "show": "what is in it: whose it is, who signed it, and its items",
    "verify": "check everything; say what is wrong, and where",
    "log": "how it came to be: its signed provenance, and the versions of its name",
}


def add_artifact(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("artifact", description=_ABOUT, epilog=_EXAMPLES)
    subs = parser.add_subparsers(
        metavar="COMMAND", dest="artifact_command", required=True, parser_class=Parser
    )
    for name, text in _COMMANDS.items():
        sub = subs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_EXAMPLES)
        sub.add_argument("file", metavar="FILE", help="the artifact")
        sub.add_argument(
            "--trust",
            metavar="KEY",
            action="append",
            default=[],
            help="a trusted public key, 64 hex digits; may be repeated",
        )
        sub.add_argument(
            "--secret-file",
            metavar="FILE",
            help="trust every signer that this cluster's authority vouches for",
        )
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from laila.artifacts import load_maif

    trust = _trust(arguments)
    try:
        artifact = load_maif(arguments.file)
        findings = artifact.check(trust)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {arguments.file}") from error
    except ArtifactError as error:
        return _broken(arguments, error)
    except OSError as error:
        raise StorageError(f"cannot read {arguments.file}: {error.strerror}") from error
    tell = {"show": _show, "verify": _verify, "log": _log}[arguments.artifact_command]
    tell(arguments, artifact, findings, trust)
    return 1 if findings else 0


def _trust(arguments: argparse.Namespace) -> TrustSet | None:
    from laila.artifacts import TrustSet
    from laila.node.secretfile import read_secret
    from laila.shared.voucher_file import VoucherFile

    if not arguments.trust and not arguments.secret_file:
        return None
    secret = read_secret(Path(arguments.secret_file)) if arguments.secret_file else None
    try:
        trust = TrustSet(arguments.trust, secret=secret)
        return trust.reading(VoucherFile(Path(arguments.file).parent).read)
    except BadValue as error:
        raise BadConfig(f"--trust: {error}") from error


def _broken(arguments: argparse.Namespace, error: ArtifactError) -> int:
    """A file that cannot even be taken apart."""
    kind = type(error).__name__
    if arguments.json:
        show(
            {
                "file": arguments.file,
                "good": False,
                "kind": kind,
                "findings": [{"kind": "structure", "what": str(error)}],
            }
        )
    else:
        print(f"BAD  {arguments.file}\n  {error}")
    return 1


def _verdict(artifact: Artifact, findings: list[Finding], trust: TrustSet | None) -> str:
    if findings:
        return f"{len(findings)} finding{'s' if len(findings) > 1 else ''}"
    who = f"{plain(artifact.signer_id)}, key {(artifact.signer or '')[:16]}…"
    return f"whole, signed by {who}" + (", trusted" if trust is not None else " (no trust set was given)")


def _whole(findings: list[Finding]) -> bool:
    """Whether what it says of itself can be shown, whoever stands for it."""
    return not any(finding.kind not in ("unsigned", "untrusted") for finding in findings)


def _facts(artifact: Artifact, findings: list[Finding]) -> dict[str, Any]:
    version = artifact.version if _whole(findings) else None
    return {
        "file": artifact.path,
        "good": not findings,
        "findings": [
            {"kind": f.kind, "where": f.where, "what": f.what, "offset": f.offset} for f in findings
        ],
        "agent_id": artifact.agent_id,
        "signer_id": artifact.signer_id,
        "signer": artifact.signer,
        "name": None if version is None else version.name,
        "sequence": 0 if version is None else version.sequence,
        "root": artifact.root,
        "digest": artifact.digest,
        "created": artifact.created,
        "modified": artifact.modified,
    }


def _findings(findings: list[Finding]) -> None:
    for finding in findings[:50]:
        print(f"  {plain(finding)}")
    if len(findings) > 50:
        print(f"  and {len(findings) - 50} more")


def _verify(
    arguments: argparse.Namespace, artifact: Artifact, findings: list[Finding], trust: TrustSet | None
) -> None:
    if arguments.json:
        show(_facts(artifact, findings))
        return
    print(f"{'BAD ' if findings else 'GOOD'}  {arguments.file}: {_verdict(artifact, findings, trust)}")
    _findings(findings)


def _show(
    arguments: argparse.Namespace, artifact: Artifact, findings: list[Finding], trust: TrustSet | None
) -> None:
    whole = _whole(findings)
    items = [_row(item) for item in artifact.get_content_list()] if whole else []
    if arguments.json:
        show({**_facts(artifact, findings), "items": items})
        return
    named = f", {artifact.name!r} version {artifact.sequence}" if whole and artifact.name else ""
    print(f"{arguments.file}: artifact of {plain(artifact.agent_id)}{named}")
    print(f"{_verdict(artifact, findings, trust)}; saved {_when(int(artifact.modified * 1e6))}")
    _findings(findings)
    if not whole:
        print("its content is not shown, because it does not hold together")
        return
    rows = [
        [str(item["index"]), item["type"], size(item["bytes"]), plain(item["title"]), plain(item["preview"])]
        for item in items
    ]
    print(table(["#", "type", "size", "title", "content"], rows) if rows else "no items")


def _row(item: dict[str, Any]) -> dict[str, Any]:
    content = item["content"]
    text = item["text"]
    preview = " ".join(text.split())[:60]
    count = (
        len(text.encode("utf-8", "replace"))
        if text
        else memoryview(content).nbytes
        if isinstance(content, bytes | memoryview)
        else 0
    )
    kept = {key: item[key] for key in ("index", "type", "title", "metadata", "id")}
    return {**kept, "bytes": count, "preview": preview}


def _log(
    arguments: argparse.Namespace, artifact: Artifact, findings: list[Finding], trust: TrustSet | None
) -> None:
    whole = _whole(findings)
    entries, versions = (artifact.provenance, artifact.history) if whole else ([], ())
    if arguments.json:
        kept = [
            {key: getattr(version, key) for key in ("name", "sequence", "parent", "root", "fence", "at")}
            for version in versions
        ]
        show({**_facts(artifact, findings), "provenance": entries, "versions": kept})
        return
    print(f"{arguments.file}: {_verdict(artifact, findings, trust)}")
    _findings(findings)
    if not whole:
        print("its history is not shown, because it does not hold together")
        return
    rows = [
        [
            _when(entry["timestamp"]),
            plain(entry["agent_id"]),
            plain(entry["action"]),
            plain(entry["block_hash"][:16]),
        ]
        for entry in entries
    ]
    print(table(["when", "who", "what", "hash"], rows))
    if versions:
        lines = [
            [
                str(v.sequence),
                plain(v.name),
                _when(int(v.at * 1e6)),
                str(v.fence),
                v.root[:16],
                v.parent[:16] or "-",
            ]
            for v in versions
        ]
        print("\n" + table(["version", "name", "when", "fence", "root", "parent"], lines))


def _when(microseconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(microseconds // 1_000_000))
    except (OverflowError, ValueError, OSError):
        return f"{microseconds} µs"
