"""What only some functions need, imported when one of them is used."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any


def optional_package(name: str, extra: str) -> ModuleType:
    """Imports a package that an extra of this one installs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'This needs the package {name}: pip install "{extra}"'
        ) from error


def lazy_names(
    package: dict[str, Any], modules: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a package that imports at first use.

    Args:
        package: The package's `globals()`.
        modules: Dictionary, name -> the module of the package that has it.
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(
                f"module {package['__name__']!r} has no attribute {name!r}"
            )
        module = importlib.import_module(f"{package['__name__']}.{modules[name]}")
        package[name] = getattr(module, name)
        return package[name]

    return getattr_, lambda: [*package, *modules]
