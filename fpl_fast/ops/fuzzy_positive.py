"""The fuzzy positive loss as eager code calls it, and its operators with the packing of a call for a compiler."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.caller import warn_caller
from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import NAMES, NUMBERS, LossInputs, LossOptions
from fpl_fast.kernels.statistics import NUM_STATISTICS, Finish
from fpl_fast.ops import finish as ops_finish
from fpl_fast.ops.gradient import (
    Evaluated,
    differentiable,
    is_traced,
    of_first_input,
    refuse_double_backward,
    register_backward_of_loss,
    save_call,
    saved_inputs,
    scales_in_backward,
)
from fpl_fast.reference import accumulate_dtype

# Replayed from a CUDA graph, a kernel would see the numbers of the step that was recorded.
_TAGS = (torch.Tag.cudagraph_unsafe,)


def loss_and_statistics(
    inputs: LossInputs, options: LossOptions, engine: str, *, reduction: str, balance: bool, with_stats: bool
) -> tuple[Tensor, Tensor | None]:
    """The loss, differentiable in the student, and the statistics of ``kernels/statistics.py`` or None.

    Args:
        inputs: of the loss.
        options: of the loss.
        engine: "auto" or the name of one.
        reduction: "sum", "mean" or "weighted_mean".
        balance: whether the loss is balanced.
        with_stats: whether the statistics are computed.
    """
    keywords: dict[str, Any] = {"reduction": reduction, "balance": balance, "with_stats": with_stats}
    keywords["with_grad"] = inputs.student.requires_grad and torch.is_grad_enabled()
    if is_traced(*inputs.tensors()):
        tensors, settings = pack(inputs, options)
        loss, _, statistics, _ = fuzzy_positive_operator(*tensors, **settings, engine=engine, **keywords)
        return loss, statistics if with_stats else None
    evaluated = evaluate(LossInputs(inputs.student.detach(), *inputs[1:]), options, engine, **keywords)
    return differentiable(inputs.student, evaluated), evaluated.statistics


def evaluate(
    inputs: LossInputs,
    options: LossOptions,
    engine: str,
    *,
    reduction: str,
    balance: bool,
    with_grad: bool,
    with_stats: bool,
) -> Evaluated:
    """Evaluate a call; eager code and the operator of a compiler share this, and so give the same bits."""
    warn_of_gate(options)
    student = inputs.student
    resolved = choice.resolve(engine, student, inputs.teacher, inputs.pixels())
    todo = Finish(
        scale=ops_finish.mean_scale(inputs, resolved) if reduction == "mean" else None,
        scale_in_backward=scales_in_backward(student),
        weighted_mean=reduction == "weighted_mean",
        balance=balance,
        with_stats=with_stats,
    )
    num_pixels = math.prod(inputs.pixels())
    keywords = {"with_grad": with_grad, "with_stats": todo.needs_all_sums}
    if resolved == "triton":
        from fpl_fast.kernels import finish, fuzzy_positive

        sums, grad = fuzzy_positive.fuzzy_positive_sums(inputs, options, scale=todo.scale_of_gradient, **keywords)
        return Evaluated(*finish.finish(sums, todo, num_pixels), grad)
    scale = todo.scale_of_gradient
    if isinstance(scale, float):  # the graphs of the compiled engine take tensors
        scale = torch.full((), scale, dtype=accumulate_dtype(student, inputs.teacher), device=student.device)
    sums, grad = choice.evaluate("fuzzy_positive_sums", choice.module, engine, inputs, options, scale=scale, **keywords)
    return Evaluated(*ops_finish.finish(sums, todo, num_pixels), grad)


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
    return (*inputs.tensors(), numbers), {
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
    return inputs, LossOptions(max_positives=max_positives, **kinds)


@torch.library.custom_op("fpl_fast::fuzzy_positive_loss", mutates_args=(), tags=_TAGS)
def fuzzy_positive_operator(
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
    reduction: str,
    balance: bool,
    with_grad: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and what its backward needs, for a compiler.

    The arguments up to ``numbers`` and up to ``names`` are those of :func:`pack`, the others those of :func:`evaluate`.

    Returns:
        loss: 0-d; differentiable in ``student``.
        factor: 0-d, what the backward multiplies the gradient by; empty for 1.
        statistics: (NUM_STATISTICS,) of the valid pixels; empty without ``with_stats``.
        grad: the derivative of loss, but for the factor; empty without ``with_grad``.
    """
    inputs, options = unpack(
        (student, teacher, partner, mix_mask, pixel_weight, valid_mask, threshold),
        numbers,
        size=size,
        align_corners=align_corners,
        max_positives=max_positives,
        names=names,
    )
    evaluated = evaluate(
        inputs,
        options,
        engine,
        reduction=reduction,
        balance=balance,
        with_grad=with_grad,
        with_stats=with_stats,
    )
    return evaluated.as_tensors(student)


@fuzzy_positive_operator.register_fake
def _(
    student: Tensor,
    teacher: Tensor,
    *_: Any,
    reduction: str,
    balance: bool,
    with_grad: bool,
    with_stats: bool,
    **__: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(student, teacher)
    todo = Finish(
        1.0 if reduction == "mean" else None, scales_in_backward(student), reduction == "weighted_mean", balance
    )
    grad = torch.empty_like(student) if with_grad else student.new_empty(0)
    factor = student.new_empty(() if todo.has_factor else 0, dtype=dtype)
    return student.new_empty((), dtype=dtype), factor, student.new_empty(NUM_STATISTICS * with_stats, dtype=dtype), grad


register_backward_of_loss(fuzzy_positive_operator)


@torch.library.custom_op("fpl_fast::fuzzy_positive_pixel_losses", mutates_args=(), tags=_TAGS)
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
    inputs, options = unpack(
        (student, teacher, partner, mix_mask, pixel_weight, valid_mask, threshold),
        numbers,
        size=size,
        align_corners=align_corners,
        max_positives=max_positives,
        names=names,
    )
    warn_of_gate(options)
    losses: Tensor = choice.evaluate("fuzzy_positive_map", choice.module, engine, inputs, options)
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
    keywords = {"reduction": "sum", "balance": False, "with_grad": True, "with_stats": False}
    *_, grad = fuzzy_positive_operator(*inputs.tensors(), numbers, **ctx.settings, **keywords)
    return of_first_input(ctx, grad)


fuzzy_positive_map.register_autograd(_map_backward, setup_context=save_call)


def warn_of_gate(options: LossOptions) -> None:
    """Warn of a gate that leaves one positive to every pixel; called where no compiler traces."""
    if options.max_positives > 1 and options.confidence_threshold >= options.threshold:
        _warn_of_gate()


@functools.cache
def _warn_of_gate() -> None:
    """Warn once per process of a gate at or above ``threshold``."""
    warn_caller(
        "confidence_threshold is at or above threshold: every pixel that passes the gate then has a single positive, "
        "and the fuzzy positive loss is a plain cross entropy; lower confidence_threshold (0 leaves the gate out) or "
        "raise threshold"
    )
