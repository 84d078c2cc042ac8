"""`laila lab worker`: one client of a shared volume, beside a node. It is told what to do by JSON lines, does one thing
after another in one thread, and tells what came of it and when, by its own monotonic clock.

It needs no link to the node: it works on the volume that the node mounts, as the node's user, with the node's identity
and secret. Being one thread and one process it can be killed while it holds a lock or writes, and nothing else dies.
"""
