"""The operator of the choice among thresholds by context."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import ContextOptions, TeacherInputs


def chosen_thresholds(inputs: TeacherInputs, options: ContextOptions, engine: str) -> Tensor:
    """The threshold of every pixel, (N, H, W) float32, by an engine."""
    *tensors, size, align_corners = inputs
    keywords = {"size": size, "align_corners": align_corners, **options._asdict(), "engine": engine}
    chosen: Tensor = adaptive_threshold(*tensors, **keywords)
    return chosen


@torch.library.custom_op("fpl_fast::adaptive_threshold", mutates_args=())
def adaptive_threshold(
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    valid_mask: Tensor | None,
    *,
    size: Sequence[int] | None,
    align_corners: bool,
    thresholds: Sequence[float],
    window: int,
    max_positives: int,
    engine: str,
) -> Tensor:
    """The threshold of every pixel, (N, H, W) float32.

    The arguments are the fields of :class:`TeacherInputs` and of :class:`ContextOptions`.
    """
    pair = None if size is None else (size[0], size[1])
    inputs = TeacherInputs(teacher, partner, mix_mask, valid_mask, pair, align_corners)
    options = ContextOptions(tuple(thresholds), window, max_positives)
    return choice.choose_thresholds(engine, inputs, options)


@adaptive_threshold.register_fake
def _(teacher: Tensor, *_: Any, size: Sequence[int] | None, **__: Any) -> Tensor:
    height, width = size or teacher.shape[2:]
    return teacher.new_empty((len(teacher), height, width), dtype=torch.float32)
