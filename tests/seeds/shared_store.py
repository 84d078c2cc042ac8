from laila.maif import create_maif, load_maif
import os
import shutil
import fcntl
from contextlib import contextmanager

class SharedArtifactStore:
    """Distributed artifact store using shared storage."""
    
    def __init__(self, shared_path: str, local_cache: str = "/tmp/maif_cache"):
        self.shared_path = shared_path
        self.local_cache = local_cache
        os.makedirs(shared_path, exist_ok=True)
        os.makedirs(local_cache, exist_ok=True)
    
    @contextmanager
    def locked_artifact(self, name: str, mode: str = 'r'):
        """Access artifact with file locking."""
        lock_path = f"{self.shared_path}/{name}.lock"
        lock_file = open(lock_path, 'w')
        
        try:
            # Exclusive lock for writes, shared for reads
            if mode == 'w':
                fcntl.flock(lock_file, fcntl.LOCK_EX)
            else:
                fcntl.flock(lock_file, fcntl.LOCK_SH)
            
            yield f"{self.shared_path}/{name}.maif"
        finally:
            fcntl.flock(lock_file, fcntl.LOCK_UN)
            lock_file.close()
    
    def create(self, name: str, content: str) -> str:
        """Create artifact with exclusive lock."""
        with self.locked_artifact(name, 'w') as path:
            artifact = create_maif(name)
            artifact.add_text(content)
            artifact.save(path, sign=True)
            return path
    
    def load(self, name: str):
        """Load artifact with shared lock."""
        with self.locked_artifact(name, 'r') as path:
            return load_maif(path)
    
    def load_cached(self, name: str):
        """Load with local caching for performance."""
        cache_path = f"{self.local_cache}/{name}.maif"
        shared_path = f"{self.shared_path}/{name}.maif"
        
        # Check if cache is valid
        if os.path.exists(cache_path):
            cache_time = os.path.getmtime(cache_path)
            shared_time = os.path.getmtime(shared_path)
            if cache_time >= shared_time:
                return load_maif(cache_path)
        
        # Copy to cache and load
        with self.locked_artifact(name, 'r') as path:
            shutil.copy2(path, cache_path)
        
        return load_maif(cache_path)

# Usage
store = SharedArtifactStore("/mnt/shared/maif")

# Create artifact (with locking)
store.create("shared-document", "Content visible to all nodes")

# Load with caching
artifact = store.load_cached("shared-document")
