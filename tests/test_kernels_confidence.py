import pytest
import torch
import triton
import triton.language as tl
from tolerances import SINGLE

from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.kernels.device.confidence import confidence_weight
from fpl_fast.kernels.specialisation import option_arguments
from fpl_fast.reference import Assignment
from fpl_fast.reference import confidence_weight as reference_weight


@triton.jit
def weight_kernel(in_ptr, out_ptr, loss_options, P: tl.constexpr):
    i = tl.arange(0, P)
    k, rejected, mass, total = (
        tl.load(in_ptr + i),
        tl.load(in_ptr + P + i),
        tl.load(in_ptr + 2 * P + i),
        tl.load(in_ptr + 3 * P + i),
    )
    tl.store(out_ptr + i, confidence_weight(k, rejected, mass, total, loss_options, False))


@pytest.mark.parametrize("weighting", ["none", "linear", "convex", "concave"])
def test_weights(kernel_device, weighting):
    p = torch.rand(8, 64, dtype=torch.float64, device=kernel_device).softmax(0).sort(dim=0, descending=True).values
    p[:, 0] = 1 / 8  # all classes equal: weight 0
    k = torch.randint(1, 8, (64,), device=kernel_device)
    total = 1 / p[0]
    rejected = p.gather(0, k[None])[0]
    mass = p.cumsum(0).gather(0, k[None])[0]
    inputs = torch.stack([k.double(), rejected * total, mass * total, total]).float()
    weight = torch.empty(64, device=kernel_device)
    options = LossOptions(0.9, 7, weighting, 4.0, "smooth")
    weight_kernel[(1,)](inputs, weight, option_arguments(options)["loss_options"], P=64)
    expected = reference_weight(Assignment(None, k, None, p[0], mass / (k + 1), rejected), options)
    torch.testing.assert_close(weight.double(), expected, **SINGLE)
    assert weight.max() <= 1
