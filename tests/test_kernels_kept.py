"""Tables that kernels read: made on their device, kept for its streams and graphs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fpl_fast.kernels import axis, divergence
from fpl_fast.kernels.arguments import ContextOptions
from fpl_fast.kernels.kept import kept

CPU, META = torch.device("cpu"), torch.device("meta")
TABLES = [
    (axis.axis, (7, 23, True)),
    (axis.axis, (7, 23, False)),
    (axis.axis, (1, 4, True)),
    (axis.axis, (3, 0, False)),
    (divergence.divergence_table, (ContextOptions((), 3, 2),)),
]


class Devices(TorchDispatchMode):
    """Record each operation whose tensors lie on more than one device."""

    def __init__(self):
        super().__init__()
        self.mixed = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        if len({x.device for x in tensors}) > 1:
            self.mixed.append(str(function))
        return result


@pytest.mark.parametrize(("make", "arguments"), TABLES)
def test_nothing_is_copied_to_the_device(make, arguments):
    """A copy from pageable memory is not allowed while a CUDA graph is captured."""
    make.forget()
    with Devices() as seen:
        found = make(*arguments, META)
    assert seen.mixed == []
    of_host = make(*arguments, CPU)
    for ours, expected in zip(tree_leaves(found), tree_leaves(of_host), strict=True):
        if isinstance(expected, torch.Tensor):
            assert (ours.device, ours.shape, ours.dtype) == (META, expected.shape, expected.dtype)
        else:
            assert ours == expected


def test_a_copy_would_be_seen():
    with Devices() as seen:
        torch.ones(3).to(META)
    assert len(seen.mixed) == 1


def test_the_oldest_table_makes_room():
    made = []

    @kept(most=2)
    def table(number, device):
        """A table."""
        made.append(number)
        return torch.full((), number, device=device)

    assert table.__doc__ == "A table."
    for number in (1, 2, 1, 3, 2, 1):
        assert table(number, CPU) == number
    assert made == [1, 2, 3, 1]
    table.forget()
    table(1, CPU)
    assert made == [1, 2, 3, 1, 1]
