"""A file system that says yes to every lock and excludes nobody."""

import fcntl

fcntl.flock = lambda *words: None
fcntl.lockf = lambda *words: None
