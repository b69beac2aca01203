"""The torch.library operators behind the loss, their fakes and their autograd formulas.

``fpl_fast::fuzzy_positive_sums`` computes the loss and, in the same pass, its gradient. The backward only scales that
gradient, and leaves it untouched where the factor is 1 (the decision is taken on the device). The operators are
functional and opaque to the compiler; the fakes keep the strides of the student.
"""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fpl_fast import engines
from fpl_fast.kernels.arguments import NUM_SUMS, LossInputs, LossOptions
from fpl_fast.reference import accumulate_dtype

# Replayed from a CUDA graph, a kernel would see the numbers of the step that was recorded.
_TAGS = (torch.Tag.cudagraph_unsafe,)


@torch.library.custom_op("fpl_fast::fuzzy_positive_sums", mutates_args=(), tags=_TAGS)
def fuzzy_positive_sums(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    numbers: Tensor,
    size: Sequence[int] | None,
    align_corners: bool,
    max_positives: int,
    weighting: str,
    form: str,
    engine: str,
    scale: Tensor | None,
    with_grad: bool,
    with_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled loss, the sums, and the gradient that the backward needs.

    The arguments are the fields of :class:`LossInputs` and :class:`LossOptions`. The floats among them are packed into
    ``numbers``, a float64 tensor on the CPU (see :func:`pack_numbers`).

    Returns:
        loss: 0-d, scale times the first sum; differentiable in ``student``.
        sums: (NUM_SUMS,) over the valid pixels, see ``arguments.SUMS``; without ``with_stats`` zero after the first.
        grad: the derivative of loss, unscaled for float16 (where 1 / pixels would underflow); empty without gradient.
    """
    sums, grad = engines.evaluate(
        "fuzzy_positive_sums",
        engine,
        _inputs(student, teacher, partner, mix_mask, pixel_weight, valid_mask, size=size, align_corners=align_corners),
        _options(numbers, max_positives, weighting, form),
        scale=None if scales_in_backward(student) else scale,
        with_grad=with_grad,
        with_stats=with_stats,
    )
    loss = sums[0] * scale if scale is not None else sums[0].clone()
    return loss, sums, student.new_empty(0) if grad is None else grad


@fuzzy_positive_sums.register_fake
def _(student: Tensor, teacher: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    with_grad = arguments[-2]
    dtype = accumulate_dtype(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0)
    return student.new_empty((), dtype=dtype), student.new_empty(NUM_SUMS, dtype=dtype), grad


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    student, scale = inputs[0], inputs[-3]
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)  # or each backward would fill zeros of the gradient's size
    ctx.save_for_backward(output[2], scale if scales_in_backward(student) else None)
    ctx.num_inputs = len(inputs)


def _sums_backward(
    ctx: Any, grad_loss: Tensor | None, _grad_sums: Tensor | None, _grad_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    grad = None if grad_loss is None else scaled_gradient(ctx.saved_tensors, grad_loss)
    return (grad, *(None,) * (ctx.num_inputs - 1))


fuzzy_positive_sums.register_autograd(_sums_backward, setup_context=_save_sums)


@torch.library.custom_op("fpl_fast::fuzzy_positive_map", mutates_args=(), tags=_TAGS)
def fuzzy_positive_map(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    numbers: Tensor,
    size: Sequence[int] | None,
    align_corners: bool,
    max_positives: int,
    weighting: str,
    form: str,
    engine: str,
) -> Tensor:
    """The first term of every pixel, (N, H, W), zero where not valid; differentiable in ``student``."""
    losses: Tensor = engines.evaluate(
        "fuzzy_positive_map",
        engine,
        _inputs(student, teacher, partner, mix_mask, pixel_weight, valid_mask, size=size, align_corners=align_corners),
        _options(numbers, max_positives, weighting, form),
    )
    return losses


@fuzzy_positive_map.register_fake
def _(student: Tensor, teacher: Tensor, *arguments: Any) -> Tensor:
    height, width = arguments[5] or student.shape[2:]
    return student.new_empty((len(student), height, width), dtype=accumulate_dtype(student, teacher))


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    save_inputs(ctx, inputs[:7])
    ctx.options = inputs[7:]


def _map_backward(ctx: Any, grad_losses: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad_losses is None:
        return (None,) * (7 + len(ctx.options))
    student, teacher, partner, mix_mask, pixel_weight, valid_mask, numbers = saved_inputs(ctx)
    # The gradient of each pixel scaled by grad_losses is the gradient of the sum with grad_losses as pixel weight.
    weight = grad_losses if pixel_weight is None else grad_losses * pixel_weight
    assert student is not None
    _, _, grad = fuzzy_positive_sums(
        student.detach(),
        teacher,
        partner,
        mix_mask,
        weight.detach(),
        valid_mask,
        numbers,
        *ctx.options,
        None,
        True,
        False,
    )
    return (grad, *(None,) * (6 + len(ctx.options)))


fuzzy_positive_map.register_autograd(_map_backward, setup_context=_save_map)


def pack_numbers(threshold: float, convex_scale: float, confidence_threshold: float, confidence_power: float) -> Tensor:
    """Pack the numbers among the options into a float64 tensor on the CPU; an operator reads it without waiting.

    Inside a compiler a float argument of an operator would be a constant, and each step of a schedule would need a new
    graph. There the sum with a tensor keeps the number an input of the graph; eager code takes the shorter way.
    """
    values = (threshold, convex_scale, confidence_threshold, confidence_power)
    if torch.compiler.is_compiling():
        zero = torch.zeros((), dtype=torch.float64, device="cpu")
        return torch.stack([zero + value for value in values])
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _options(numbers: Tensor, max_positives: int, weighting: str, form: str) -> LossOptions:
    threshold, convex_scale, confidence_threshold, confidence_power = numbers.tolist()
    if max_positives > 1 and confidence_threshold >= threshold:
        _warn_of_gate()
    return LossOptions(threshold, max_positives, weighting, convex_scale, form, confidence_threshold, confidence_power)


@functools.cache
def _warn_of_gate() -> None:
    """Warn once per process of a gate at or above ``threshold``; the operator calls this, where no compiler traces."""
    warnings.warn(
        "confidence_threshold is at or above threshold: every pixel that passes the gate then has a single positive, "
        "and the fuzzy positive loss is a plain cross entropy; lower confidence_threshold (0 leaves the gate out) or "
        "raise threshold",
        stacklevel=2,
    )


def _inputs(student: Tensor, *others: Any, size: Sequence[int] | None, align_corners: bool) -> LossInputs:
    """Inputs of the engines, the student detached: neither engines nor graphs depend on whether it needs a gradient."""
    pair = None if size is None else (size[0], size[1])
    tensors = LossInputs(student.detach(), *others)
    return tensors._replace(size=pair, align_corners=align_corners)


def save_inputs(ctx: Any, inputs: Sequence[Tensor | None]) -> None:
    """Keep the inputs of an operator for its backward.

    Autograd cannot track writes to a tensor made under ``torch.inference_mode()`` and refuses to save it. A teacher may
    be such a tensor; as the backward only reads it, a plain reference suffices.
    """
    unwatched = [x is not None and x.is_inference() for x in inputs]
    ctx.save_for_backward(*(None if skip else x for x, skip in zip(inputs, unwatched, strict=True)))
    ctx.inference_inputs = {i: x for i, (x, skip) in enumerate(zip(inputs, unwatched, strict=True)) if skip}


def saved_inputs(ctx: Any) -> list[Tensor | None]:
    """Inputs that :func:`save_inputs` kept, in its order."""
    return [ctx.inference_inputs.get(i, x) for i, x in enumerate(ctx.saved_tensors)]


def refuse_double_backward() -> None:
    """Refuse ``create_graph=True``, the only case in which a backward runs with gradients enabled."""
    if torch.is_grad_enabled():
        raise RuntimeError("the loss has no double backward: create_graph=True cannot go through it")


def refuse_forward_mode(logits: Tensor) -> None:
    """Refuse logits with a tangent, which the operators would drop silently: the derivative along it would be zero."""
    if forward_ad.unpack_dual(logits).tangent is not None:
        raise RuntimeError(
            "the loss has no forward-mode derivative: torch.func.jvp cannot go through it; take the gradient with "
            "backward and its product with the tangent"
        )


@torch.library.custom_op("fpl_fast::scale_gradient_", mutates_args=("grad",))
def scale_gradient_(grad: Tensor, factor: Tensor) -> None:
    """Do ``grad *= factor``, but touch nothing when the 0-d ``factor`` is 1; never synchronises with a GPU."""
    if grad.is_cuda and engines.has_triton():
        from fpl_fast.kernels.scale import scale_

        scale_(grad, factor)
    elif grad.is_cuda or factor != 1:  # on a CPU the comparison costs nothing
        grad.copy_(_product(grad, factor))


@scale_gradient_.register_fake
def _(grad: Tensor, factor: Tensor) -> None:
    return None


def scaled_gradient(saved: tuple[Tensor, Tensor | None], grad_loss: Tensor) -> Tensor:
    """The gradient kept by the forward times ``grad_loss`` (and the scale, if the forward left it to the backward)."""
    grad, scale = saved
    factor = grad_loss if scale is None else grad_loss * scale
    if not _may_write(grad):
        return _product(grad, factor)
    scale_gradient_(grad, factor)
    return grad.detach()


def _product(grad: Tensor, factor: Tensor) -> Tensor:
    """Multiply in the factor's dtype, as float16 cannot hold a loss scale of 65536."""
    return (grad.to(factor.dtype) * factor).to(grad.dtype)


def scales_in_backward(student: Tensor) -> bool:
    """Whether the backward applies the scale: in float16, a gradient times 1 / num_pixels would underflow.

    The scale must meet the GradScaler's factor before it meets the gradient.
    """
    return student.dtype == torch.float16


def _may_write(saved: Tensor) -> bool:
    """Whether this backward is the last reader of its saved tensor.

    Not under ``retain_graph=True``, and not while a compiler traces (it then sees a subclass of Tensor).
    """
    return type(saved) is Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore
