import pytest
import torch
from tolerances import EXACT
from torch.nn.functional import interpolate
from torch.testing import assert_close

from fpl_fast.kernels.axis import axis

# up, down, the same, one sample, one position, primes
LENGTHS = [(4, 8), (9, 4), (7, 7), (1, 5), (5, 1), (1, 1), (13, 57), (2, 11)]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("num_samples", "num_positions"), LENGTHS)
def test_positions_are_pytorchs(num_samples, num_positions, align_corners):
    table = axis(num_samples, num_positions, align_corners, torch.device("cpu"), torch.float64)
    samples = torch.randn(num_samples, dtype=torch.float64)
    expected = interpolate(
        samples.view(1, 1, 1, -1), (1, num_positions), mode="bilinear", align_corners=align_corners
    ).flatten()
    below = samples[table.cell]
    above = samples[(table.cell + 1).clamp(max=num_samples - 1)]
    assert_close(below + (above - below) * table.fraction, expected, **EXACT)
    assert table.fraction.min() >= 0 and table.fraction.max() <= 1


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("num_samples", "num_positions"), LENGTHS)
def test_cells_begin_where_the_table_says(num_samples, num_positions, align_corners):
    table = axis(num_samples, num_positions, align_corners, torch.device("cpu"))
    assert table.num_cells == max(num_samples - 1, 1)
    for cell in range(table.num_cells):
        positions = (table.cell == cell).nonzero().flatten()
        assert positions.tolist() == list(range(table.start[cell], table.start[cell + 1]))
    touched = [((table.cell == j) | (table.cell == j - 1)).sum().item() for j in range(num_samples)]
    assert table.max_span == max(touched)
