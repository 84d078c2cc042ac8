"""Registrations as a list in one file that everybody reads, changes and writes, without a lock."""

import broken


@broken.when_imported("laila.agents.agent")
def reads_changes_writes(module):
    import json
    import time
    from pathlib import Path

    def read(path):
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return []

    def register(self, *words, **more):
        path = Path(self._layout.root) / "everybody.json"
        known = read(path)
        time.sleep(0.005)
        path.write_text(json.dumps([*known, self.agent_id]))
        return {}

    def get_active_agents(self, capability=None):
        return [{"agent_id": one} for one in read(Path(self._layout.root) / "everybody.json")]

    module.DistributedAgent.register = register
    module.DistributedAgent.get_active_agents = get_active_agents
