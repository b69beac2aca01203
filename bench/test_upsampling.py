"""Time of the loss of one direction from a network's logits, at a quarter of the image's size or less."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.provider import Provider


def test_upsampling(time_cell: TimeCell, case: Case, op: Op, provider: Provider) -> None:
    time_cell(case, op, provider)
