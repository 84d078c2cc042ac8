from laila.maif import create_maif, load_maif
import os
import shutil

class ReplicatedStore:
    """Store artifacts with replication for reliability."""
    
    def __init__(self, replicas: list):
        self.replicas = replicas
        for path in replicas:
            os.makedirs(path, exist_ok=True)
    
    def save(self, name: str, artifact):
        """Save to all replicas."""
        for replica in self.replicas:
            path = f"{replica}/{name}.maif"
            artifact.save(path, sign=True)
    
    def load(self, name: str):
        """Load from first available replica."""
        for replica in self.replicas:
            path = f"{replica}/{name}.maif"
            if os.path.exists(path):
                try:
                    artifact = load_maif(path)
                    if artifact.verify_integrity():
                        return artifact
                except:
                    continue
        raise FileNotFoundError(f"Artifact {name} not found in any replica")
    
    def verify_replicas(self, name: str) -> dict:
        """Check replica consistency."""
        results = {}
        for replica in self.replicas:
            path = f"{replica}/{name}.maif"
            results[replica] = {
                "exists": os.path.exists(path),
                "valid": False
            }
            if results[replica]["exists"]:
                try:
                    artifact = load_maif(path)
                    results[replica]["valid"] = artifact.verify()
                except:
                    pass
        return results

# Usage
store = ReplicatedStore([
    "/data/primary",
    "/data/backup1",
    "/data/backup2"
])

artifact = create_maif("important-data")
artifact.add_text("Critical information")
store.save("important-data", artifact)

# Check replicas
status = store.verify_replicas("important-data")
print(f"Replica status: {status}")
