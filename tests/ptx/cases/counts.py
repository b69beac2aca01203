"""The divisor of a mean: pixels counted by all programs of a launch in one number."""

import torch
from torch import Tensor

from fpl_fast.kernels import mean_scale as launcher
from ptx import expected
from ptx.cases.table import Case, add


class Counted(Case):
    """1 / number of labels that count.

    Args:
        labels: Or a mask.
        ignored: The label that does not count.
    """

    def __init__(self, labels: Tensor, ignored: int = 0) -> None:
        self.labels, self.ignored = labels, ignored

    def run(self) -> dict[str, Tensor]:
        return {
            "scale": launcher.mean_scale(self.labels, self.ignored),
            "counter": launcher._counter(self.labels.device).clone(),
        }

    def check(self, result: dict[str, Tensor]) -> dict[str, float]:
        number = (self.labels != self.ignored).sum().clamp(min=1)
        return {
            "scale": expected.unequal(result["scale"], number.float().reciprocal()),
            "counter": expected.unequal(result["counter"], torch.zeros_like(result["counter"])),
        }

    def tensors(self) -> list[Tensor]:
        return [self.labels]


def counted(number: int, dtype: torch.dtype, ignored: int = 0, share: float = 0.5) -> Counted:
    """Random labels, a share of which counts."""
    labels = torch.where(torch.rand(number) < share, ignored + 1, ignored).to(dtype)
    return Counted(labels, ignored)


add("count of a mask", counted, 9 * launcher.BLOCK + 5, torch.bool)
add("count of a mask small", counted, launcher.BLOCK + 37, torch.bool, quick=True)
add("count of a mask with no pixel", counted, 777, torch.bool, share=0.0)
add("count of no pixel", counted, 0, torch.bool)
add("count of labels uint8", counted, 2 * launcher.BLOCK, torch.uint8, 254, share=1.1)
add("count of labels int32", counted, 5001, torch.int32, -1)
add("count of labels int64", counted, 5001, torch.int64, 1 << 40)
