"""The `laila` command: finds the subcommand, runs it, turns every error into one sentence and an exit code.

A subcommand's module is imported when it runs, not before: `laila health` runs every few seconds in every
container. Exit codes: 0 done; 1 it did not work (not found, refused, unreachable); 2 it was asked wrongly
(usage, configuration).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn

from laila.errors import BadConfig, LailaError, WeakSecret

EPILOG = """\
examples:
  laila secret new > secret && chmod 600 secret       make the secret that all nodes share
  laila node --name n1 --secret-file secret           run a node
  laila status                                        what the node on this machine is doing
  laila memorize '{"a": 1}' --nickname greeting --secret-file secret
  laila remember --nickname greeting --secret-file secret

Every command has its own --help with examples, and --json for machines.
"""

Add = Callable[["argparse._SubParsersAction[Parser]"], None]

# command -> (module that knows it, one line of help); the module is imported only for its own command
COMMANDS = {
    "node": ("laila.cli.node", "run a node until it is told to stop"),
    "secret": ("laila.cli.secret", "make the secret that nodes share"),
    "status": ("laila.cli.status", "show what a node is doing"),
    "peers": ("laila.cli.status", "show a node's links to its peers"),
    "health": ("laila.cli.status", "exit 0 if a node is fit for use, 1 if not"),
    "memorize": ("laila.cli.entries", "store a value on a node"),
    "remember": ("laila.cli.entries", "print a value that a node has"),
    "forget": ("laila.cli.entries", "remove entries from a node"),
    "ls": ("laila.cli.entries", "list the ids in a pool of a node"),
    "volume": ("laila.cli.volume", "find out whether locks on a shared volume exclude"),
    "artifact": ("laila.cli.artifact", "show, verify and trace a signed artifact"),
    "agents": ("laila.cli.agents", "list the agents of a shared directory, and who of them is alive"),
    "results": ("laila.cli.agents", "list or print what agents published in a shared directory"),
    "replicas": ("laila.cli.replicas", "look after the replicas of a store: status, verify, repair, members"),
    "lab": ("laila.lab.cli", "start real nodes, break things, judge (needs laila-kit[lab])"),
    "version": ("laila.cli.version", "print the version"),
}


class UsageError(BadConfig):
    """The command line cannot be understood."""


class Parser(argparse.ArgumentParser):
    """argparse that keeps line breaks in examples, takes no abbreviations, and complains in one sentence."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        words = ["version"]
    try:
        return _run(words)
    except LailaError as error:
        from laila.cli.output import fail

        ours = (
            words[: words.index("--")] if "--" in words else words
        )  # what follows belongs to another program
        return fail(
            error, code=2 if isinstance(error, BadConfig | WeakSecret) else 1, as_json="--json" in ours
        )
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `laila ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: list[str]) -> int:
    parser = Parser(prog="laila", description="Python processes as peers.", epilog=EPILOG)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", title="commands", parser_class=Parser)
    asked = next((word for word in words if not word.startswith("-")), None)
    if asked is not None and asked not in COMMANDS:
        raise UsageError(_no_command(asked))
    for command, (module, help_line) in COMMANDS.items():
        if command == asked:
            _load(command, module)(commands)
        elif asked is None:
            commands.add_parser(command, help=help_line, add_help=False)
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        prog = f"laila {arguments.command}" if arguments.command else "laila"
        raise UsageError(f"{unknown[0]!r} is not understood; see `{prog} --help`")
    if arguments.command is None:
        parser.print_help()
        return 0
    result = arguments.run(arguments)
    sys.stdout.flush()
    return int(result or 0)


def _no_command(asked: str) -> str:
    import difflib

    near = difflib.get_close_matches(asked, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see `laila --help`"
    return f"no command is called {asked!r}; {hint}"


def _load(command: str, module: str) -> Add:
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if command != "lab" or missing.startswith("laila.node"):
            raise
        raise BadConfig(
            f"`laila lab` needs {missing}, which is not installed; run: pip install 'laila-kit[lab]'"
        ) from error
    adder: Add = loaded.add_parser if command == "lab" else getattr(loaded, f"add_{command}")
    return adder


if __name__ == "__main__":
    sys.exit(main())
