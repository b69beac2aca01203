"""Time of the cross entropy with one class a pixel: labels, or the teacher's most probable class."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.provider import Provider


def test_cross_entropy(time_cell: TimeCell, case: Case, op: Op, provider: Provider) -> None:
    time_cell(case, op, provider)
