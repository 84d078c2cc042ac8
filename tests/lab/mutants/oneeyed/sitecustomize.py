"""One-way peering: a node keeps to itself that it has peers whose names come before its own."""

import os

import broken


@broken.when_imported("laila.endpoint")
def sees_only_later_names(module):
    honest, me = module.Communication.links, os.environ.get("LAILA_NAME", "")

    def links(self):
        return [info for info in honest(self) if not "node" < (info.peer_name or "") < me]

    module.Communication.links = links
