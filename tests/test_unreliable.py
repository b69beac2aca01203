import numpy as np
import pytest
import torch
from method_cases import SIZE, upsample

from fpl_fast.trainer.methods.unreliable import entropy_map, percent_unreliable, percentiles


@pytest.mark.parametrize("percent", [0.0, 12.5, 33.3, 80.0, 100.0])
@pytest.mark.parametrize("num", [1, 2, 53])
def test_percentile_equals_numpy(percent, num):
    values, counted = torch.rand(3, 40), torch.zeros(3, 40, dtype=torch.bool)
    counted.view(-1)[torch.randperm(120)[:num]] = True
    for ours, share in zip(percentiles(values, (percent, 50.0), counted), (percent, 50.0), strict=True):
        assert ours.item() == pytest.approx(np.percentile(values[counted].numpy(), share), abs=1e-6)


def test_nothing_is_below_the_percentile_of_nothing():
    values = torch.rand(9)
    assert percentiles(values, [50.0], torch.zeros(9, dtype=torch.bool)) == [torch.inf]


def test_entropy_of_upsampled_predictions():
    logits = 3 * torch.randn(2, 5, 4, 5)
    p = upsample(logits).softmax(1)
    torch.testing.assert_close(entropy_map(logits, SIZE), -(p * p.log()).sum(1), rtol=1e-4, atol=1e-5)


def test_the_unreliable_become_fewer():
    assert [percent_unreliable(progress, 20.0) for progress in (0.0, 0.5, 1.0)] == [20, 10, 0]
