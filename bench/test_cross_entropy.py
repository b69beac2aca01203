"""Time of the cross entropy with one class a pixel: labels, or the teacher's most probable class."""


def test_cross_entropy(time_cell, case, op, provider) -> None:
    time_cell(case, op, provider)
