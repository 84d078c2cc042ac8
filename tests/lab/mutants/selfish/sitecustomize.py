"""A replicated store whose reads do not put back what they give: a later read may find it gone."""

import broken


@broken.when_imported("laila.replication.register")
def never_puts_back(module):
    def _spread(self, view, name, copy, *more, **named):
        if copy is not None:
            self._note(name, copy.stand.tag)

    module.Register._spread = _spread
