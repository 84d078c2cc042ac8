"""A node that says "kept" before it is: what it puts into its pools and replicas is not fsynced when it acknowledges
it. Who it is, and which store its replicas are of, it does keep, so that it comes back from a power failure.
"""

import os
import types

import broken


def nothing(*anything):
    pass


@broken.when_imported("laila.pools.database")
def commits_to_memory(module):
    honest = module.Database._connect

    def _connect(self, mode):
        connection = honest(self, mode)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    module.Database._connect = _connect


@broken.when_imported("laila.pools.filesystem")
def writes_to_memory(module):
    module.os = types.SimpleNamespace(**{**vars(os), "fsync": nothing})
    module.sync_directory = nothing


@broken.when_imported("laila.replication.directory")
def puts_into_memory(module):
    class Hasty(module.Incoming):
        sync = nothing

        def publish(self, target):
            self._path.rename(target)
            self._published = True
            return os.fstat(self._descriptor)

    module.Incoming = Hasty


@broken.when_imported("laila.replication.index")
def trusts_what_was_put(module):
    module._sync = nothing
