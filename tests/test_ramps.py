import math

import pytest

from fpl_fast.trainer.methods.ramps import ramp


@pytest.mark.parametrize(
    ("kind", "begin", "middle", "end"),
    [
        ("linear", 0, 0.5, 1),
        ("sigmoid", math.exp(-5), math.exp(-1.25), 1),
        ("cosine", 0, 0.5, 1),
        ("log", 0, 1 - math.exp(-2.5), 1 - math.exp(-5)),
        ("exp", math.exp(-5), math.exp(-2.5), 1),
    ],
)
def test_a_ramp_rises_over_its_share_and_stays(kind, begin, middle, end):
    heights = [ramp(kind, progress, 0.4) for progress in (0.0, 0.2, 0.4, 0.9)]
    assert heights == pytest.approx([begin, middle, end, end])
    assert ramp(kind, 0.0, 0.0) == 1
