"""The operator of a teacher's predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import PseudoLabelOptions, PseudoLabels, TeacherInputs
from fpl_fast.reference import accumulate_dtype


def predicted(inputs: TeacherInputs, options: PseudoLabelOptions, engine: str) -> PseudoLabels:
    """The predictions of every pixel by a resolved engine."""
    teacher, partner, mix_mask, _, size, align_corners = inputs
    keywords = {"size": size, "align_corners": align_corners, **options._asdict(), "engine": engine}
    label, confidence, entropy, k = pseudo_labels(teacher, partner, mix_mask, **keywords)
    return PseudoLabels(label, confidence, entropy, None if options.threshold is None else k)


@torch.library.custom_op("fpl_fast::pseudo_labels", mutates_args=())
def pseudo_labels(
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    *,
    size: Sequence[int] | None,
    align_corners: bool,
    threshold: float | None,
    max_positives: int,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of :class:`PseudoLabels`; K is empty where no threshold is given.

    The arguments are the fields of :class:`TeacherInputs`, but for the validity, and of :class:`PseudoLabelOptions`.
    """
    pair = None if size is None else (size[0], size[1])
    inputs = TeacherInputs(teacher, partner, mix_mask, None, pair, align_corners)
    options = PseudoLabelOptions(threshold, max_positives)
    return _as_tensors(choice.prediction_module(engine).pseudo_labels(inputs, options))


@pseudo_labels.register_fake
def _(
    teacher: Tensor, *_: Any, size: Sequence[int] | None, threshold: float | None, max_positives: int, **__: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pair = None if size is None else (size[0], size[1])
    inputs, options = TeacherInputs(teacher, size=pair), PseudoLabelOptions(threshold, max_positives)
    return _as_tensors(PseudoLabels.empty(inputs, options, accumulate_dtype(teacher)))


def _as_tensors(found: PseudoLabels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields, K as an empty tensor if it is not there: an operator returns tensors only."""
    k = found.label.new_empty(0, dtype=torch.int32) if found.num_positives is None else found.num_positives
    return found.label, found.confidence, found.entropy, k
