"""Names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence


def names_on_demand(
    namespace: MutableMapping[str, object], homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        namespace: The package's ``globals()``, to which a name is added with its first use.
        homes: Names by the module below the package that defines them.
    """
    package = namespace["__name__"]

    def find(name: str) -> object:
        for module, names in homes.items():
            if name in names:
                namespace[name] = found = getattr(importlib.import_module(f"{package}.{module}"), name)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def public() -> list[str]:
        special = (name for name in namespace if name.startswith("__"))
        return sorted({*special, *(name for names in homes.values() for name in names)})

    return find, public
