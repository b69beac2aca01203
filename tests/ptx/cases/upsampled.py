"""The fuzzy positive loss from low-resolution logits."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fpl_fast.kernels import upsampled
from fpl_fast.kernels.arguments import LossInputs
from ptx.cases.fuzzy_positive import FuzzyPositive
from ptx.cases.table import UNCAPPED, Case, add, box, logits

Size = tuple[int, int]


def up(
    classes: int,
    low: Size,
    size: Size,
    *,
    dtype: str = "bf16",
    align: bool = True,
    images: int = 2,
    layout: str = "nchw",
    spread: float = 3.0,
    mix: bool = False,
    mask: bool = False,
    weight: bool = False,
    threshold: bool = False,
    **keywords: Any,
) -> FuzzyPositive:
    """Logits in a layout, the partner's in another one; what is of pixels is drawn where it is asked for."""
    shape = (images, classes, *low)
    student, teacher = (logits(shape, dtype, layout, spread=spread) for _ in range(2))
    inputs = LossInputs(student, teacher, size=size, align_corners=align)
    if mix:
        inputs = inputs._replace(partner=logits(shape, dtype, spread=spread), mix_mask=box(images, *size))
    if mask:
        inputs = inputs._replace(valid_mask=torch.rand(images, *size) > 0.3)
    if weight:
        inputs = inputs._replace(pixel_weight=torch.rand(images, *size))
    if threshold:
        inputs = inputs._replace(threshold=0.5 + 0.5 * torch.rand(images, *size))
    return FuzzyPositive(inputs, **keywords)


for align in (True, False):
    corners = f"corners {'aligned' if align else 'not aligned'}"
    add(f"upsampled C=5 x2, {corners}", up, 5, (5, 7), (10, 14), align=align)
    add(f"upsampled C=5 x4, {corners}", up, 5, (6, 5), (24, 20), align=align, images=1)
    add(f"upsampled C=5 x8, {corners}", up, 5, (3, 4), (24, 32), align=align, images=1)
    add(f"upsampled C=5 by no integer, {corners}", up, 5, (5, 7), (13, 17), align=align)
    add(f"upsampled C=5 to smaller, {corners}", up, 5, (11, 9), (4, 5), align=align)
add("upsampled C=5 strips and blocks of columns", up, 5, (19, 9), (38, 131), images=1, dtype="fp32")
add("upsampled C=5 one low pixel", up, 5, (1, 1), (3, 4))
add("upsampled C=5 one row", up, 5, (1, 6), (1, 11))
add("upsampled C=5 one column", up, 5, (6, 1), (11, 1))
add("upsampled C=5 same size", up, 5, (4, 6), (4, 6))
add("upsampled C=5 small", up, 5, (3, 4), (5, 7), images=1, quick=True)
add("upsampled C=5 cutmix", up, 5, (6, 7), (12, 14), mix=True)
EVERYTHING = {"mix": True, "mask": True, "weight": True, "threshold": True}
MASKED = {"mix": True, "mask": True, "weight": True, "with_stats": False, "scale": 0.25}
add("upsampled C=5 cutmix, mask, weight, no statistics", up, 5, (6, 7), (12, 14), **MASKED)
add("upsampled C=5 small, everything of pixels", up, 5, (3, 4), (5, 7), **EVERYTHING, quick=True)
add("upsampled C=5 thresholds uncapped", up, 5, (6, 7), (12, 14), threshold=True, max_positives=UNCAPPED, spread=1.0)
add("upsampled C=5 map", up, 5, (6, 7), (12, 14), mask=True, with_map=True)
for layout in ("channels_last", "crop", "transposed", "batch_inside", "channels_last_padded"):
    add(f"upsampled C=5 {layout}", up, 5, (6, 7), (12, 14), layout=layout)
add("upsampled C=5 moved fp16", up, 5, (6, 8), (12, 16), layout="moved", dtype="fp16")
add("upsampled C=5 uncapped hinge", up, 5, (6, 7), (12, 14), form="hinge", spread=1.0, max_positives=UNCAPPED)
add("upsampled C=19 bf16 x4", up, 19, (5, 6), (20, 24), images=1)
add("upsampled C=19 bf16 x4 cutmix", up, 19, (5, 6), (20, 24), images=1, mix=True)
add(
    "upsampled C=19 fp32 channels_last, everything of pixels",
    up,
    19,
    (3, 4),
    (5, 9),
    layout="channels_last",
    **EVERYTHING,
)
add("upsampled C=21 bf16", up, 21, (4, 5), (8, 10), images=1)
add("upsampled C=21 fp32 channels_last mask", up, 21, (3, 4), (6, 7), dtype="fp32", layout="channels_last", mask=True)
add("upsampled C=40 bf16", up, 40, (4, 5), (8, 10), images=1)
add("upsampled C=150 bf16", up, 150, (2, 3), (3, 5), images=1)
add("upsampled C=150 fp32 channels_last, everything", up, 150, (2, 2), (3, 3), layout="channels_last", **EVERYTHING)


def tied_teacher() -> FuzzyPositive:
    """Twice the size without aligned corners: interpolated ties are exact."""
    student, teacher = logits((1, 5, 6, 7), "fp32"), logits((1, 5, 6, 7), "fp32", spread=1.0, ties=True)
    return FuzzyPositive(LossInputs(student, teacher, size=(12, 14), align_corners=False), exact_ties=True)


add("upsampled C=5 x2 fp32, teacher ties", tied_teacher)


class InParts(FuzzyPositive):
    """A launch for each image."""

    def run(self) -> dict[str, Tensor]:
        with _buffer_of(1):
            return super().run()


@contextlib.contextmanager
def _buffer_of(num_bytes: int) -> Iterator[None]:
    before, upsampled.BUFFER_BYTES = upsampled.BUFFER_BYTES, num_bytes
    upsampled._PLANS.clear()
    try:
        yield
    finally:
        upsampled.BUFFER_BYTES = before
        upsampled._PLANS.clear()


def in_parts() -> Case:
    """Three images."""
    return InParts(up(5, (6, 7), (12, 14), images=3).inputs)


add("upsampled C=5 several launches", in_parts)
