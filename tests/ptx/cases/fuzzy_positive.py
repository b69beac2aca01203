"""The fuzzy positive loss at full resolution: numbers of classes, dtypes, caps, forms and layouts."""

import math
from typing import Any

import torch
from kernel_cases import COUNTS, draw_huge_logits
from tolerances import GRADIENT, LOSS, SUMS, widened
from torch import Tensor

from fpl_fast.kernels.arguments import SUMS as NAMES
from fpl_fast.kernels.arguments import LossInputs, LossOptions
from fpl_fast.kernels.fuzzy_positive import fuzzy_positive_map, fuzzy_positive_sums
from ptx import expected
from ptx.cases.table import DTYPES, LAYOUTS, UNCAPPED, Case, add, logits

DEFAULTS = LossOptions(0.9, 3, "concave", 1.0, "smooth")


class FuzzyPositive(Case):
    """A call of the loss.

    Args:
        inputs: Of the loss.
        scale: Of the gradient: a number, given as a tensor or, with ``scale_is_number``, as such; None for 1.
        with_stats: Whether all sums are asked for.
        with_grad: Whether the gradient is.
        with_map: Whether the losses of the pixels are asked for instead.
        exact_ties: Whether interpolated logits that tie do so in float32, too.
        huge: Whether the exponentials of large logits lose more than the table of tolerances allows for.
        options: Of the loss, where they are not the paper's.
    """

    def __init__(
        self,
        inputs: LossInputs,
        *,
        scale: float | None = None,
        scale_is_number: bool = False,
        with_stats: bool = True,
        with_grad: bool = True,
        with_map: bool = False,
        exact_ties: bool = False,
        huge: bool = False,
        **options: Any,
    ) -> None:
        self.inputs, self.scale, self.scale_is_number = inputs, scale, scale_is_number
        self.with_stats, self.with_grad, self.with_map = with_stats, with_grad, with_map
        self.exact_ties, self.huge = exact_ties, huge
        chosen = DEFAULTS._replace(**options)
        self.options = chosen._replace(max_positives=min(chosen.max_positives, inputs.student.shape[1] - 1))

    def is_clear(self) -> bool:
        return expected.is_clear(self.inputs, self.options, self.exact_ties)

    def run(self) -> dict[str, Tensor]:
        if self.with_map:
            return {"map": fuzzy_positive_map(self.inputs, self.options)}
        scale = self.scale if self.scale is None or self.scale_is_number else torch.tensor(self.scale)
        sums, grad = fuzzy_positive_sums(
            self.inputs, self.options, scale=scale, with_grad=self.with_grad, with_stats=self.with_stats
        )
        result = {"sums": sums.double().sum(1)}
        if grad is not None:
            assert grad.dtype == self.inputs.student.dtype
            assert grad.stride() == torch.empty_like(self.inputs.student).stride()
            result["grad"] = grad
        return result

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        sums, grad, pixel_map = expected.fuzzy_positive(self.inputs, self.options, self.scale)
        z, t = expected.upsampled(self.inputs.student, self.inputs), expected.teacher_of(self.inputs)
        wide = torch.stack([z, t]) if self.huge else z.new_empty(0)
        found = {}
        if "map" in result:
            found["map"] = expected.excess(result["map"], pixel_map, **widened(LOSS, wide))
        if "sums" in result:
            allowed = widened(SUMS, wide, count=pixel_map.numel())
            for name, got, want in zip(NAMES, result["sums"], sums, strict=False):
                exact = {"rtol": 0.0, "atol": 1e-9} if name in COUNTS else allowed
                found[name] = expected.excess(got, want, **exact)
        if "grad" in result:
            allowed = widened(GRADIENT[self.inputs.student.dtype], torch.where(z.isfinite(), z, 0))
            found["grad"] = expected.excess(result["grad"], grad, **allowed)
        return found

    def tensors(self) -> list[Tensor]:
        return [x for x in self.inputs.tensors() if x is not None]


class Overflowing(FuzzyPositive):
    """Logits of any finite size: the losses of the pixels are right or NaN, and no sum is minus infinity."""

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        _, _, pixel_map = expected.fuzzy_positive(self.inputs, self.options, self.scale)
        if "map" in result:
            known = ~result["map"].isnan()
            return {"map": expected.excess(result["map"][known], pixel_map[known], **LOSS)}
        assert "sums" in result
        return {name: math.inf if (x == -math.inf).any() else 0.0 for name, x in result.items()}


def overflowing(classes: int, dtype: str, **keywords: Any) -> Overflowing:
    """Student and teacher alone."""
    student, teacher = (draw_huge_logits(1, classes, 5, 19, dtype=DTYPES[dtype]) for _ in range(2))
    return Overflowing(LossInputs(student, teacher), **keywords)


def masked(classes: int, dtype: str, first: int, lowest: float) -> FuzzyPositive:
    """Some of the first classes with a logit that no probability comes from."""
    student, teacher = (logits((1, classes, 3, 7), dtype) for _ in range(2))
    student[:, :first] = teacher[:, :first] = lowest
    return FuzzyPositive(LossInputs(student, teacher))


def huge_label(classes: int, dtype: str, logit: float) -> Overflowing:
    """Two or three positives, of which the student is as sure of the first as a number allows."""
    student, teacher = (logits((1, classes, 1, 5), dtype) for _ in range(2))
    for c, value in ((3, 14.0), (4, 13.7), (1, 13.6)):
        teacher[:, c] = value
    student[:, 3] = logit
    return Overflowing(LossInputs(student, teacher))


def simple(
    shape: tuple[int, int, int, int],
    dtype: str,
    *,
    teacher_dtype: str | None = None,
    layout: str = "nchw",
    teacher_layout: str | None = None,
    spread: float = 3.0,
    teacher_spread: float | None = None,
    ties: bool = False,
    **keywords: Any,
) -> FuzzyPositive:
    """Student and teacher alone."""
    student = logits(shape, dtype, layout, spread=spread)
    teacher = logits(
        shape, teacher_dtype or dtype, teacher_layout or layout, spread=teacher_spread or spread, ties=ties
    )
    return FuzzyPositive(LossInputs(student, teacher), **keywords)


for dtype in ("bf16", "fp32"):
    for first, lowest in ((10, -1e30), (31, torch.finfo(DTYPES[dtype]).min), (33, -1e10)):
        add(f"C=34 {dtype}, first {first} masked by {lowest:g}", masked, 34, dtype, first, lowest)
for classes in (5, 34):
    for logit in (1e10, 3.3e38):
        add(f"C={classes} fp32, label of {logit:g}", huge_label, classes, "fp32", logit)
for classes, dtype in ((5, "fp32"), (19, "bf16"), (34, "fp32")):
    add(f"C={classes} {dtype} of any finite size", overflowing, classes, dtype)
    add(f"C={classes} {dtype} of any finite size, map", overflowing, classes, dtype, with_map=True)

UNCAPPED_ONES = {"spread": 1.0, "max_positives": UNCAPPED}

# The headline: 19 classes in 16 bits.
WHOLE_BLOCKS = (1, 19, 32, 32)
add("C=19 bf16 2x13x17", simple, (2, 19, 13, 17), "bf16")
add("C=19 bf16 whole blocks", simple, WHOLE_BLOCKS, "bf16")
add("C=19 bf16 whole blocks, scale, no statistics", simple, WHOLE_BLOCKS, "bf16", scale=1 / 1024, with_stats=False)
add("C=19 bf16 whole blocks, quantised teacher", simple, WHOLE_BLOCKS, "bf16", ties=True, teacher_spread=2.0)
add("C=19 bf16 whole blocks, map", simple, WHOLE_BLOCKS, "bf16", with_map=True)
add("C=19 bf16 whole blocks, sums alone", simple, WHOLE_BLOCKS, "bf16", with_grad=False)
add("C=19 bf16 whole blocks, moved", simple, WHOLE_BLOCKS, "bf16", layout="moved")
add("C=19 bf16 small", simple, (1, 19, 4, 16), "bf16", scale=0.5, scale_is_number=True, quick=True)

# Dtypes.
for dtype in ("fp32", "fp16"):
    add(f"C=19 {dtype} 2x13x17", simple, (2, 19, 13, 17), dtype)
add("C=19 fp32 quantised teacher", simple, (2, 19, 13, 17), "fp32", ties=True, teacher_spread=2.0)
for dtype, teacher_dtype, ties in (("fp32", "bf16", False), ("bf16", "fp32", False), ("fp16", "fp32", True)):
    name = f"C=19 {dtype} student, {teacher_dtype} teacher{', ties' if ties else ''}"
    add(name, simple, (1, 19, 9, 31), dtype, teacher_dtype=teacher_dtype, ties=ties, scale=3.0)

# Caps.
for dtype in ("bf16", "fp16", "fp32"):
    add(f"C=19 {dtype} uncapped", simple, (2, 19, 13, 17), dtype, **UNCAPPED_ONES)
    add(f"C=6 {dtype} uncapped, ties", simple, (1, 6, 13, 17), dtype, ties=True, **UNCAPPED_ONES)
add("C=6 fp32 small, uncapped, ties", simple, (1, 6, 5, 7), "fp32", ties=True, **UNCAPPED_ONES, quick=True)
add("C=19 bf16 max_positives=7", simple, (2, 19, 13, 17), "bf16", spread=1.0, max_positives=7)
add("C=19 bf16 uncapped, sharp", simple, (2, 19, 13, 17), "bf16", teacher_spread=15.0, max_positives=UNCAPPED)
for cap in (1, 2):
    add(f"C=19 bf16 max_positives={cap}", simple, (2, 19, 13, 17), "bf16", max_positives=cap)
for threshold in (1e-3, 0.5, 0.95, 1.0):
    for cap in (1, 3, 7, UNCAPPED):
        options = {"threshold": threshold, "max_positives": cap}
        name = f"C=10 threshold={threshold:g} max_positives={'all' if cap == UNCAPPED else cap}"
        add(name, simple, (1, 10, 3, 41), "fp32", teacher_dtype="bf16", spread=1.0, **options)

# Numbers of classes: registers up to 32, tiles beyond.
for classes in (2, 3, 4, 5, 8, 21, 31, 32, 33, 60, 150):
    add(f"C={classes} bf16", simple, (2, classes, 5, 31), "bf16", quick=classes in (2, 5))
for classes in (2, 5, 21, 32, 33, 60, 150):
    add(f"C={classes} fp32 uncapped", simple, (1 + (classes < 33), classes, 5, 31), "fp32", **UNCAPPED_ONES)
add("C=34 bf16 small, uncapped", simple, (1, 34, 1, 7), "bf16", **UNCAPPED_ONES, quick=True)
add("C=34 bf16 small", simple, (1, 34, 4, 16), "bf16", quick=True)  # three chunks and a rest
for classes, cap in ((41, 1), (50, 2), (256, 3)):
    add(f"C={classes} bf16 max_positives={cap}", simple, (2, classes, 5, 31), "bf16", spread=1.0, max_positives=cap)
for dtype in ("fp16", "fp32"):
    add(f"C=60 {dtype} streamed, map", simple, (2, 60, 8, 16), dtype, with_map=True)
    add(f"C=60 {dtype} streamed, sums alone", simple, (2, 60, 8, 16), dtype, with_grad=False, ties=True)
add("C=60 bf16 uncapped, ties", simple, (1, 60, 5, 31), "bf16", ties=True, **UNCAPPED_ONES)
add("C=60 fp32 ties", simple, (1, 60, 5, 31), "fp32", spread=1.0, ties=True)
add("C=40 fp16 hinge uncapped, ties", simple, (1, 40, 6, 11), "fp16", ties=True, form="hinge", **UNCAPPED_ONES)
add("C=300 bf16", simple, (1, 300, 3, 5), "bf16")
SHARP = {"teacher_dtype": "bf16", "teacher_spread": 4.0, "ties": True, "max_positives": 12}
add("C=1024 fp32 student, bf16 teacher, ties", simple, (1, 1024, 2, 3), "fp32", **SHARP)

# Layouts.
for classes, dtype in ((19, "bf16"), (19, "fp32"), (21, "bf16"), (2, "bf16"), (5, "fp16"), (32, "fp32")):
    add(f"channels_last C={classes} {dtype}", simple, (2, classes, 13, 11), dtype, layout="channels_last")
for dtype in ("fp16", "fp32"):
    add(f"channels_last C=5 {dtype} small", simple, (1, 5, 13, 11), dtype, layout="channels_last", quick=True)
for classes, dtype in ((19, "bf16"), (19, "fp16"), (5, "fp16"), (31, "bf16")):
    add(f"channels_last C={classes} {dtype} pairs", simple, (2, classes, 12, 12), dtype, layout="channels_last")
add("channels_last C=5 bf16 small, pairs", simple, (1, 5, 12, 12), "bf16", layout="channels_last", quick=True)
add("channels_last C=19 bf16 whole blocks", simple, WHOLE_BLOCKS, "bf16", layout="channels_last")
add("channels_last C=19 fp32 uncapped", simple, (1, 19, 13, 11), "fp32", layout="channels_last", **UNCAPPED_ONES)
add("channels_last C=40 bf16", simple, (1, 40, 5, 11), "bf16", layout="channels_last")
add("channels_last teacher C=5 bf16", simple, (1, 5, 13, 11), "bf16", teacher_layout="channels_last")
LAST = {"layout": "channels_last", "teacher_layout": "nchw"}
add("channels_last student C=5 bf16", simple, (1, 5, 13, 11), "bf16", **LAST)
for layout in LAYOUTS.keys() - {"nchw", "channels_last"}:
    both = {"student": (layout, "nchw"), "teacher": ("nchw", layout)}
    for which, (own, other) in both.items():
        layouts = {"layout": own, "teacher_layout": other}
        add(f"layout {layout} {which} C=5", simple, (2, 5, 7, 24), "fp32", teacher_dtype="bf16", **layouts)
add("layout crop C=33 bf16", simple, (2, 33, 3, 4), "bf16", layout="crop", teacher_layout="transposed")
add("layout batch_inside C=33 bf16", simple, (2, 33, 3, 4), "bf16", layout="batch_inside", teacher_layout="class_slice")
for size in ((1, 1), (1, 9), (9, 1), (15, 17), (16, 16), (1, 257), (3, 43)):
    add(f"size {size[0]}x{size[1]} C=4 bf16", simple, (2, 4, *size), "bf16", quick=size == (1, 1))


def expanded() -> FuzzyPositive:
    """One teacher for all pixels."""
    return FuzzyPositive(LossInputs(logits((3, 5, 4, 4), "fp32"), logits((1, 5, 1, 1), "fp32").expand(3, 5, 4, 4)))


add("expanded teacher C=5 fp32", expanded)

# Forms and weightings.
for weighting in ("none", "linear", "convex", "concave"):
    for form in ("smooth", "hinge"):
        options = {"weighting": weighting, "form": form, "convex_scale": 4.0, "max_positives": UNCAPPED}
        name = f"C=7 {weighting} {form} uncapped"
        add(name, simple, (1, 7, 11, 13), "fp32", teacher_dtype="fp16", spread=1.5, **options)
add(
    "C=7 linear hinge small",
    simple,
    (1, 7, 5, 9),
    "fp32",
    form="hinge",
    weighting="linear",
    **UNCAPPED_ONES,
    quick=True,
)


def tied_student(shape: tuple[int, int, int, int], teacher_dtype: str, spread: float) -> FuzzyPositive:
    """The hinge where logits tie."""
    tied = logits(shape, "fp32", ties=True)
    return FuzzyPositive(LossInputs(tied, logits(shape, teacher_dtype, spread=spread)), form="hinge")


add("C=7 hinge, tied student", tied_student, (1, 7, 11, 13), "fp16", 1.0)
add("C=34 hinge, tied student", tied_student, (1, 34, 6, 9), "bf16", 3.0)
