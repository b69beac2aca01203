import torch

from fpl_fast.trainer.upsample import upsample


def test_every_pixel_lies_between_four_samples():
    """The literal version: corners on corners, linear in either direction."""
    x, (height, width) = torch.randn(2, 3, 4, 5, dtype=torch.float64), (7, 11)
    expected = x.new_empty(2, 3, height, width)
    for i in range(height):
        for j in range(width):
            row, column = i * 3 / (height - 1), j * 4 / (width - 1)
            top, left = min(int(row), 2), min(int(column), 3)
            a, b = row - top, column - left
            expected[..., i, j] = (1 - a) * ((1 - b) * x[..., top, left] + b * x[..., top, left + 1]) + a * (
                (1 - b) * x[..., top + 1, left] + b * x[..., top + 1, left + 1]
            )
    torch.testing.assert_close(upsample(x, (height, width)), expected)
