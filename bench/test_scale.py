"""Time from 10^5 to 10^9 pixels, to show whether the time a pixel stays constant."""

from fpl_fast.bench import peers
from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.peers.peer import Peer

# Peers that need little memory beyond logits and gradient, and PyTorch's cross entropy to compare.
PEERS = [peer for peer in peers.PEERS if peer.name in (*peers.OWN, "cross_entropy")]


def test_scale(time_cell: TimeCell, case: Case, op: Op, peer: Peer) -> None:
    time_cell(case, op, peer)
