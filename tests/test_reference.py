"""The reference against published numbers, closed forms and autograd, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from tolerances import EXACT, PUBLISHED
from torch.testing import assert_close

from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.reference import (
    assign_positives,
    confidence_weight,
    loss_gradient,
    pixel_terms,
    softmax_distance,
    softmax_distance_gradient,
)

STUDENT = torch.tensor([0.2, 1.5, -0.3, 0.9, -1.0], dtype=torch.float64).view(1, 5, 1)
# q, K, smooth, hinge, linear, convex at scale 1, convex at scale 4, concave; threshold 0.9, cap 3
PUBLISHED_ROWS = [
    ((0.93, 0.04, 0.02, 0.006, 0.004), 1, 2.026934, 1.3, 0.917526, 0.847619, 0.689922, 0.974442),
    ((0.60, 0.34, 0.03, 0.02, 0.01), 1, 2.026934, 1.3, 0.276596, 0.160494, 0.071038, 0.629918),
    ((0.50, 0.30, 0.15, 0.03, 0.02), 2, 1.551316, 0.7, 0.526316, 0.357143, 0.181818, 0.791111),
    ((0.40, 0.30, 0.15, 0.10, 0.05), 3, 2.049310, 1.2, 0.578947, 0.407407, 0.215686, 0.807617),
    ((0.30, 0.25, 0.20, 0.15, 0.10), 3, 2.049310, 1.2, 0.333333, 0.200000, 0.090909, 0.621883),
]
PUBLISHED_GRADIENTS = {
    1: (-0.868261, 0.483389, 0.079904, 0.265290, 0.039679),
    2: (-0.619262, -0.168769, 0.163604, 0.543184, 0.081243),
    3: (-0.298220, -0.081274, -0.491682, 0.757829, 0.113347),
}
DEFAULTS = LossOptions(threshold=0.9, max_positives=3, weighting="none", convex_scale=1.0, form="smooth")


def teacher_of(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log().view(1, -1, 1)


def terms_of(teacher, **options):
    return pixel_terms(STUDENT, teacher, DEFAULTS._replace(**options))


@pytest.mark.parametrize("row", PUBLISHED_ROWS)
def test_published_values(row):
    probabilities, k, smooth, hinge, linear, convex, convex_ael, concave = row
    teacher = teacher_of(probabilities)
    assert terms_of(teacher).num_positives.item() == k
    assert_close(terms_of(teacher).loss.item(), smooth, **PUBLISHED)
    assert_close(terms_of(teacher, form="hinge").loss.item(), hinge, **PUBLISHED)
    assert_close(terms_of(teacher).cross_entropy.item(), 2.026934, **PUBLISHED)
    for weighting, scale, expected in (
        ("none", 1.0, 1.0),
        ("linear", 1.0, linear),
        ("convex", 1.0, convex),
        ("convex", 4.0, convex_ael),
        ("concave", 1.0, concave),
    ):
        assert_close(terms_of(teacher, weighting=weighting, convex_scale=scale).weight.item(), expected, **PUBLISHED)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_published_gradients(k):
    positives = (torch.arange(5) < k).view(1, 5, 1)
    gradient = loss_gradient(STUDENT, STUDENT, positives, DEFAULTS)
    assert_close(gradient.flatten(), torch.tensor(PUBLISHED_GRADIENTS[k], dtype=torch.float64), **PUBLISHED)


@pytest.mark.parametrize("form", ["smooth", "hinge"])
@pytest.mark.parametrize("num_classes", [2, 3, 7, 19])
def test_closed_form_gradient_is_that_of_autograd(form, num_classes):
    student = torch.randn(2, num_classes, 5, 3, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn_like(student).detach()
    options = DEFAULTS._replace(form=form)
    terms = pixel_terms(student, teacher, options)
    (expected,) = torch.autograd.grad(terms.loss.sum(), student)
    actual = loss_gradient(student.detach(), teacher, terms.positives, options)
    assert_close(actual, expected, **EXACT)


def test_one_positive_is_cross_entropy():
    student, teacher = torch.randn(2, 3, 21, 7, 5, dtype=torch.float64).unbind(0)
    terms = pixel_terms(student, teacher, DEFAULTS._replace(max_positives=1))
    expected = F.cross_entropy(student, teacher.argmax(1), reduction="none")
    assert_close(terms.loss, expected, **EXACT)
    assert_close(terms.cross_entropy, expected, **EXACT)


@pytest.mark.parametrize("max_positives", [1, 2, 3, 18])
def test_smooth_form_bounds_the_hinge(max_positives):
    """0 < L - max(0, m) <= log(1 + K (C - K)): section 3 of the method."""
    student, teacher = (3 * torch.randn(2, 4, 19, 11, 1, dtype=torch.float64)).unbind(0)
    options = DEFAULTS._replace(max_positives=max_positives)
    smooth = pixel_terms(student, teacher, options)
    gap = smooth.loss - pixel_terms(student, teacher, options._replace(form="hinge")).loss
    k = smooth.num_positives
    assert (gap > 0).all()
    assert (gap <= torch.log(1 + k * (19 - k)) + 1e-12).all()


@pytest.mark.parametrize("threshold", [1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_classes", [2, 3, 5, 19])
def test_assignment_against_a_loop(threshold, num_classes):
    teacher = torch.randn(1, num_classes, 60, dtype=torch.float64).mul(2).round()  # rounded: ties in most pixels
    assignment = assign_positives(teacher, threshold, num_classes)
    for pixel in range(teacher.shape[2]):
        q = teacher[0, :, pixel].softmax(0).tolist()
        order = sorted(range(num_classes), key=lambda c, q=q: (-q[c], c))
        cumulative, n = 0.0, 0
        while cumulative < threshold and n < num_classes:
            cumulative += q[order[n]]
            n += 1
        reached = sum(q[c] for c in order[: n - 1])
        if min(abs(cumulative - threshold), abs(reached - threshold)) < 1e-12:
            continue  # either rounding is right
        k = min(max(n - 1, 1), num_classes - 1)
        assert assignment.num_positives[0, pixel] == k
        assert assignment.positives[0, :, pixel].nonzero().flatten().tolist() == sorted(order[:k])
        assert assignment.pseudo_label[0, pixel] == order[0]


@pytest.mark.parametrize("weighting", ["linear", "convex", "concave"])
def test_weights_lie_between_zero_and_one(weighting):
    teacher = 4 * torch.randn(1, 19, 500, dtype=torch.float64)
    options = DEFAULTS._replace(weighting=weighting, convex_scale=4.0)
    weight = confidence_weight(assign_positives(teacher, 0.9, 3), options)
    assert weight.min() >= -1e-12 and weight.max() <= 1
    tied = confidence_weight(assign_positives(torch.zeros(1, 2, 1, dtype=torch.float64), 0.9, 1), options)
    assert_close(tied, torch.zeros_like(tied), **EXACT)


def test_published_two_pixel_balance():
    teacher = torch.cat([teacher_of(PUBLISHED_ROWS[1][0]), teacher_of(PUBLISHED_ROWS[3][0])], dim=2)
    terms = pixel_terms(STUDENT.expand(1, 5, 2), teacher, DEFAULTS._replace(weighting="concave"))
    weighted = (terms.loss * terms.weight).mean()
    assert_close(weighted.item(), 1.465930, **PUBLISHED)
    assert_close((terms.cross_entropy.mean() / weighted).item(), 1.382695, **PUBLISHED)
    assert_close((terms.cross_entropy.mean() / terms.loss.mean()).item(), 0.994510, **PUBLISHED)


# p, q, squared difference with its gradient, divergence with its gradient: by hand
DISTANCES = [
    ((0.5, 0.5), (0.75, 0.25), 0.125, (-0.25, 0.25), 0.75 * math.log(1.5) - 0.25 * math.log(2), (-0.25, 0.25)),
    (
        (0.5, 0.25, 0.25),
        (0.25, 0.25, 0.5),
        0.125,
        (0.1875, -0.03125, -0.15625),
        0.25 * math.log(2),
        (0.25, 0, -0.25),
    ),
    ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), 0.0, (0, 0, 0), 0.0, (0, 0, 0)),
]


@pytest.mark.parametrize(("p", "q", "mse", "of_mse", "kl", "of_kl"), DISTANCES)
def test_distances_by_hand(p, q, mse, of_mse, kl, of_kl):
    """The logits are logarithms of the probabilities, up to a shift."""
    student, teacher = teacher_of(p) + 3, teacher_of(q) - 5
    for kind, distance, gradient in (("mse", mse, of_mse), ("kl", kl, of_kl)):
        assert_close(softmax_distance(student, teacher, kind).item(), distance, **EXACT)
        expected = torch.tensor(gradient, dtype=torch.float64)
        assert_close(softmax_distance_gradient(student, teacher, kind).flatten(), expected, **EXACT)


@pytest.mark.parametrize("kind", ["mse", "kl"])
@pytest.mark.parametrize("num_classes", [2, 3, 19])
def test_closed_form_gradient_of_distances_is_that_of_autograd(kind, num_classes):
    student = torch.randn(2, num_classes, 5, 3, dtype=torch.float64, requires_grad=True)
    teacher = 2 * torch.randn_like(student, requires_grad=True)
    distance = softmax_distance(student, teacher, kind)
    (expected,) = torch.autograd.grad(distance.sum(), student)
    assert_close(softmax_distance_gradient(student.detach(), teacher.detach(), kind), expected, **EXACT)
    p, q = student.softmax(1), teacher.softmax(1)
    literal = F.mse_loss(p, q, reduction="none") if kind == "mse" else F.kl_div(p.log(), q, reduction="none")
    assert_close(distance, literal.sum(1), **EXACT)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_a_class_without_probability_is_at_no_distance(kind):
    """Masked out with the lowest number, by both, by the teacher or (of the squared difference) by the student."""
    student, teacher = torch.randn(2, 1, 5, 4, dtype=torch.float64).unbind(0)
    teacher[:, 3:] = torch.finfo(torch.float64).min
    student[:, 4] = torch.finfo(torch.float64).min
    p, q = student.softmax(1), teacher.softmax(1)
    expected = (p - q).square().sum(1) if kind == "mse" else (q * (q / p).log())[:, :3].sum(1)
    assert_close(softmax_distance(student, teacher, kind), expected, **EXACT)
