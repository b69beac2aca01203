"""The cross entropy with labels, at full resolution and upsampled."""

from typing import Any

import torch
from tolerances import GRADIENT, LOSS, SUMS, widened
from torch import Tensor

from fpl_fast.kernels.arguments import LabelInputs
from fpl_fast.kernels.cross_entropy import cross_entropy_map, cross_entropy_sums
from ptx import expected
from ptx.cases.table import Case, add, logits

LABELS = {"uint8": torch.uint8, "int32": torch.int32, "int64": torch.int64}


class CrossEntropy(Case):
    """A call of the loss.

    Args:
        inputs: Of the loss.
        scale: Of the gradient; None for 1.
        with_grad: Whether the gradient is asked for.
        with_map: Whether the losses of the pixels are asked for instead.
    """

    def __init__(
        self, inputs: LabelInputs, *, scale: float | None = None, with_grad: bool = True, with_map: bool = False
    ) -> None:
        self.inputs, self.scale, self.with_grad, self.with_map = inputs, scale, with_grad, with_map

    def run(self) -> dict[str, Tensor]:
        if self.with_map:
            return {"map": cross_entropy_map(self.inputs)}
        scale = None if self.scale is None else torch.tensor(self.scale)
        sums, grad = cross_entropy_sums(self.inputs, scale=scale, with_grad=self.with_grad)
        return {"sums": sums.double().sum(1)} | ({} if grad is None else {"grad": grad})

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        sums, grad, losses = expected.cross_entropy(self.inputs, self.scale)
        found = {}
        if "map" in result:
            found["map"] = expected.excess(result["map"], losses, **LOSS)
        if "sums" in result:
            found["loss"] = expected.excess(result["sums"][0], sums[0], **SUMS)
            found["num_valid"] = expected.unequal(result["sums"][1], sums[1])
            if not sums[0].isnan():  # a label that is no class has no weight
                found["weight"] = expected.excess(result["sums"][2], sums[2], **SUMS)
        if "grad" in result:
            allowed = widened(GRADIENT[self.inputs.student.dtype], self.inputs.student.double())
            found["grad"] = expected.excess(result["grad"], grad, **allowed)
        return found

    def tensors(self) -> list[Tensor]:
        return [x for x in self.inputs if isinstance(x, Tensor)]


def labels(
    classes: int,
    dtype: str,
    label_dtype: str,
    *,
    shape: tuple[int, int] = (9, 31),
    layout: str = "nchw",
    weights: bool = False,
    ignore: int = 255,
    size: tuple[int, int] | None = None,
    align: bool = True,
    bad: bool = False,
    **keywords: Any,
) -> CrossEntropy:
    """Two images; with ``bad``, labels that are no class."""
    pixels = (2, *(size or shape))
    target = torch.randint(0, classes, pixels)
    target[torch.rand(pixels) < 0.2] = ignore
    if bad:
        target[0, 0, 0] = classes
        if label_dtype != "uint8":
            target[1, 2, 3] = -7
    given = [torch.rand(classes), torch.rand(pixels)] if weights else [None, None]
    student = logits((2, classes, *shape), dtype, layout)
    return CrossEntropy(LabelInputs(student, target.to(LABELS[label_dtype]), *given, ignore, size, align), **keywords)


for label_dtype in LABELS:
    add(f"labels {label_dtype} C=19 bf16", labels, 19, "bf16", label_dtype)
    bad = {"weights": True, "bad": True, "scale": 0.5}
    add(f"labels {label_dtype} C=7 fp32 weights, bad labels", labels, 7, "fp32", label_dtype, **bad)
    up = {"shape": (5, 6), "size": (10, 13), "weights": label_dtype == "int32", "align": label_dtype != "uint8"}
    add(f"upsampled labels {label_dtype} C=5", labels, 5, "bf16", label_dtype, **up)
add("labels uint8 C=5 bf16 small", labels, 5, "bf16", "uint8", shape=(3, 13), weights=True, scale=0.5, quick=True)
add("labels int64 ignore -100 C=2 fp16", labels, 2, "fp16", "int64", ignore=-100)
add("labels int32 C=40 fp32 weights", labels, 40, "fp32", "int32", weights=True)
add("labels uint8 C=150 bf16", labels, 150, "bf16", "uint8", shape=(5, 7))
add("labels uint8 C=19 bf16 channels_last", labels, 19, "bf16", "uint8", layout="channels_last")
add("labels uint8 C=7 bf16 pairs", labels, 7, "bf16", "uint8", layout="channels_last", shape=(12, 12), weights=True)
add("labels int64 C=5 map", labels, 5, "fp32", "int64", with_map=True, weights=True)
add("labels int64 C=5 crop, no gradient", labels, 5, "fp32", "int64", layout="crop", with_grad=False)
add("labels int64 C=5 moved", labels, 5, "bf16", "int64", layout="moved", shape=(8, 16))
SMALL = {"shape": (3, 4), "size": (5, 7)}
add("upsampled labels int64 C=5 small", labels, 5, "fp32", "int64", **SMALL, weights=True, quick=True)
add("upsampled labels uint8 C=19 bf16 channels_last", labels, 19, "bf16", "uint8", **SMALL, layout="channels_last")
add("upsampled labels uint8 C=21 fp32 crop", labels, 21, "fp32", "uint8", **SMALL, layout="crop", weights=True)
add("upsampled labels uint8 C=150 bf16", labels, 150, "bf16", "uint8", shape=(2, 3), size=(3, 4))
add("upsampled labels int32 C=5 map", labels, 5, "fp32", "int32", **SMALL, with_map=True)
