"""Distances of softmaxes in registers, with their gradients."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import draw_logits
from tolerances import SINGLE

from fpl_fast.kernels.device.classes import keep, load_classes, store_classes, widen
from fpl_fast.kernels.device.distance import distance_pixels
from fpl_fast.reference import softmax_distance, softmax_distance_gradient


@triton.jit
def distance_kernel(
    student_ptr,
    teacher_ptr,
    valid_ptr,
    weight_ptr,
    distance_ptr,
    grad_ptr,
    C: tl.constexpr,
    G: tl.constexpr,
    P: tl.constexpr,
    DISTANCE: tl.constexpr,
):
    pixel = tl.arange(0, P)
    if G > 1:
        pixel = pixel[None, :]
    inside = pixel < P
    z = widen(load_classes(student_ptr, pixel, inside, P, C, G), C, G, False)
    t = widen(load_classes(teacher_ptr, pixel, inside, P, C, G), C, G, False)
    poison = tl.zeros(pixel.shape, tl.float32)
    weight, valid = tl.load(weight_ptr + pixel), tl.load(valid_ptr + pixel) != 0
    terms, gradient = distance_pixels(z, t, poison, valid, weight, 0.5, DISTANCE, False)
    tl.store(distance_ptr + pixel, terms[0])
    store_classes(grad_ptr, pixel, inside, P, keep(valid, gradient), C, G)


@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize(("num_classes", "group"), [(2, 1), (19, 1), (34, 4)])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_distance_and_gradient(kernel_device, kind, num_classes, group, spread):
    num_pixels = 32
    z, t = (
        draw_logits(num_classes, num_pixels, dtype=torch.float32, spread=spread, device=kernel_device) for _ in range(2)
    )
    valid, weight = (torch.rand(num_pixels, device=kernel_device) for _ in range(2))
    valid = valid > 0.3
    distance, grad = torch.empty(num_pixels, device=kernel_device), torch.empty_like(z)
    constants = {"C": num_classes, "G": group, "P": num_pixels, "DISTANCE": kind}
    distance_kernel[(1,)](z, t, valid, weight, distance, grad, **constants)
    factor = weight.double() * valid
    x, y = z.double()[None], t.double()[None]
    torch.testing.assert_close(distance.double(), factor * softmax_distance(x, y, kind)[0], **SINGLE)
    expected = 0.5 * factor * softmax_distance_gradient(x, y, kind)[0]
    torch.testing.assert_close(grad.double(), expected, **SINGLE)
    assert expected.abs().sum() > 0
