"""Time of the fuzzy positive loss and its gradient, every provider on the same full-resolution logits."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.provider import Provider


def test_fuzzy_positive(time_cell: TimeCell, case: Case, op: Op, provider: Provider) -> None:
    time_cell(case, op, provider)
