"""Inputs of the compiled graphs of losses under a teacher: planes of both, what belongs to pixels, and a scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpl_fast.engines import packages
from fpl_fast.engines.plane_arithmetic import in_planes

Dtypes = tuple[torch.dtype | None, ...]
"""Dtypes of student, teacher, pixel weight, validity and scale, None where there is none."""


class PlaneInputs(NamedTuple):
    """The inputs of a graph, taken apart."""

    student: Sequence[Tensor]  # C planes, (P,)
    teacher: Sequence[Tensor]  # C planes, (P,)
    pixel_weight: Tensor | None  # (P,)
    valid: Tensor | None  # (P,) bool
    scale: Tensor | None  # 0-d
    others: list[Tensor]  # of one loss alone


def lay_out(
    student: Tensor, teacher: Tensor, pixel_weight: Tensor | None, valid: Tensor | None, scale: Tensor | None
) -> tuple[list[Tensor], Dtypes]:
    """The inputs for a chunk, logits (C, P), in the order of :func:`examples`, and their dtypes."""
    pixel_weight, valid = (None if x is None else x.contiguous() for x in (pixel_weight, valid))
    planes = [plane for logits in (student, teacher) for plane in in_planes(logits).unbind(0)]
    given = (pixel_weight, valid, scale)
    dtypes = (student.dtype, teacher.dtype, *(None if x is None else x.dtype for x in given))
    return [*planes, *(x for x in given if x is not None)], dtypes


def take_apart(tensors: Sequence[Tensor], num_classes: int, dtypes: Dtypes) -> PlaneInputs:
    """The inputs by their names; those that follow are others."""
    rest = iter(tensors[2 * num_classes :])
    weight, valid, scale = (None if dtype is None else next(rest) for dtype in dtypes[2:])
    return PlaneInputs(tensors[:num_classes], tensors[num_classes : 2 * num_classes], weight, valid, scale, list(rest))


def examples(num_classes: int, dtypes: Dtypes) -> list[Tensor]:
    """C planes of the student, C of the teacher, weight, validity and scale if given."""
    student, teacher, pixel_weight, valid, scale = dtypes
    planes = [torch.zeros(64, dtype=dtype) for dtype in (student, teacher) for _ in range(num_classes)]
    given = [torch.ones(64, dtype=dtype) for dtype in (pixel_weight, valid) if dtype is not None]
    return [*planes, *given, *([] if scale is None else [torch.ones((), dtype=scale)])]


def gradient_examples(num_classes: int, dtypes: Dtypes) -> list[Tensor]:
    """C planes of the student's dtype, which a gradient is written into."""
    return [torch.zeros(64, dtype=dtypes[0]) for _ in range(num_classes)]


def write_gradient(places: Sequence[Tensor], gradient: Sequence[Tensor]) -> None:
    """Write the planes of a gradient into their places, in the loop that computes them.

    Returned, they would be new memory of every call, and have to be copied.
    """
    for place, plane in zip(places, gradient, strict=True):
        place.copy_(plane)


def any_number_of_pixels(tensors: Sequence[Tensor]) -> list[dict[int, Any]]:
    """The shapes of a graph of planes for ``torch.export``: all that is not 0-d has as many pixels as a chunk has."""
    pixels = torch.export.Dim("pixels", min=2, max=packages.MAX_SIZE)
    return [{0: pixels} if x.ndim else {} for x in tensors]
