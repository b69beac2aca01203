"""Launches that are repeated with other tensors of the same traits: what was made of the first is kept."""

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor

__all__ = ["MAX_KEPT", "RepeatedKernel", "RepeatedLaunches", "emptied", "refilled", "traits"]

MAX_KEPT = 256  # launches; more come of sizes that do not come back


class RepeatedKernel:
    """A kernel that is launched with arguments of the same traits: Triton looks at those of the first launch only.

    Args:
        kernel: of Triton.
        options: of the launch, beside the parameters of the kernel.
    """

    def __init__(self, kernel: Any, **options: Any) -> None:
        self._kernel, self._options = kernel, options
        self._compiled: Any = None  # Triton's CompiledKernel; the interpreter makes none

    def ordered(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments in the order of the kernel's parameters, without their tensors."""
        return {name: emptied(arguments[name]) for name in self._kernel.arg_names}

    def __call__(self, grid: tuple[int, int, int], arguments: dict[str, Any]) -> None:
        """Launch with arguments as ``ordered`` returned them, tensors filled in."""
        if self._compiled is None:
            assert list(arguments) == list(self._kernel.arg_names), "from the second launch on, only the order counts"
            self._compiled = self._kernel[grid](**arguments, **self._options)
        else:
            self._compiled[grid](*arguments.values())


class RepeatedLaunches:
    """A :class:`RepeatedKernel` for each of the traits that the launches of a kernel have."""

    def __init__(self, kernel: Any, **options: Any) -> None:
        self._kernel, self._options = kernel, options
        self._kernels: dict[Hashable, RepeatedKernel] = {}

    def __call__(self, key: Hashable, grid: tuple[int, int, int], arguments: dict[str, Any]) -> None:
        """Launch with all arguments, in the order of the kernel's parameters; ``key`` holds all of their traits."""
        launch = self._kernels.get(key)
        if launch is None:
            if len(self._kernels) >= MAX_KEPT:  # sizes that do not come back
                self._kernels.clear()
            launch = self._kernels[key] = RepeatedKernel(self._kernel, **self._options)
        launch(grid, arguments)


def traits(tensors: Iterable[Tensor | None]) -> Hashable:
    """All that a launch depends on but for the values in the tensors: Triton asks whether pointers are aligned."""
    return tuple([None if x is None else (x.dtype, x.shape, x.stride(), x.data_ptr() % 16, x.device) for x in tensors])


def emptied(argument: Any) -> Any:
    """Return an argument to keep: its memory is free for others once the caller has done with it."""
    if isinstance(argument, Tensor):
        return None
    operand: Any = type(argument)
    return operand(None, *argument[1:]) if isinstance(argument, tuple) else argument


def refilled(argument: Any, x: Tensor | None) -> Any:
    """Return the argument for a tensor that has the strides of the emptied one."""
    return x if x is None or argument is None else type(argument)(x, *argument[1:])
