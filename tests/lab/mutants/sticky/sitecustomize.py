"""A program that starts another one, which inherits the lock and keeps it after its holder's death."""

import broken


@broken.when_imported("laila.locks.hold")
def is_inherited(module):
    import os
    import subprocess

    honest = module.Hold.__init__

    def begin(self, lock, token, *words, **more):
        honest(self, lock, token, *words, **more)
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  the numbers are all that is wanted
            try:
                os.set_inheritable(int(name), int(name) > 2)
            except OSError:
                continue  # the one that listed them
        subprocess.Popen(["sleep", "7"], close_fds=False, stdout=subprocess.DEVNULL)

    module.Hold.__init__ = begin
