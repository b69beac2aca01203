"""Time of the fuzzy positive loss and its gradient, every provider on the same full-resolution logits."""


def test_fuzzy_positive(time_cell, case, op, provider) -> None:
    time_cell(case, op, provider)
