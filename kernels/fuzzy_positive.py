"""The Triton engine: loss sums with the gradient in one pass, and the map of pixel losses.

Shapes: logits (N, C, h, w), per-pixel tensors (N, H, W).
"""

import operator
from collections.abc import Hashable

import torch
from torch import Tensor

from fpl_fast.kernels import full_resolution, upsampled
from fpl_fast.kernels.arguments import NAMES, NUM_SUMS, LossInputs, LossOptions
from fpl_fast.kernels.configs import MAX_SINGLES, MAX_STREAMED
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel
from fpl_fast.kernels.device.keys import MAX_CLASSES
from fpl_fast.kernels.device.streamed import streamed_kernel
from fpl_fast.kernels.operands import Outputs, classes, pixels
from fpl_fast.kernels.specialisation import key_type, option_arguments

_names = operator.attrgetter(*NAMES)


def fuzzy_positive_sums(
    inputs: LossInputs, options: LossOptions, *, scale: float | Tensor | None, with_grad: bool, with_stats: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum the loss and its statistics over the valid pixels, in parts, and compute the gradient in the same pass.

    Deterministic, and without host synchronisation: every program writes its partial sums, which :mod:`.finish` adds.

    Args:
        inputs: logits in float16, bfloat16 or float32. Without ``size``, logits whose (h, w) do not collapse into one
            stride are copied first.
        options: of the loss.
        scale: factor of the gradient, a number or () float32 on the same device; None for 1.
        with_grad: whether to compute the gradient.
        with_stats: whether to compute all sums, or the first only.

    Returns:
        (partial sums, grad): float32 (terms, programs), see ``arguments.SUMS``; scale times the derivative of the first
        sum, in the student's dtype and strides, zero at invalid pixels, or None.
    """
    grad = empty_grad(inputs.student) if with_grad else None
    return _launch(inputs, options, Outputs(NUM_SUMS if with_stats else 1, grad, scale)), grad


def fuzzy_positive_map(inputs: LossInputs, options: LossOptions) -> Tensor:
    """The first term of every pixel, (N, H, W) float32, 0 where invalid."""
    pixel_map = torch.zeros(inputs.pixels(), dtype=torch.float32, device=inputs.student.device)
    _launch(inputs, options, Outputs(num_terms=1, pixel_map=pixel_map))
    return pixel_map


def empty_grad(student: Tensor) -> Tensor:
    """Uninitialised gradient: the student's strides where they are dense and do not overlap."""
    return torch.empty_like(student, memory_format=torch.preserve_format)


def _launch(inputs: LossInputs, options: LossOptions, outputs: Outputs) -> Tensor:
    """Run the kernel over all pixels, fill the outputs and return the partial sums, (terms, programs)."""
    num_classes = inputs.student.shape[1]
    assert 1 <= options.max_positives < num_classes <= MAX_CLASSES.value
    if inputs.size is not None:
        arguments = {**option_arguments(options), "ignore_index": 0, "DISTANCE": None}
        return upsampled.launch(inputs, upsampled.teacher_tensors(inputs), arguments, _specialisation(options), outputs)
    with_stats = outputs.num_terms > 1
    return full_resolution.launch(
        streamed_kernel if is_streamed(inputs, options) else fuzzy_positive_kernel,
        inputs.tensors(),
        options,
        _specialisation(options),
        lambda: {
            **option_arguments(options),
            "student": classes(inputs.student),
            "teacher": classes(inputs.teacher),
            "partner": classes(inputs.partner),
            "mix_mask": pixels(inputs.mix_mask),
            "pixel_weight": pixels(inputs.pixel_weight),
            "valid_mask": pixels(inputs.valid_mask),
            "threshold": pixels(inputs.threshold),
            "KEY": key_type(inputs.teacher.dtype, num_classes),
            "WITH_STATS": with_stats,
        },
        outputs,
    )


def is_streamed(inputs: LossInputs, options: LossOptions) -> bool:
    """Whether classes are read in chunks: many of them, in planes, of which at most three are positive."""
    logits = [x for x in (inputs.student, inputs.teacher, inputs.partner) if x is not None]
    return (
        MAX_SINGLES < inputs.student.shape[1] <= MAX_STREAMED
        and options.max_positives <= 3
        and options.form == "smooth"
        and all(x.stride(-1) == 1 for x in logits)
    )


def _specialisation(options: LossOptions) -> Hashable:
    """All of the options that the code of a kernel depends on."""
    return options.max_positives, options.uses_confidence, _names(options)
