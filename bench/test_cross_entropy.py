"""Time of the cross entropy with one class a pixel: labels, or the teacher's most probable class."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.peers.peer import Peer


def test_cross_entropy(time_cell: TimeCell, case: Case, op: Op, peer: Peer) -> None:
    time_cell(case, op, peer)
