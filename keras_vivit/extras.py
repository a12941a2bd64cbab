"""Packages that only some functions need, imported when one of them is called."""

import importlib
from types import ModuleType


def optional_package(name: str, extra: str) -> ModuleType:
    """Imports a package that an extra of this one installs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This needs the package {name}: pip install "{extra}"'
        ) from error
