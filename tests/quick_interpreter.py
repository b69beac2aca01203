"""Triton's interpreter in half the time: its language is prepared once a launch, not at every call of a function.

Before each call of a device function the interpreter looks through all names of ``triton.language`` for those that it
has to replace, although the launch has replaced them. That was more than half of the time of the kernel tests.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.runtime import interpreter


@functools.cache
def _languages(function: Callable[..., Any]) -> list[Any]:
    """Modules of the language that a function sees."""
    return [language for language in (tl, tl.core) if any(language is seen for seen in function.__globals__.values())]


def prepare_once() -> None:
    """Let the interpreter prepare only what is not prepared; end where it cannot run."""
    versions = [tuple(map(int, module.__version__.split(".")[:2])) for module in (triton, np)]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):  # it takes arrays of one element for numbers
        pytest.exit(f"Triton {triton.__version__}'s interpreter needs NumPy < 2.4, got {np.__version__}: install it", 4)
    prepare = interpreter._patch_lang

    def prepare_if_needed(function: Callable[..., Any]) -> Any:
        if any(tl.core.is_builtin(language.load) for language in _languages(function)):
            return prepare(function)
        return interpreter._LangPatchScope()  # nothing to restore

    interpreter._patch_lang = prepare_if_needed
