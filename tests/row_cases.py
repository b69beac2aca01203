"""Cases of the interpolation between rows, uncompiled in test_plane_rows.py and compiled in test_distance_planes.py."""

import itertools

from fpl_fast.engines.windows import Window

# Logits and their size: up and down, whole scales and others, one row or column of either.
UPSAMPLED = [
    ((5, 7), (20, 28)),
    ((9, 11), (33, 41)),
    ((12, 9), (5, 31)),
    ((1, 3), (7, 5)),
    ((4, 1), (1, 6)),
    ((30, 2), (2, 2)),
    ((1, 1), (1, 1)),
    ((2, 5), (40, 5)),
]


def windows_of(size, rows, columns):
    """The rectangles of at most so many rows and columns that cover the size."""
    for top, left in itertools.product(range(0, size[0], rows), range(0, size[1], columns)):
        yield Window(slice(top, min(top + rows, size[0])), slice(left, min(left + columns, size[1])))
