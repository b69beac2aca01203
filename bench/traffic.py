"""Bytes that a step must move at least, counted by hand."""

from fpl_fast.bench.cases import Case, Op

__all__ = ["minimum_bytes"]


def minimum_bytes(case: Case, op: Op) -> int | None:
    """Count the bytes that no implementation of a case can avoid.

    The forward reads the teacher and the student, both passes together also write the gradient: 2 and 3 times
    C * itemsize a pixel. The loss itself is one number. The backward alone has no such count (None): a provider that
    computes the gradient in its forward has next to nothing left to do.
    """
    streams = {"forward": 2, "both": 3}.get(op)
    return None if streams is None else streams * case.num_pixels * case.num_classes * case.dtype.itemsize
