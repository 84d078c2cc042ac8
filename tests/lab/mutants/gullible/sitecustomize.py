"""A reader that verifies nothing: neither the bytes, nor the signer, nor whether it is older than what it has seen."""

import broken


@broken.when_imported("laila.shared.store")
def verifies_nothing(module):
    from laila.artifacts import Artifact

    Artifact.require = lambda self, trust=None: None
    Artifact._require_checked = lambda self: None
    module.SharedArtifactStore.load = lambda self, name: Artifact.load(f"{self.shared_path}/{name}.maif")
    module.SharedArtifactStore.load_cached = module.SharedArtifactStore.load
