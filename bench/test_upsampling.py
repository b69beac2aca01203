"""Time of the loss of one direction from a network's logits, at a quarter of the image's size or less."""

from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.peers.peer import Peer


def test_upsampling(time_cell: TimeCell, case: Case, op: Op, peer: Peer) -> None:
    time_cell(case, op, peer)
