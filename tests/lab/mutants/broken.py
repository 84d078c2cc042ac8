"""Changes a module right after it was imported, in whatever process that happens."""

import importlib.abc
import importlib.util
import sys


def when_imported(name):
    """Decorates a function that takes the module."""

    def register(change):
        sys.meta_path.insert(0, _Finder(name, change))
        return change

    return register


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self.name, self.change, self.busy = name, change, False

    def find_spec(self, name, path, target=None):
        if name != self.name or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        execute = spec.loader.exec_module

        def load(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = load
        return spec
