"""Interpolation between rows and its adjoint: PyTorch's operations and the compiled graphs, which run uncompiled here.

Compiled, in tests/test_distance_planes.py, they give the same bits with any number of threads.
"""

import pytest
import torch
import torch.nn.functional as F
from row_cases import UPSAMPLED, windows_of
from tolerances import EXACT
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fpl_fast import fuzzy_positive_loss
from fpl_fast.engines import packages, plane_rows
from fpl_fast.engines.windows import EAGERLY, GradientWindows, LogitWindows, Spare
from fpl_fast.kernels.axis import axis

# A rounding of the axes' positions, which PyTorch computes in float32, changes a logit by the slope there.
ROUNDED = {"rtol": 1e-5, "atol": 2e-4}


@pytest.fixture(params=["eagerly", "compiled"])
def interpolation(request, monkeypatch):
    monkeypatch.setattr(packages, "load", lambda specialisation: specialisation.evaluate)
    return {"eagerly": EAGERLY, "compiled": plane_rows.COMPILED}[request.param]


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), UPSAMPLED)
def test_windows_are_pytorchs_upsampling_and_its_gradient(interpolation, low, size, align_corners):
    """Two tensors together, in windows whose ends lie anywhere in a cell."""
    tensors = [torch.randn(channels, *low) for channels in (3, 2)]
    leaves = [x.double().requires_grad_() for x in tensors]
    up = [F.interpolate(x[None], size, mode="bilinear", align_corners=align_corners)[0] for x in leaves]
    reader = LogitWindows(tensors, size, align_corners, torch.float32, interpolation)
    upstream = torch.randn(3, *size)
    grad = torch.empty_like(tensors[0])
    writer = GradientWindows(grad, size, align_corners, interpolation)
    for window in windows_of(size, 3, 4):
        for found, expected in zip(reader.columns(window), up, strict=True):
            assert_close(found.double(), expected[:, window.rows, window.columns].flatten(1), **ROUNDED)
        writer.add(window, upstream[:, window.rows, window.columns].flatten(1))
    writer.finish()
    (expected_grad,) = torch.autograd.grad(up[0], leaves[0], upstream.double())
    assert_close(grad.double(), expected_grad, **ROUNDED)


def test_the_adjoint_is_the_adjoint(interpolation):
    """<forward(x), y> = <x, adjoint(y)>, for the rows of any window."""
    dtype = torch.float64
    for low, high, align_corners in ((7, 30, True), (7, 30, False), (11, 4, True), (1, 5, False), (6, 6, True)):
        table = axis(low, high, align_corners, torch.device("cpu"), dtype)
        for start in range(high):
            rows = slice(start, torch.randint(start + 1, high + 1, ()).item())
            first = table.cell[start].item()
            number = min(table.cell[rows.stop - 1].item() + 2, low) - first
            cell, fraction = table.cell[rows] - first, table.fraction[rows]
            x, y = torch.randn(2, number, 3, dtype=dtype), torch.randn(2, len(cell), 3, dtype=dtype)
            up, down = (
                interpolation.forward(x, cell, fraction, Spare()),
                interpolation.adjoint(y, cell, fraction, number),
            )
            assert_close((up * y).sum(), (x * down).sum(), **EXACT)


class _Loops(TorchDispatchMode):
    """Counts the operations that PyTorch splits among threads, those on more than 2^15 numbers, and compiled graphs."""

    def __init__(self):
        super().__init__()
        self.count, self.in_graph = 0, False

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        numbers = [x.numel() for x in (found, *arguments) if isinstance(x, torch.Tensor)]
        is_loop = not function.is_view and "empty" not in str(function) and max(numbers, default=0) > 1 << 15
        self.count += is_loop and not self.in_graph
        return found

    def load(self, specialisation):
        def run(tensors):
            self.count, self.in_graph = self.count + 1, True
            try:
                return specialisation.evaluate(tensors)
            finally:
                self.in_graph = False

        return run


@pytest.mark.parametrize("size", [None, (512, 512)])
def test_a_call_of_the_compiled_engine_has_few_parallel_regions(monkeypatch, size):
    """Each may wait for a thread that is not on a core: on shared cores they take more time than the arithmetic."""
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None)
    loops = _Loops()
    monkeypatch.setattr(packages, "load", loops.load)
    low = (512, 512) if size is None else (128, 128)
    student, teacher = torch.randn(1, 3, *low, requires_grad=True), torch.randn(1, 3, *low)
    with loops:
        loss = fuzzy_positive_loss(student, teacher, size=size, engine="compiled")
        torch.autograd.grad(loss, student)
    # Two chunks of a graph and a copy; upsampled, of three graphs and an addition to the gradient's rows, and what is
    # done once for an image.
    assert 0 < loops.count <= (2 * 2 if size is None else 2 * 4 + 6)
