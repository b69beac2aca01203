"""The operators of the fuzzy positive loss, and how a call of it is packed for them."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import NAMES, NUM_SUMS, NUMBERS, LossInputs, LossOptions
from fpl_fast.ops.gradient import (
    of_first_input,
    refuse_double_backward,
    register_backward_of_sums,
    save_call,
    saved_inputs,
    scales_in_backward,
)
from fpl_fast.reference import accumulate_dtype

# Replayed from a CUDA graph, a kernel would see the numbers of the step that was recorded.
_TAGS = (torch.Tag.cudagraph_unsafe,)


def loss_and_sums(
    inputs: LossInputs,
    options: LossOptions,
    engine: str,
    *,
    scale: Tensor | None,
    with_grad: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor]:
    """The loss, scale times the first sum, differentiable in the student, and the sums of ``arguments.SUMS``."""
    tensors, settings = pack(inputs, options)
    keywords = {"engine": engine, "with_grad": with_grad, "with_stats": with_stats}
    loss, sums, _ = fuzzy_positive_sums(*tensors, scale, **settings, **keywords)
    return loss, sums


def pixel_losses(inputs: LossInputs, options: LossOptions, engine: str) -> Tensor:
    """The first term of every pixel, (N, H, W), zero where not valid; differentiable in the student."""
    tensors, settings = pack(inputs, options)
    losses: Tensor = fuzzy_positive_map(*tensors, **settings, engine=engine)
    return losses


def pack(inputs: LossInputs, options: LossOptions) -> tuple[tuple[Tensor | None, ...], dict[str, Any]]:
    """Pack a call into arguments of an operator: tensors, the last one of numbers, and keywords.

    The numbers are a float64 tensor on the CPU, which an operator reads without waiting. Inside a compiler a float
    argument of an operator would be a constant, and each step of a schedule would need a new graph. There the sum with
    a tensor keeps the number an input of the graph; eager code takes the shorter way.
    """
    values = [getattr(options, name) for name in NUMBERS]
    if torch.compiler.is_compiling():
        zero = torch.zeros((), dtype=torch.float64, device="cpu")
        numbers = torch.stack([zero + value for value in values])
    else:
        numbers = torch.tensor(values, dtype=torch.float64, device="cpu")
    return (*inputs.tensors, numbers), {
        "size": inputs.size,
        "align_corners": inputs.align_corners,
        "max_positives": options.max_positives,
        "names": " ".join([getattr(options, name) for name in NAMES]),
    }


def unpack(
    tensors: tuple[Tensor | None, ...],
    numbers: Tensor,
    *,
    size: Sequence[int] | None,
    align_corners: bool,
    max_positives: int,
    names: str,
) -> tuple[LossInputs, LossOptions]:
    """Inverse of :func:`pack`, the student detached: no engine or graph depends on whether it needs a gradient."""
    pair = None if size is None else (size[0], size[1])
    student, *others = tensors
    assert student is not None
    inputs = LossInputs(student.detach(), *others)._replace(size=pair, align_corners=align_corners)  # type: ignore[arg-type]
    kinds: dict[str, Any] = dict(zip((*NUMBERS, *NAMES), (*numbers.tolist(), *names.split()), strict=True))
    options = LossOptions(max_positives=max_positives, **kinds)
    if max_positives > 1 and options.confidence_threshold >= options.threshold:
        _warn_of_gate()
    return inputs, options


@torch.library.custom_op("fpl_fast::fuzzy_positive_sums", mutates_args=(), tags=_TAGS)
def fuzzy_positive_sums(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    threshold: Tensor | None,
    numbers: Tensor,
    scale: Tensor | None,
    *,
    size: Sequence[int] | None,
    align_corners: bool,
    max_positives: int,
    names: str,
    engine: str,
    with_grad: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled loss, the sums, and the gradient that the backward needs.

    The arguments up to ``numbers`` and up to ``names`` are those of :func:`pack`.

    Returns:
        loss: 0-d, scale times the first sum; differentiable in ``student``.
        sums: (NUM_SUMS,) over the valid pixels, see ``arguments.SUMS``; without ``with_stats`` zero after the first.
        grad: the derivative of loss, unscaled for float16 (where 1 / pixels would underflow); empty without gradient.
    """
    sums, grad = choice.evaluate(
        "fuzzy_positive_sums",
        engine,
        *unpack(
            (student, teacher, partner, mix_mask, pixel_weight, valid_mask, threshold),
            numbers,
            size=size,
            align_corners=align_corners,
            max_positives=max_positives,
            names=names,
        ),
        scale=None if scales_in_backward(student) else scale,
        with_grad=with_grad,
        with_stats=with_stats,
    )
    loss = sums[0] * scale if scale is not None else sums[0].clone()
    return loss, sums, student.new_empty(0) if grad is None else grad


@fuzzy_positive_sums.register_fake
def _(student: Tensor, teacher: Tensor, *_: Any, with_grad: bool, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0)
    return student.new_empty((), dtype=dtype), student.new_empty(NUM_SUMS, dtype=dtype), grad


register_backward_of_sums(fuzzy_positive_sums)


@torch.library.custom_op("fpl_fast::fuzzy_positive_map", mutates_args=(), tags=_TAGS)
def fuzzy_positive_map(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    threshold: Tensor | None,
    numbers: Tensor,
    *,
    size: Sequence[int] | None,
    align_corners: bool,
    max_positives: int,
    names: str,
    engine: str,
) -> Tensor:
    """The first term of every pixel, (N, H, W), zero where not valid; differentiable in ``student``."""
    losses: Tensor = choice.evaluate(
        "fuzzy_positive_map",
        engine,
        *unpack(
            (student, teacher, partner, mix_mask, pixel_weight, valid_mask, threshold),
            numbers,
            size=size,
            align_corners=align_corners,
            max_positives=max_positives,
            names=names,
        ),
    )
    return losses


@fuzzy_positive_map.register_fake
def _(student: Tensor, teacher: Tensor, *_: Any, size: Sequence[int] | None, **__: Any) -> Tensor:
    height, width = size or student.shape[2:]
    return student.new_empty((len(student), height, width), dtype=accumulate_dtype(student, teacher))


def _map_backward(ctx: Any, grad_losses: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad_losses is None:
        return of_first_input(ctx, None)
    *tensors, numbers = saved_inputs(ctx)
    inputs = LossInputs(*tensors)  # type: ignore[arg-type]
    # The gradient of each pixel scaled by grad_losses is the gradient of the sum with grad_losses as pixel weight.
    weight = grad_losses if inputs.pixel_weight is None else grad_losses * inputs.pixel_weight
    inputs = inputs._replace(student=inputs.student.detach(), pixel_weight=weight.detach())
    _, _, grad = fuzzy_positive_sums(*inputs.tensors, numbers, None, **ctx.settings, with_grad=True, with_stats=False)
    return of_first_input(ctx, grad)


fuzzy_positive_map.register_autograd(_map_backward, setup_context=save_call)


@functools.cache
def _warn_of_gate() -> None:
    """Warn once per process of a gate at or above ``threshold``; the operator calls this, where no compiler traces."""
    warnings.warn(
        "confidence_threshold is at or above threshold: every pixel that passes the gate then has a single positive, "
        "and the fuzzy positive loss is a plain cross entropy; lower confidence_threshold (0 leaves the gate out) or "
        "raise threshold",
        stacklevel=2,
    )
