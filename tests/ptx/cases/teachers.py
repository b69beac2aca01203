"""Kernels that read a teacher alone: its predictions, and thresholds by context."""

from typing import Any

import torch
from kernel_cases import decided
from tolerances import LOSS, RANK_MARGIN
from torch import Tensor

from fpl_fast import reference
from fpl_fast.kernels.arguments import ContextOptions, PseudoLabelOptions, TeacherInputs
from fpl_fast.kernels.context import adaptive_threshold
from fpl_fast.kernels.pseudo_labels import pseudo_labels
from ptx import expected
from ptx.cases.table import UNCAPPED, Case, add, box, logits


class PseudoLabels(Case):
    """A prediction.

    Args:
        inputs: Of the prediction.
        threshold: Of the number of positives; None where it is not asked for.
        max_positives: Cap on K.
    """

    def __init__(self, inputs: TeacherInputs, threshold: float | None = None, max_positives: int = UNCAPPED) -> None:
        self.inputs = inputs
        self.options = PseudoLabelOptions(threshold, min(max_positives, inputs.teacher.shape[1] - 1))

    def is_clear(self) -> bool:
        t = expected.teacher_of(self.inputs)
        two = t.topk(2, dim=1).values
        gap = two[:, 0] - two[:, 1]
        # At full resolution equal logits are equal, and the first class is the label.
        clear = gap > RANK_MARGIN if self.inputs.size is not None else (gap == 0) | (gap > RANK_MARGIN)
        return bool(clear.all() and (self.options.threshold is None or decided(t, self.options.threshold).all()))

    def run(self) -> dict[str, Tensor]:
        found = pseudo_labels(self.inputs, self.options)._asdict()
        return {name: x for name, x in found.items() if x is not None}

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        t = expected.teacher_of(self.inputs)
        p = t.softmax(1)
        found = {
            "label": expected.unequal(result["label"].long(), t.argmax(1)),
            "confidence": expected.excess(result["confidence"], p.amax(1), **LOSS),
            "entropy": expected.excess(result["entropy"], torch.special.entr(p).sum(1), **LOSS),
        }
        if self.options.threshold is not None:
            assigned = reference.assign_positives(t, self.options.threshold, self.options.max_positives)
            found["K"] = expected.unequal(result["num_positives"].long(), assigned.num_positives)
        return found

    def tensors(self) -> list[Tensor]:
        return [x for x in self.inputs if isinstance(x, Tensor)]


class Thresholds(Case):
    """A choice among thresholds.

    Args:
        inputs: Of the choice.
        options: Of the choice.
    """

    def __init__(self, inputs: TeacherInputs, options: ContextOptions) -> None:
        self.inputs, self.options = inputs, options

    def is_clear(self) -> bool:
        t = expected.teacher_of(self.inputs)
        clear = torch.stack([decided(t, x) for x in self.options.thresholds]).all(0)
        if self.inputs.size is not None:
            first = t.sort(dim=1, descending=True).values[:, : self.options.max_positives + 1]
            clear &= (-first.diff(dim=1)).amin(1) > RANK_MARGIN
        return bool((clear | ~self._valid()).all())

    def _valid(self) -> Tensor:
        valid = self.inputs.valid_mask
        return torch.ones(self.inputs.pixels(), dtype=torch.bool) if valid is None else valid

    def run(self) -> dict[str, Tensor]:
        return {"threshold": adaptive_threshold(self.inputs, self.options)}

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        """The choice has the least divergence, up to the rounding of the table's terms."""
        t, options, valid = expected.teacher_of(self.inputs), self.options, self._valid()
        divergences = reference.context_divergences(t, options.thresholds, options.max_positives, options.window, valid)
        given = torch.tensor(options.thresholds)
        index = torch.searchsorted(given, result["threshold"]).clamp(max=len(given) - 1)
        ours = divergences.gather(1, index.unsqueeze(1)).squeeze(1)
        over = (ours - divergences.amin(1)).masked_fill(~valid, 0)
        num_terms = (options.num_neighbours + 1) * options.max_positives
        return {
            "is a threshold": expected.unequal(given[index], result["threshold"]),
            "first where not valid": expected.unequal(index[~valid], torch.zeros_like(index[~valid])),
            "divergence": expected.excess(over, torch.zeros_like(over), rtol=0.0, atol=num_terms * 2.0**-27),
        }

    def tensors(self) -> list[Tensor]:
        return [x for x in self.inputs if isinstance(x, Tensor)]


def teacher(
    shape: tuple[int, int, int, int],
    dtype: str,
    *,
    layout: str = "nchw",
    size: tuple[int, int] | None = None,
    align: bool = True,
    mix: bool = False,
    masked: bool = False,
    ties: bool = False,
) -> TeacherInputs:
    """A teacher in a layout, its partner in another one."""
    pixels = (shape[0], *(size or shape[2:]))
    inputs = TeacherInputs(logits(shape, dtype, layout, spread=1.5, ties=ties), size=size, align_corners=align)
    if mix:
        inputs = inputs._replace(partner=logits(shape, dtype, "transposed", spread=1.5), mix_mask=box(*pixels))
    return inputs._replace(valid_mask=torch.rand(pixels) > 0.2) if masked else inputs


def prediction(
    shape: tuple[int, int, int, int], dtype: str, threshold: float | None, cap: int = UNCAPPED, **of_teacher: Any
) -> PseudoLabels:
    """A prediction of a random teacher."""
    return PseudoLabels(teacher(shape, dtype, **of_teacher), threshold, cap)


def thresholds(
    shape: tuple[int, int, int, int], dtype: str, window: int, cap: int, number: int, **of_teacher: Any
) -> Thresholds:
    """A choice of a random teacher."""
    candidates = tuple(torch.tensor((0.5, 0.7, 0.84, 0.94)[:number]).tolist())  # as float32 holds them
    return Thresholds(teacher(shape, dtype, **of_teacher), ContextOptions(candidates, window, cap))


UP = {"size": (9, 11)}
add("pseudo labels C=2 fp32", prediction, (2, 2, 5, 7), "fp32", None)
add("pseudo labels C=5 bf16 small", prediction, (1, 5, 3, 9), "bf16", 0.9, 3, ties=True, quick=True)
add("pseudo labels C=19 bf16", prediction, (1, 19, 3, 37), "bf16", 0.9, 3)
add("pseudo labels C=19 fp32 channels_last uncapped", prediction, (1, 19, 3, 37), "fp32", 0.9, layout="channels_last")
add("pseudo labels C=21 fp16 crop", prediction, (2, 21, 3, 9), "fp16", 0.7, 2, layout="crop")
add("pseudo labels C=34 fp32 mixed", prediction, (2, 34, 3, 5), "fp32", 0.9, mix=True)
add("pseudo labels C=150 bf16", prediction, (1, 150, 2, 5), "bf16", 0.5, 3)
add("pseudo labels C=300 bf16", prediction, (1, 300, 2, 3), "bf16", None)
add("upsampled pseudo labels C=5 bf16", prediction, (2, 5, 3, 4), "bf16", 0.8, **UP)
add("upsampled pseudo labels C=7 fp32 mixed", prediction, (2, 7, 3, 4), "fp32", 0.8, 3, **UP, mix=True, align=False)
add(
    "upsampled pseudo labels C=19 bf16 channels_last",
    prediction,
    (1, 19, 3, 4),
    "bf16",
    0.9,
    3,
    **UP,
    layout="channels_last",
)
add("upsampled pseudo labels C=40 bf16", prediction, (1, 40, 3, 4), "bf16", 0.9, 3, size=(5, 7))
add("thresholds by context C=2 fp32", thresholds, (1, 2, 2, 5), "fp32", 3, 1, 1)
add("thresholds by context C=4 bf16 ties", thresholds, (2, 4, 3, 5), "bf16", 3, 3, 2, ties=True, masked=True)
add("thresholds by context C=6 fp32 small", thresholds, (1, 6, 3, 5), "fp32", 3, 3, 3, masked=True, quick=True)
add("thresholds by context C=6 fp32", thresholds, (1, 6, 5, 7), "fp32", 5, 4, 4)
add("thresholds by context C=5 window 15", thresholds, (1, 5, 9, 11), "fp32", 15, 3, 4)
add("thresholds by context C=19 bf16 channels_last", thresholds, (1, 19, 3, 7), "bf16", 5, 3, 4, layout="channels_last")
add("thresholds by context C=36 fp16", thresholds, (1, 36, 2, 5), "fp16", 3, 4, 3)
add("thresholds by context C=150 fp32", thresholds, (1, 150, 2, 3), "fp32", 3, 2, 4)
add("thresholds by context C=5 two blocks", thresholds, (1, 5, 2, 150), "bf16", 3, 3, 4)
add(
    "upsampled thresholds by context C=5", thresholds, (2, 5, 3, 4), "bf16", 3, 3, 4, size=(5, 7), mix=True, masked=True
)
add("upsampled thresholds by context C=34", thresholds, (1, 34, 3, 4), "fp32", 3, 2, 2, size=(4, 5), align=False)
