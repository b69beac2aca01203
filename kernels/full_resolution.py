"""Launcher of the full-resolution kernels, whose programs own a block of pixels each."""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.configs import choose_config
from fpl_fast.kernels.device.operands import Classes
from fpl_fast.kernels.device.streamed import streamed_kernel
from fpl_fast.kernels.operands import Outputs, classes, scale_arguments, writable
from fpl_fast.kernels.repeat import MAX_KEPT, emptied, refilled, traits
from fpl_fast.kernels.specialisation import has_libdevice, register_limit


def launch(
    kernel: Any,
    inputs: tuple[Tensor | None, ...],
    options: Any,
    specialisation: Hashable,
    make_arguments: Callable[[], dict[str, Any]],
    outputs: Outputs,
) -> Tensor:
    """Run over all pixels, fill the outputs and return the partial sums, (terms, programs).

    Args:
        kernel: :mod:`fpl_fast.kernels.device.fuzzy_positive`, ``streamed``, ``cross_entropy`` or ``consistency``. Its
            first parameters are the inputs, then those of the outputs, ``num_pixels``, ``blocks_per_image`` and the
            options.
        inputs: of the kernel; the first are the student's logits, (N, C, H, W).
        options: the argument of that place, whose numbers may change from launch to launch.
        specialisation: what it holds beside numbers.
        make_arguments: makes the arguments that the kernel's loss alone has; called where no launch can be repeated.
        outputs: to compute.
    """
    key = (id(kernel), specialisation, _traits(inputs, outputs))  # Triton hashes a kernel by its source
    replay = _REPLAYS.get(key)
    if replay is not None:
        return replay(inputs, options, outputs)
    sums, replay = _launch(kernel, make_arguments(), inputs, outputs)
    if replay is not None:
        if len(_REPLAYS) >= MAX_KEPT:  # sizes that do not come back
            _REPLAYS.clear()
        _REPLAYS[key] = replay
    return sums


class Replay(NamedTuple):
    """A launch to repeat with other tensors of the same traits: what was made of them need not be made again."""

    compiled: Any  # Triton's CompiledKernel
    num_programs: int
    arguments: tuple[Any, ...]  # of all parameters of the kernel, in their order, without the tensors

    def __call__(self, inputs: tuple[Tensor | None, ...], options: Any, outputs: Outputs) -> Tensor:
        """Run with these; returns the partial sums."""
        num_terms, grad, scale, pixel_map = outputs
        student, known = inputs[0], self.arguments
        assert student is not None
        sums = torch.empty((num_terms, self.num_programs), dtype=torch.float32, device=student.device)
        at = len(inputs)  # of scale_ptr, scale, grad, sums_ptr, map_ptr, num_pixels, blocks_per_image, the options
        arguments = (
            *map(refilled, known, inputs),
            *scale_arguments(scale),
            refilled(known[at + 2], grad),
            sums if pixel_map is None else None,
            pixel_map,
            known[at + 5],
            known[at + 6],
            options,
            *known[at + 8 :],
        )
        with torch.cuda.device_of(student):
            self.compiled[self.num_programs, 1, 1](*arguments)
        return sums


_REPLAYS: dict[Hashable, Replay] = {}


def _traits(inputs: tuple[Tensor | None, ...], outputs: Outputs) -> Hashable:
    """All that a launch depends on but for values."""
    num_terms, grad, scale, pixel_map = outputs
    scale_ptr = scale if isinstance(scale, Tensor) else None
    return num_terms, scale is None, traits((*inputs, grad, scale_ptr, pixel_map))


def _launch(
    kernel: Any, arguments: dict[str, Any], inputs: tuple[Tensor | None, ...], outputs: Outputs
) -> tuple[Tensor, Replay | None]:
    """Launch by names; the second result is None where a tensor had to be copied or nothing is compiled."""
    num_terms, grad, scale, pixel_map = outputs
    scale_ptr, scale = scale_arguments(scale)
    student = inputs[0]
    assert student is not None
    n, num_classes, h, w = student.shape
    # A gradient whose pixels do not collapse (H and W transposed in memory) is written contiguously and copied over.
    writable_grad = writable(grad)
    arguments = {**arguments, "grad": classes(writable_grad)}
    logits = [x for x in arguments.values() if isinstance(x, Classes)]
    element_size = max(x.ptr.element_size() for x in logits)
    limited = "CAPPED" in arguments and (arguments["WITH_STATS"] or not arguments["CAPPED"])
    rows = any(x.ROWS.value for x in logits)
    config = choose_config(num_classes, element_size, limited=limited, rows=rows, streamed=kernel is streamed_kernel)
    blocks_per_image = triton.cdiv(h * w, config.block)
    num_programs = n * blocks_per_image
    sums = torch.empty((num_terms, num_programs), dtype=torch.float32, device=student.device)
    if num_programs == 0:
        return sums, None
    arguments |= {
        "scale_ptr": scale_ptr,
        "scale": scale,
        "sums_ptr": sums if pixel_map is None else None,
        "map_ptr": pixel_map,
        "num_pixels": h * w,
        "blocks_per_image": blocks_per_image,
        "C": num_classes,
        "G": config.group,
        "BLOCK": config.block,
        "FAST": has_libdevice(kernel),
    }
    with torch.cuda.device_of(student):
        compiled = kernel[(num_programs,)](
            **arguments,
            num_warps=config.num_warps,
            **register_limit(kernel, config.max_registers),
            enable_fp_fusion=True,  # the counts rely on fused multiply-adds; Triton's default is about to change
        )
    if grad is not None and writable_grad is not None and writable_grad is not grad:
        grad.copy_(writable_grad)
    ordered = tuple(arguments[name] for name in kernel.arg_names)
    copied = any(_pointer(a) is not x for a, x in zip(ordered, inputs, strict=False)) or writable_grad is not grad
    return sums, None if copied or compiled is None else Replay(compiled, num_programs, tuple(map(emptied, ordered)))


def _pointer(operand: Any) -> Tensor | None:
    return operand if operand is None or isinstance(operand, Tensor) else operand[0]
