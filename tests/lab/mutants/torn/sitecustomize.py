"""A writer that writes into the file itself, piece by piece."""

import broken


@broken.when_imported("laila.shared.store")
def writes_in_place(module):
    import time
    from pathlib import Path

    def put(self, name, artifact, *, exclusive=False):
        path = f"{self.shared_path}/{name}.maif"
        with self._locking.exclusive(name, "writing") as hold:
            base = self._publishing.base(name)
            artifact.name_as(name, sequence=base.sequence + 1, parent=base.root, fence=hold.token)
            data = artifact.to_bytes(key=self._publishing._signer)
            with Path(path).open("wb", buffering=0) as file:
                for at in range(0, len(data), 1000):
                    file.write(data[at : at + 1000])
                    time.sleep(0.001)
        return path

    module.SharedArtifactStore.put = put
