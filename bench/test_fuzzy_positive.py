"""Time of the fuzzy positive loss and its gradient, every peer on the same full-resolution logits."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.peers.peer import Peer


def test_fuzzy_positive(time_cell: TimeCell, case: Case, op: Op, peer: Peer) -> None:
    time_cell(case, op, peer)
