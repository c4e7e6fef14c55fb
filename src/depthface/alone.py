"""A module of a package, imported without all that the package itself imports."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["import_alone"]


def import_alone(name: str) -> ModuleType:
    """Return a module that stands by itself, such as `package.part.module`; whoever imports its package gets it too.

    Raises:
        ModuleNotFoundError: its package is not installed, or has it not as a file.
    """
    if name in sys.modules:
        return sys.modules[name]
    package, *parts = name.split(".")
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
        file = Path(folder, *parts).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(name, file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            module = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise ModuleNotFoundError(f"No module named {name!r}", name=package if found is None else name)
