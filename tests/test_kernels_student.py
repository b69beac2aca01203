"""The parts that read the student: partition, plain cross entropy, smooth and hinge loss with their gradients."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import draw_logits
from tolerances import SINGLE, widened

from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.kernels.device.classes import load_classes, store_classes, widen
from fpl_fast.kernels.device.hinge import hinge_loss
from fpl_fast.kernels.device.smooth import smooth_loss
from fpl_fast.kernels.device.student import label_logit, log_sum_exp, part
from fpl_fast.reference import loss_gradient


@triton.jit
def student_kernel(
    student_ptr,
    keys_ptr,
    per_pixel_ptr,
    grad_ptr,
    C: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    FORM: tl.constexpr,
):
    pixel = tl.arange(0, P)
    if G > 1:
        pixel = pixel[None, :]
    inside = pixel < P
    z = widen(load_classes(student_ptr, pixel, inside, P, C, G), C, G, False)
    keys = load_classes(keys_ptr, pixel, inside, P, C, G)
    cut = tl.full(pixel.shape, 1, tl.int32)
    positives, negatives, lowest, highest = part(keys, cut, z)
    coefficient = tl.full(pixel.shape, 0.5, tl.float32)
    if FORM == "smooth":
        loss, gradient = smooth_loss(positives, negatives, lowest, highest, coefficient, False)
    else:
        loss, gradient = hinge_loss(positives, negatives, lowest, highest, coefficient, G)
    tl.store(per_pixel_ptr + pixel, loss)
    tl.store(per_pixel_ptr + P + pixel, log_sum_exp(z, False) - label_logit(keys, tl.full(pixel.shape, 2, tl.int32), z))
    store_classes(grad_ptr, pixel, inside, P, gradient, C, G)


@pytest.mark.parametrize(("num_classes", "group"), [(2, 1), (5, 1), (19, 1), (34, 4)])
@pytest.mark.parametrize("form", ["smooth", "hinge"])
@pytest.mark.parametrize(("spread", "ties"), [(3.0, False), (1.0, True), (1e4, False)])
def test_loss_and_gradient(kernel_device, num_classes, group, form, spread, ties):
    num_pixels = 32
    z = draw_logits(num_classes, num_pixels, dtype=torch.float32, spread=spread, ties=ties, device=kernel_device)
    rank = torch.rand(num_classes, num_pixels, device=kernel_device).argsort(0)
    k = torch.randint(1, num_classes, (num_pixels,), device=kernel_device)
    keys = (rank < k).int() + (rank < 1)  # 2 at the label, 1 at the other positives
    label = rank.argmin(0)
    per_pixel = torch.empty(2, num_pixels, device=kernel_device)
    grad = torch.empty_like(z)
    student_kernel[(1,)](z, keys, per_pixel, grad, C=num_classes, G=group, P=num_pixels, FORM=form)

    x, positives = z.double(), keys > 0
    low, high = x.masked_fill(~positives, torch.inf), x.masked_fill(positives, -torch.inf)
    if form == "smooth":
        expected = torch.nn.functional.softplus((-low).logsumexp(0) + high.logsumexp(0))
    else:
        expected = (high.amax(0) - low.amin(0)).relu()
    close = widened(SINGLE, z)
    torch.testing.assert_close(per_pixel[0].double(), expected, **close)
    plain = torch.nn.functional.cross_entropy(x.t(), label, reduction="none")
    torch.testing.assert_close(per_pixel[1].double(), plain, **close)
    expected_grad = 0.5 * loss_gradient(x[None], x[None], positives[None], LossOptions(0.9, 1, "none", 1.0, form))[0]
    torch.testing.assert_close(grad.double(), expected_grad, **close)
