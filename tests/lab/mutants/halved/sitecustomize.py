"""A replicated store that counts half a quorum for a whole one."""

import broken


@broken.when_imported("laila.replication.views")
def half_is_enough(module):
    honest = module.View.enough

    def enough(self, kind, ids):
        return len(ids) >= max(1, self.needed(kind) // 2) or honest(self, kind, ids)

    module.View.enough = enough
