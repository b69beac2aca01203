"""The distances of two softmaxes, at full resolution and upsampled."""

from typing import Any

import torch
from tolerances import GRADIENT, LOSS, SUMS, widened
from torch import Tensor

from fpl_fast.kernels.arguments import LossInputs
from fpl_fast.kernels.consistency import consistency_map, consistency_sums
from fpl_fast.reference import softmax_distance
from ptx import expected
from ptx.cases.table import Case, add, box, logits


class Consistency(Case):
    """A call of the loss.

    Args:
        inputs: Of the loss.
        kind: Of the distance.
        scale: Of the gradient; None for 1.
        with_grad: Whether the gradient is asked for.
        with_map: Whether the distances of the pixels are asked for instead.
    """

    def __init__(
        self,
        inputs: LossInputs,
        kind: str,
        *,
        scale: float | None = None,
        with_grad: bool = True,
        with_map: bool = False,
    ) -> None:
        self.inputs, self.kind, self.scale = inputs, kind, scale
        self.with_grad, self.with_map = with_grad, with_map

    def run(self) -> dict[str, Tensor]:
        if self.with_map:
            return {"map": consistency_map(self.inputs, self.kind)}
        scale = None if self.scale is None else torch.tensor(self.scale)
        sums, grad = consistency_sums(self.inputs, self.kind, scale=scale, with_grad=self.with_grad)
        return {"sums": sums.double().sum(1)} | ({} if grad is None else {"grad": grad})

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        exact = self.inputs.student.double().requires_grad_()
        distance = softmax_distance(expected.upsampled(exact, self.inputs), expected.teacher_of(self.inputs), self.kind)
        if self.inputs.pixel_weight is not None:
            distance = distance * self.inputs.pixel_weight
        if self.inputs.valid_mask is not None:
            distance = distance.masked_fill(~self.inputs.valid_mask, 0)
        if self.with_map:
            return {"map": expected.excess(result["map"], distance.detach(), **LOSS)}
        total = distance.sum()
        found = {"loss": expected.excess(result["sums"], total.detach().unsqueeze(0), **SUMS)}
        if self.with_grad:
            (grad,) = torch.autograd.grad(total * (1.0 if self.scale is None else self.scale), exact)
            allowed = widened(GRADIENT[self.inputs.student.dtype], self.inputs.student.double())
            found["grad"] = expected.excess(result["grad"], grad, **allowed)
        return found

    def tensors(self) -> list[Tensor]:
        return [x for x in self.inputs.tensors() if x is not None]


def consistency(
    kind: str,
    shape: tuple[int, int, int, int],
    dtype: str,
    *,
    teacher_dtype: str | None = None,
    layout: str = "nchw",
    size: tuple[int, int] | None = None,
    align: bool = True,
    masked: bool = False,
    mix: bool = False,
    **keywords: Any,
) -> Consistency:
    """Student and teacher in a layout; with ``masked`` a mask and weights."""
    pixels = (shape[0], *(size or shape[2:]))
    inputs = LossInputs(logits(shape, dtype, layout), logits(shape, teacher_dtype or dtype, layout), size=size)
    inputs = inputs._replace(align_corners=align)
    if masked:
        inputs = inputs._replace(pixel_weight=torch.rand(pixels), valid_mask=torch.rand(pixels) > 0.3)
    if mix:
        inputs = inputs._replace(partner=logits(shape, teacher_dtype or dtype), mix_mask=box(*pixels))
    return Consistency(inputs, kind, **keywords)


UP = {"size": (12, 14)}
for kind in ("mse", "kl"):
    add(f"consistency {kind} C=5 bf16", consistency, kind, (2, 5, 7, 19), "bf16", scale=0.25)
    mixed = {"masked": True, "mix": True}
    add(f"consistency {kind} C=19 fp32, everything", consistency, kind, (2, 19, 7, 19), "fp32", **mixed)
    add(f"consistency {kind} C=5 small", consistency, kind, (1, 5, 3, 7), "bf16", **mixed, quick=kind == "kl")
    for size in ((9, 11), (12, 12)):
        name = f"consistency {kind} C=21 fp16 channels_last {size[0]}x{size[1]}"
        add(name, consistency, kind, (1, 21, *size), "fp16", layout="channels_last")
    other = {"teacher_dtype": "bf16", "layout": "crop"}
    add(f"consistency {kind} C=34 fp32 student, bf16 teacher, crop", consistency, kind, (1, 34, 5, 9), "fp32", **other)
    add(f"consistency {kind} C=150 bf16", consistency, kind, (1, 150, 3, 5), "bf16")
    add(f"consistency {kind} C=5 map", consistency, kind, (2, 5, 7, 19), "fp32", masked=True, with_map=True)
    add(f"consistency {kind} C=5 sums alone", consistency, kind, (2, 5, 7, 19), "bf16", with_grad=False)
    add(f"upsampled consistency {kind} C=5", consistency, kind, (2, 5, 6, 7), "bf16", **UP, align=False)
    small = {"size": (5, 7), **mixed}
    add(
        f"upsampled consistency {kind} C=5 small", consistency, kind, (2, 5, 3, 4), "fp32", **small, quick=kind == "mse"
    )
    add(
        f"upsampled consistency {kind} C=19 channels_last",
        consistency,
        kind,
        (1, 19, 3, 4),
        "bf16",
        **UP,
        layout="channels_last",
    )
    add(f"upsampled consistency {kind} C=40", consistency, kind, (1, 40, 3, 4), "bf16", size=(5, 7))
    add(
        f"upsampled consistency {kind} C=5 map",
        consistency,
        kind,
        (1, 5, 6, 7),
        "fp32",
        **UP,
        masked=True,
        with_map=True,
    )
