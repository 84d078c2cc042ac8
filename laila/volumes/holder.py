"""A process that takes a lock and keeps it until it is killed: the holder that dies in the check.

Run as a program of its own, with nothing but the standard library: `holder.py DIRECTORY-DESCRIPTOR NAME HOW`.
It says "held" or the name of the error, and ends by itself with its input, or after a minute.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys

LONGEST = 60
"""Seconds; whoever started it has long forgotten it then."""


def main(directory: int, name: str, how: str) -> int:
    signal.alarm(LONGEST)
    try:
        file = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=directory)
        if how == "flock":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except OSError as error:
        print(errno.errorcode.get(error.errno or 0, "EIO"), flush=True)
        return 1
    print("held", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
