"""The kernel at the end of a pass, against float64 and against the other engines' operations."""

import pytest
import torch
from torch.testing import assert_close

from fpl_fast.kernels.arguments import SUMS
from fpl_fast.kernels.finish import BLOCK, LOADS, finish
from fpl_fast.kernels.statistics import MAX_BALANCE, STATISTICS, Finish
from fpl_fast.ops import finish as operations

ONCE_ROUNDED = {"rtol": 2.0**-23, "atol": 0.0}
# None, one, numbers that divide no block, and more than a trip loads of two terms.
PROGRAMS = [0, 1, 7, 999, BLOCK - 1, BLOCK, BLOCK + 1, LOADS // 2 * BLOCK + 577]
NUM_PIXELS = 1 << 20


def draw(num_programs, device):
    """Partial sums as a pass leaves them: counts are whole, and K = 1, 2, 3 are some of the valid pixels."""
    partial = 100 * torch.rand(len(SUMS), num_programs, device=device)
    partial[1], partial[6:9] = 120, torch.randint(0, 40, (3, num_programs), device=device).float()
    return partial


@pytest.mark.parametrize("num_programs", PROGRAMS)
def test_sums_are_those_of_float64(kernel_device, num_programs):
    partial = draw(num_programs, kernel_device)
    scale = torch.tensor(0.25, device=kernel_device)
    exact = partial.double().sum(1)
    for given in (0.25, scale):
        for flags in ((False, False, False), (True, False, True), (False, True, False), (True, True, True)):
            todo = Finish(given, *flags, with_stats=True)
            actual = finish(partial, todo, NUM_PIXELS)
            expected = operations.finish(exact, todo, NUM_PIXELS)
            assert (actual.factor is None) == (expected.factor is None) == (not any(flags))
            for ours, other in zip(actual, expected, strict=True):
                if ours is not None:
                    assert_close(ours, other.float(), **ONCE_ROUNDED)
    named = dict(zip(STATISTICS, actual.statistics, strict=True))
    assert named["num_valid"] == 120 * num_programs
    assert_close(named["weight_sum"].double(), exact[SUMS.index("weight")], **ONCE_ROUNDED)


def test_the_loss_alone(kernel_device):
    """Sums with one term, or with the terms of labels; repeated to the bit."""
    for terms in (1, 3):
        partial = torch.rand(terms, LOADS * BLOCK + 1, device=kernel_device)
        loss, factor, statistics = finish(partial, Finish(), NUM_PIXELS)
        assert_close(loss, partial[0].double().sum().float(), **ONCE_ROUNDED)
        assert factor is None and statistics is None
        assert torch.equal(loss, finish(partial, Finish(), NUM_PIXELS).loss)


@pytest.mark.parametrize(
    ("cross_entropy", "weighted", "expected"),
    [(3.0, 2.0, 1.5), (3.0, 0.0, 1.0), (1.0, 1e-30, MAX_BALANCE), (float("nan"), 1.0, float("nan")), (0.0, 2.0, 0.0)],
)
def test_balance_has_a_bound(kernel_device, cross_entropy, weighted, expected):
    partial = draw(3, kernel_device)
    partial[SUMS.index("cross_entropy")], partial[SUMS.index("weighted")] = cross_entropy / 3, weighted / 3
    factor = finish(partial, Finish(balance=True), NUM_PIXELS).factor
    assert_close(factor.cpu(), torch.tensor(expected), equal_nan=True)


def test_an_empty_weighted_mean(kernel_device):
    """A quotient with nothing to divide by is 1."""
    partial = torch.zeros(len(SUMS), 5, device=kernel_device)
    loss, factor, _ = finish(partial, Finish(weighted_mean=True), NUM_PIXELS)
    assert loss == 0 and factor == 1
