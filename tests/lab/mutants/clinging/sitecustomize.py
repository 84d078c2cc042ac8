"""A lock whose tokens begin anew with every process: a late write of a dead holder looks like a fresh one."""

import broken


@broken.when_imported("laila.locks.hold")
def forgets_tokens(module):
    turns, honest = iter(range(1, 10**9)), module.Hold.__init__

    def begin(self, lock, token, *words, **more):
        honest(self, lock, next(turns), *words, **more)

    module.Hold.__init__ = begin
