"""Warnings that point at the user's own line."""

import sys
import warnings

_PACKAGES = (__name__.rpartition(".")[0], "torch")


def warn_caller(message: str) -> None:
    """Warn at the line that called a function or a module of this package, however many calls lie in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_inner(frame.f_globals.get("__name__")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_inner(module: str | None) -> bool:
    """Whether a module is of this package or of PyTorch; the code of its graphs has no name."""
    return module is None or any(module == name or module.startswith(f"{name}.") for name in _PACKAGES)
