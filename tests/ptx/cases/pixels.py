"""The fuzzy positive loss with masks, weights, thresholds, CutMix, and logits at the ends of their formats."""

import math
from typing import Any

import torch
from tolerances import GRADIENT, widened
from torch import Tensor

from fpl_fast.kernels.arguments import LossInputs
from ptx import expected
from ptx.cases.fuzzy_positive import FuzzyPositive, simple
from ptx.cases.table import DTYPES, UNCAPPED, add, logits, moved

PIXELS = (2, 13, 21)


def masked(
    classes: int,
    pixels: tuple[int, int, int] = PIXELS,
    *,
    valid: bool = True,
    weight: bool = True,
    offset: int = 0,
    **keywords: Any,
) -> FuzzyPositive:
    """A mask that all images share and weights of another order, or both at an offset that aligns nothing."""
    n, h, w = pixels
    pixel_weight, valid_mask = torch.rand(n, w, h).transpose(1, 2), torch.rand(h, w).gt(0.4).expand(n, h, w)
    if offset:
        pixel_weight, valid_mask = moved(torch.rand(n, h, w), offset), moved(torch.rand(n, h, w) > 0.4, offset)
    inputs = LossInputs(logits((n, classes, h, w), "fp32"), logits((n, classes, h, w), "bf16"))
    inputs = inputs._replace(pixel_weight=pixel_weight if weight else None, valid_mask=valid_mask if valid else None)
    return FuzzyPositive(inputs, **keywords)


for classes in (6, 34):
    add(f"mask and weight C={classes}", masked, classes)
add("mask and weight C=6 small", masked, 6, (1, 5, 9), quick=True)
add("weight C=6 scale", masked, 6, valid=False, scale=-0.5)
add("mask C=6", masked, 6, weight=False)
add("mask and weight at offset 1, C=6", masked, 6, offset=1)
add("mask and weight map C=6", masked, 6, with_map=True)


def with_thresholds(
    shape: tuple[int, int, int, int], dtype: str, *, order: str = "nhw", **keywords: Any
) -> FuzzyPositive:
    """A threshold of each pixel."""
    n, _, h, w = shape
    threshold = 0.5 + 0.5 * torch.rand(n, h, w)
    if order == "moved":
        threshold = moved(threshold)
    elif order == "transposed":
        threshold = threshold.transpose(1, 2).contiguous().transpose(1, 2)
    student, teacher = (logits(shape, dtype, spread=1.5) for _ in range(2))
    return FuzzyPositive(LossInputs(student, teacher, threshold=threshold), **keywords)


add("thresholds C=5 bf16", with_thresholds, (2, 5, 7, 9), "bf16")
add(
    "thresholds C=5 fp32 small",
    with_thresholds,
    (1, 5, 3, 7),
    "fp32",
    order="moved",
    max_positives=UNCAPPED,
    quick=True,
)
add(
    "thresholds C=19 fp32 uncapped", with_thresholds, (1, 19, 9, 13), "fp32", order="transposed", max_positives=UNCAPPED
)
add("thresholds C=34 bf16", with_thresholds, (1, 34, 5, 9), "bf16")
add("thresholds C=34 fp32 uncapped", with_thresholds, (1, 34, 5, 9), "fp32", max_positives=UNCAPPED)


def cutmix(
    classes: int,
    layout: str = "nchw",
    dtype: str = "fp32",
    size: tuple[int, int] = (9, 17),
    student_layout: str = "nchw",
) -> FuzzyPositive:
    """A partner of the teacher in another layout, in the second image alone."""
    shape = (2, classes, *size)
    teacher, partner = logits(shape, "bf16"), logits(shape, "bf16", layout)
    mix_mask = torch.rand(2, *size) > 0.5
    mix_mask[0] = False
    return FuzzyPositive(LossInputs(logits(shape, dtype, student_layout), teacher, partner, mix_mask))


for classes in (6, 34):
    for layout in ("nchw", "channels_last", "crop"):
        add(f"cutmix C={classes} partner {layout}", cutmix, classes, layout)
add("cutmix C=6 small", cutmix, 6, "channels_last", size=(3, 5), quick=True)
add("cutmix C=19 bf16", cutmix, 19, dtype="bf16")
for size in ((9, 17), (12, 12)):
    name = f"cutmix C=5 bf16 channels_last {size[0]}x{size[1]}"
    add(name, cutmix, 5, "channels_last", "bf16", size, student_layout="channels_last")


def confident(classes: int, **options: Any) -> FuzzyPositive:
    """A gate on the teacher's confidence, or powers of it."""
    student, teacher = (logits((1, classes, 5, 7), "fp32") for _ in range(2))
    return FuzzyPositive(LossInputs(student, teacher, pixel_weight=torch.rand(1, 5, 7)), **options)


GATE = {"confidence_threshold": 0.7, "confidence_power": 2.0, "max_positives": 1}
for classes in (6, 34):
    add(f"confidence C={classes}", confident, classes, **GATE, quick=classes == 6)
add("confidence power C=6", confident, 6, confidence_power=0.5)


class InvalidIsBad(FuzzyPositive):
    """Logits of invalid pixels are no numbers, which the reference may not see."""

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        invalid = ~self.inputs.valid_mask.unsqueeze(1)
        student, teacher = (x.masked_fill(invalid, 0) for x in (self.inputs.student, self.inputs.teacher))
        clean = FuzzyPositive(self.inputs._replace(student=student, teacher=teacher))
        return clean.check(result)


def invalid_is_bad(classes: int, size: tuple[int, int], share: float) -> InvalidIsBad:
    """A part of the pixels is invalid and holds NaN or infinity."""
    student, teacher = (logits((2, classes, *size), "bf16") for _ in range(2))
    valid = torch.rand(2, *size) >= share
    student.masked_fill_(~valid.unsqueeze(1), math.nan)
    teacher.masked_fill_(~valid.unsqueeze(1), math.inf)
    return InvalidIsBad(LossInputs(student, teacher, valid_mask=valid))


add("invalid logits are NaN C=19 bf16", invalid_is_bad, 19, (16, 16), 0.3)
add("no pixel is valid C=5 bf16", invalid_is_bad, 5, (4, 5), 1.0)


class Poisoned(FuzzyPositive):
    """A bad logit makes loss and gradient of its pixel NaN, and those of no other."""

    def is_clear(self) -> bool:
        return expected.is_clear(self.inputs._replace(valid_mask=~self._bad()), self.options, False)

    def _bad(self) -> Tensor:
        return ~(self.inputs.student.isfinite().all(1) & self.inputs.teacher.isfinite().all(1))

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        bad = self._bad()
        logits = (x.masked_fill(bad.unsqueeze(1), 0) for x in (self.inputs.student, self.inputs.teacher))
        clean = LossInputs(*logits, valid_mask=~bad)
        _, grad, _ = expected.fuzzy_positive(clean, self.options, None)
        allowed = widened(GRADIENT[clean.student.dtype], clean.student.double())
        got = result["grad"].masked_fill(bad.unsqueeze(1), 0)
        return {
            "sums": 0.0 if result["sums"][[0, 2, 3, 4]].isnan().all() else math.inf,
            "bad pixels": expected.unequal(result["grad"].isnan().any(1).float(), bad.float()),
            "grad": expected.excess(got, grad, **allowed),
        }


def poisoned(classes: int, which: str, form: str) -> Poisoned:
    """NaN and both infinities, each in the first, a middle and the last class."""
    given = {name: logits((1, classes, 3, 5), "bf16") for name in ("student", "teacher")}
    for row, c in enumerate((0, classes // 2, classes - 1)):
        given[which][0, c, row, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    return Poisoned(LossInputs(**given), form=form)


for which in ("student", "teacher"):
    for form in ("smooth", "hinge"):
        add(f"bad logits in the {which} C=4 {form}", poisoned, 4, which, form)
    add(f"bad logits in the {which} C=33", poisoned, 33, which, "smooth")
for classes in (8, 40):
    add(f"large logits C={classes}", simple, (1, classes, 6, 7), "fp32", spread=1e4, weighting="none", huge=True)


def signed_zeros(dtype: str) -> FuzzyPositive:
    """Equal logits of both signs."""
    teacher = logits((1, 6, 6, 7), dtype, spread=1.0, ties=True)
    teacher[0, :, 0] = 0.0
    teacher[0, ::2, 0] = -0.0
    return FuzzyPositive(LossInputs(logits((1, 6, 6, 7), "fp32"), teacher), max_positives=UNCAPPED)


def ends(kind: str, dtype: str) -> FuzzyPositive:
    """Subnormal, equal, or the most negative logits; the largest that a 16-bit format has."""
    student, teacher = (logits((2, 5, 5, 31), dtype) for _ in range(2))
    largest = torch.finfo(DTYPES[dtype]).max
    if kind == "subnormal":
        teacher = (torch.randint(-9, 10, teacher.shape) * 2.0**-131).to(DTYPES[dtype])
        student = (student.float() * 2.0**-128).to(DTYPES[dtype])
    elif kind == "equal":
        teacher.fill_(0.5), student.fill_(-1.5)
    else:
        extreme = {"student": student, "teacher": teacher}[kind.split()[0]]
        if kind == "student least":  # as classes are masked, of both networks
            student[:, 1::2], teacher[:, 1::2] = -largest, -largest
        elif kind == "teacher least":
            teacher[:, 1::2] = -largest
        else:
            extreme[:, 1] = largest
    return FuzzyPositive(LossInputs(student, teacher), huge=kind.startswith(("student", "teacher")))


for dtype in ("bf16", "fp32"):
    add(f"signed zeros C=6 {dtype}", signed_zeros, dtype)
    add(f"ends: subnormal C=5 {dtype}", ends, "subnormal", dtype)
    add(f"ends: equal C=5 {dtype}", ends, "equal", dtype)
for which in ("student", "teacher"):
    add(f"ends: {which} least C=5 bf16", ends, f"{which} least", "bf16")
    add(f"ends: {which} largest C=5 fp16", ends, f"{which} largest", "fp16")
