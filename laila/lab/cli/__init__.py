"""`laila lab …`: options in, exit codes out. 0 is ok, 1 a check that failed, 2 unknown or an error.

Modules that need the kit's extras are imported by the handler that uses them: `laila lab client` runs in
images that have none of them.
"""

from __future__ import annotations

import argparse
from typing import Any

from laila.lab.cli import check, doctor, evidence, faults, programs, standing

EXAMPLES = """\
examples:
  laila lab check replicated                      three nodes peer, and their replicas agree, whatever breaks
  laila lab check replicated --driver process     the same with plain processes
  laila lab check shared-volume                   three nodes on one volume: locks, artifacts, agents, damage
  laila lab check shared-volume --volume glusterfs  the same on a network volume, across three containers
  laila lab check replicated --faults kill,partition --time 60   one trial, faults in turns, for a minute
  laila lab check mine.toml --keep                your own topology; the nodes stay afterwards
  laila lab recheck lab-runs/RUN                  judge a run's history again
  laila lab doctor                                what this machine can and cannot do
  laila lab up && laila lab status                a lab that stays
  laila lab fault inject pause@node2              break it by hand; laila lab fault heal mends it
  laila lab exec node1 -- laila peers             a command beside a node
  laila lab down
  laila lab gc                                    remove what killed runs left

exit codes: 0 ok, 1 a check failed, 2 unknown or error
"""


def add_parser(commands: Any) -> None:
    """Add `lab` and its subcommands."""
    lab = commands.add_parser(
        "lab",
        help="start real nodes, work on them from the inside, break them, judge",
        description="Start real nodes, work on them from the inside, break them, judge.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subs = lab.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)
    for group in (check, standing, faults, evidence, doctor, programs):
        group.add(subs)
