"""Minimum bytes that a step must move, counted by hand."""

import torch

from fpl_fast.bench.cases import Case, Op

__all__ = ["minimum_bytes"]


def minimum_bytes(case: Case, op: Op) -> int | None:
    """Count the bytes that no implementation of a case can avoid.

    The forward reads the student's logits and the target, which is a teacher's logits or int64 labels; both passes
    together also write the gradient. One tensor of logits is N * C * h * w * itemsize bytes, at the size of the
    logits even where the loss is computed on more pixels; labels are N * H * W * 8. The loss itself is one number. The
    backward alone has no such count (None): a peer that computes the gradient in its forward has next to nothing
    left to do.
    """
    logits = case.num_logits * case.dtype.itemsize
    target = case.num_pixels * torch.int64.itemsize if case.labels else logits
    match op:
        case "forward":
            return logits + target
        case "both":
            return 2 * logits + target
        case _:
            return None
