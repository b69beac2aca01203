"""Time from 10^5 to 10^9 pixels: does a pixel always cost the same?"""

from fpl_fast.bench import peers
from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.cell import TimeCell
from fpl_fast.bench.provider import Provider

# Those whose memory grows with no more than the logits and the gradient, and PyTorch's cross entropy to compare.
PROVIDERS = [provider for provider in peers.PROVIDERS if provider.name in (*peers.OWN, "cross_entropy")]


def test_scale(time_cell: TimeCell, case: Case, op: Op, provider: Provider) -> None:
    time_cell(case, op, provider)
