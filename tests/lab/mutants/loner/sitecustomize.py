"""A replicated store that asks one replica, whichever, and takes it for a quorum."""

import random

import broken


@broken.when_imported("laila.replication.views")
def one_is_enough(module):
    module.View.enough = lambda self, kind, ids: len(ids) >= 1


@broken.when_imported("laila.replication.register")
def one_is_asked(module):
    honest = module.Register._ask

    def _ask(self, view, call, enough, deadline, ids=None, *more, **named):
        everybody = [member.id for member in view] if ids is None else list(ids)
        one = [random.choice(everybody)]  # noqa: S311  no secret
        return honest(self, view, call, enough, deadline, one, *more, **named)

    module.Register._ask = _ask
