"""Interpolation between rows and its adjoint: PyTorch's operations and the compiled graphs, which run uncompiled here.

Compiled, in the slow test, they give the same bits with any number of threads.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from fuzz_checks import same_bits, threads
from instruction_sets import probe_once
from tolerances import EXACT, GRADIENT, INVARIANT
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fpl_fast import fuzzy_positive_loss
from fpl_fast.engines import packages, plane_rows
from fpl_fast.engines.windows import EAGERLY, GradientWindows, LogitWindows, Spare, Window
from fpl_fast.kernels.axis import axis

# Logits and their size: up and down, whole scales and others, one row or column of either.
SIZES = [
    ((5, 7), (20, 28)),
    ((9, 11), (33, 41)),
    ((12, 9), (5, 31)),
    ((1, 3), (7, 5)),
    ((4, 1), (1, 6)),
    ((30, 2), (2, 2)),
    ((1, 1), (1, 1)),
    ((2, 5), (40, 5)),
]
# A rounding of the axes' positions, which PyTorch computes in float32, changes a logit by the slope there.
ROUNDED = {"rtol": 1e-5, "atol": 2e-4}


@pytest.fixture(params=["eagerly", "compiled"])
def interpolation(request, monkeypatch):
    monkeypatch.setattr(packages, "load", lambda specialisation: specialisation.evaluate)
    return {"eagerly": EAGERLY, "compiled": plane_rows.COMPILED}[request.param]


def windows_of(size, rows, columns):
    """The rectangles of at most so many rows and columns that cover the size."""
    for top, left in itertools.product(range(0, size[0], rows), range(0, size[1], columns)):
        yield Window(slice(top, min(top + rows, size[0])), slice(left, min(left + columns, size[1])))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
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


@pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_compiled_upsampling_with_any_number_of_threads(monkeypatch, tmp_path):
    probe_once(monkeypatch)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    packages._load.cache_clear()
    for low, size in [*SIZES, ((50, 60), (397, 391))]:
        logits, upstream = torch.randn(3, *low), torch.randn(3, *size)
        found = []
        for number in (1, 2, 3):
            with threads(number):
                reader = LogitWindows([logits], size, True, torch.float32, plane_rows.COMPILED)
                grad = torch.empty_like(logits)
                writer = GradientWindows(grad, size, True, plane_rows.COMPILED)
                read = []
                for window in windows_of(size, 100, size[1]):
                    read += [x.clone() for x in reader.columns(window)]
                    writer.add(window, upstream[:, window.rows, window.columns].flatten(1))
                writer.finish()
                found.append((torch.cat(read, 1), grad))
        for other in found[1:]:
            assert all(map(same_bits, other, found[0]))
        whole = Window(slice(0, size[0]), slice(0, size[1]))
        (expected,) = LogitWindows([logits], size, True, torch.float32).columns(whole)
        assert_close(found[0][0], expected, **INVARIANT)
        expected_grad = torch.empty_like(logits)
        eagerly = GradientWindows(expected_grad, size, True)
        eagerly.add(whole, upstream.flatten(1))
        eagerly.finish()
        assert_close(found[0][1], expected_grad, **GRADIENT[torch.float32])
    assert len(list((tmp_path / "fpl_fast").iterdir())) == 2
