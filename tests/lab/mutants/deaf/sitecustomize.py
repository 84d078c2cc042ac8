"""A store that takes no notice of a full disk."""

import broken


@broken.when_imported("laila.shared.store")
def hears_nothing(module):
    from laila.errors import StorageError

    honest = module.SharedArtifactStore.create

    def create(self, name, content, **more):
        try:
            return honest(self, name, content, **more)
        except StorageError:
            return f"{self.shared_path}/{name}.maif"

    module.SharedArtifactStore.create = create
