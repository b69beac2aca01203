"""The strongest peer on a GPU: pointwise operations on class planes, which Inductor fuses into one kernel.

On a CPU the same source is our own compiled engine.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fpl_fast.bench.cases import THRESHOLD, Case, Inputs
from fpl_fast.bench.peers.peer import LossOfStudent, Peer, upsampled
from fpl_fast.engines import planes
from fpl_fast.kernels.arguments import LossOptions

__all__ = ["PLANES", "planes_loss"]


def planes_loss(student: Tensor, teacher: Tensor, max_positives: int) -> Tensor:
    """Compute the mean fuzzy positive loss of (N, C, H, W) logits, with the gradient computed in the forward pass."""
    return _PlanesLoss.apply(student, teacher, max_positives)


class _PlanesLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, max_positives: int) -> Tensor:
        options = LossOptions(THRESHOLD, max_positives, weighting="none", convex_scale=1.0, form="smooth")
        loss, gradient = compiled_step(options)(
            *(x.permute(1, 0, 2, 3) for x in (student, teacher)),  # no layout is copied: the loop takes any strides
            _mean_scale(student.numel() // student.shape[1], student.device),
            *_numbers(options, student.device),
        )
        ctx.save_for_backward(gradient.permute(1, 0, 2, 3))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None


@functools.cache
def compiled_step(options: LossOptions) -> Callable[..., tuple[Tensor, Tensor]]:
    """Compile loss and gradient of (C, N, H, W) planes, one plane of N images for each class, into one graph."""

    def step(student: Tensor, teacher: Tensor, scale: Tensor, *numbers: Tensor) -> tuple[Tensor, Tensor]:
        dtypes = (student.dtype, teacher.dtype, None, None, scale.dtype)
        specialisation = planes.specialise(len(student), dtypes, options, with_grad=True, with_stats=False)
        terms, gradient = planes.loss_planes(student, teacher, None, None, scale, numbers, specialisation)
        return terms[0].sum() * scale, torch.stack(gradient)

    # One kernel: without this limit Inductor cuts the graph.
    return torch.compile(step, dynamic=False, fullgraph=True, options={"max_fusion_size": 1 << 20})


@functools.cache
def _numbers(options: LossOptions, device: torch.device) -> tuple[Tensor, ...]:
    return tuple(number.to(device) for number in planes.numbers(options))


@functools.cache
def _mean_scale(num_pixels: int, device: torch.device) -> Tensor:
    return torch.tensor(1 / num_pixels, device=device)


def _bind(case: Case, inputs: Inputs) -> LossOfStudent:
    cap = case.num_classes - 1 if case.max_positives is None else case.max_positives
    return lambda student: planes_loss(upsampled(case, student), upsampled(case, inputs.teacher), cap)


PLANES = Peer(
    name="planes",
    about="class planes compiled by Inductor for the GPU",
    bind=_bind,
    supports=lambda case: not case.labels and case.num_classes <= planes.MAX_CLASSES,
    refusal=lambda case, device: "on a CPU it is the compiled engine" if device.type == "cpu" else None,
    compiles_each_case=True,
)
