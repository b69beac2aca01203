"""Triton's interpreter in less than half the time: what it works out at every operation is worked out once.

Before each call of a device function it looks through all names of ``triton.language`` for those that it has to
replace, although the launch has replaced them; and every operation makes the types and shapes of its operands anew.
Values are computed as before, by Triton's own code.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl
from triton.language.semantic import TritonSemantic
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
    nothing_to_restore = getattr(interpreter, "_LangPatchScope", lambda: None)  # Triton 3.5 restores nothing

    def prepare_if_needed(function: Callable[..., Any]) -> Any:
        if any(tl.core.is_builtin(language.load) for language in _languages(function)):
            return prepare(function)
        return nothing_to_restore()

    interpreter._patch_lang = prepare_if_needed
    interpreter._get_np_dtype = _once_by_name(interpreter._get_np_dtype)
    tl.block_type.with_element_ty = _once_by_element(tl.block_type.with_element_ty)
    tl.block_type.to_ir = _once_by_type(tl.block_type.to_ir)
    tl.tensor.__init__ = _as_others_of_its_type(tl.tensor.__init__)
    TritonSemantic.arange = _once_by_bounds(TritonSemantic.arange)
    TritonSemantic.binary_op_sanitize_overflow_impl = _if_it_speaks(TritonSemantic.binary_op_sanitize_overflow_impl)
    TritonSemantic.broadcast_impl_value = _unless_of_one_shape(TritonSemantic.broadcast_impl_value)


def _once_by_name(find: Callable[..., np.dtype]) -> Callable[..., np.dtype]:
    """NumPy's type of one of Triton's, whose name says all that there is to it."""
    found: dict[str, np.dtype] = {}

    def remembered(dtype: Any) -> np.dtype:
        if dtype.name not in found:
            found[dtype.name] = find(dtype)
        return found[dtype.name]

    return remembered


def _once_by_element(make: Callable[..., Any]) -> Callable[..., Any]:
    """Blocks of one shape and element share a type, and so what is kept by it; a type knows those of its shape."""
    shared: dict[Any, Any] = {}

    def remembered(self: Any, element: Any) -> Any:
        # There is no more to a number's type than its name, and to a pointer's than the space that it points into.
        what = (element.name, getattr(element, "address_space", None))
        of_its_shape = self.__dict__.setdefault("_of_its_shape", {})
        if what not in of_its_shape:
            of_its_shape[what] = shared.setdefault((*self.shape, what), make(self, element))
        return of_its_shape[what]

    return remembered


def _once_by_bounds(make: Callable[..., Any]) -> Callable[..., Any]:
    """Consecutive numbers, which no operation writes over: with them their type stays the same."""
    made: dict[tuple[int, int], Any] = {}

    def remembered(self: Any, start: int, end: int, **keywords: Any) -> Any:
        if keywords.get("ret_ty") is not None:
            return make(self, start, end, **keywords)
        if (start, end) not in made:
            made[start, end] = make(self, start, end, **keywords)
        return made[start, end]

    return remembered


def _once_by_type(translate: Callable[..., Any]) -> Callable[..., Any]:
    """The interpreter's form of a block's type, kept by the type itself: there is one interpreter."""

    def remembered(self: Any, builder: Any) -> Any:
        if "_interpreted" not in self.__dict__:
            self._interpreted = translate(self, builder)
        return self._interpreted

    return remembered


def _as_others_of_its_type(initialise: Callable[..., None]) -> Callable[..., None]:
    """A tensor takes from the first one of its type all but its value."""

    def take(self: Any, handle: Any, type: Any) -> None:
        if "_of_tensors" not in type.__dict__:
            initialise(self, handle, type)
            type._of_tensors = {name: value for name, value in self.__dict__.items() if name != "handle"}
        self.__dict__ |= type._of_tensors
        self.handle = handle

    return take


def _unless_of_one_shape(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    """Operands of one shape stay as they are."""

    def leave(self: Any, lhs: Any, rhs: Any) -> Any:
        one, other = lhs.type, rhs.type
        if one is other or (one.is_block() and other.is_block() and list(one.shape) == list(other.shape)):
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    return leave


def _if_it_speaks(check: Callable[..., None]) -> Callable[..., None]:
    """The look for an overflow of integers, half of the work of adding them, is said in Triton's debug mode alone."""

    def look(self: Any, *operands: Any) -> None:
        if self.builder.options.debug:
            check(self, *operands)

    return look
