"""A register that acknowledges every fifth agent without writing it down."""

import broken


@broken.when_imported("laila.agents.agent")
def forgets_some(module):
    honest, turns = module.DistributedAgent.register, iter(range(10**9))

    def register(self, *words, **more):
        return {} if next(turns) % 5 == 4 else honest(self, *words, **more)

    module.DistributedAgent.register = register
