"""The class planes: uncompiled over many options against float64, compiled over a few."""

import itertools
import math

import pytest
import torch
from fuzz_checks import threads
from instruction_sets import probe_once
from tolerances import GRADIENT, LOSS
from torch.testing import assert_close

from fpl_fast.engines import eager, packages, planes
from fpl_fast.engines.plane_arithmetic import exp, sorting_network
from fpl_fast.engines.planes import loss_planes, numbers, specialise
from fpl_fast.kernels.arguments import LossInputs, LossOptions
from fpl_fast.reference import loss_gradient, pixel_terms

NUM_PIXELS = 301


def clear_of_threshold(teacher, threshold):
    cumulative = teacher.double().softmax(0).sort(0, descending=True).values.cumsum(0)
    return (cumulative - threshold).abs().amin(0) > 1e-6


@pytest.mark.parametrize("n", range(2, planes.MAX_CLASSES + 1))
def test_sorting_network_sorts(n):
    rows = torch.randint(0, n, (200, n))  # few values: ties
    ranked = rows.clone()
    for i, j in sorting_network(n):
        assert 0 <= i < j < n
        pair = ranked[:, [i, j]]
        ranked[:, i], ranked[:, j] = pair.amax(1), pair.amin(1)
    assert torch.equal(ranked, rows.sort(1, descending=True).values)


def test_exponential():
    x = -torch.rand(10_000, dtype=torch.float64) * 90
    x[:3] = torch.tensor([0.0, -1e-8, -86.9])
    expected = x.float().double().exp()
    for floor in (-100, -124):
        error = (exp(x.float(), floor).double() / expected - 1).abs()
        lowest = (floor - 0.5) * math.log(2)
        assert (error <= 1e-6 + 1e-7 * x.abs())[x > lowest].all() and (x < lowest).any()
        far = exp(-torch.cat([torch.rand(100) * 50 + 70, 10 ** (38 * torch.rand(1000))]), floor)
        assert (far >= 0.499 * 2.0**floor).all() and (far < 2e-30).any()
    assert exp(torch.tensor(0.0)) == 1
    assert (exp(torch.tensor([-1e12, -1e30, torch.finfo(torch.float32).min])) < 1e-30).all()
    assert exp(torch.tensor([-torch.inf, torch.inf, torch.nan])).isnan().all()


CASES = [
    *itertools.product([2, 3, 5, 19], [1, 3, 31], ["none", "concave"], ["smooth", "hinge"], [3.0]),
    *itertools.product([21], [3, 31], ["linear", "convex"], ["smooth"], [0.3, 3.0, 1e4]),
]


@pytest.mark.parametrize(("num_classes", "max_positives", "weighting", "form", "spread"), CASES)
@pytest.mark.parametrize(("ties", "confidence_power"), [(False, 0.0), (True, 2.0)])
def test_planes_against_float64(num_classes, max_positives, weighting, form, spread, ties, confidence_power):
    teacher = 2 * torch.randn(num_classes, NUM_PIXELS)
    teacher = teacher.round() if ties else teacher
    student = spread * torch.randn(num_classes, NUM_PIXELS)
    valid = clear_of_threshold(teacher, 0.9) & (torch.rand(NUM_PIXELS) > 0.2)
    pixel_weight = torch.rand(NUM_PIXELS)
    options = LossOptions(0.9, min(max_positives, num_classes - 1), weighting, 4.0, form, 0.0, confidence_power)
    specialisation = specialise(num_classes, (), options, with_grad=True, with_stats=True)
    rows, grad = loss_planes(student, teacher, pixel_weight, valid, torch.tensor(0.5), numbers(options), specialisation)
    z, t, a = student.double()[None], teacher.double()[None], pixel_weight.double()
    terms = pixel_terms(z, t, options)
    a = a * terms.confidence**confidence_power
    weighted, one, k = terms.weight * terms.loss, torch.ones_like(terms.loss), terms.num_positives
    expected = torch.cat(
        [a * weighted, one, weighted, terms.loss, terms.cross_entropy, k, k == 1, k == 2, k == 3]
        + [terms.confidence, one, a]
    )
    # The weights' error is absolute, and the loss multiplies it.
    size = terms.loss.clamp(min=1)
    assert_close(rows.double() / size, expected.masked_fill(~valid, 0) / size, **LOSS)
    slope = (0.5 * a[0] * terms.weight[0]).masked_fill(~valid, 0)
    expected_grad = loss_gradient(z, t, terms.positives, options)[0] * slope
    assert_close(torch.stack(grad).double(), expected_grad, **GRADIENT[torch.float32])


@pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_one_package_serves_every_size_and_layout(monkeypatch, tmp_path):
    """In 16 bits: a single pixel, rows of odd length, more than a chunk; whatever lies between pixels and classes."""
    probe_once(monkeypatch)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    packages._load.cache_clear()
    dtype, layouts = torch.bfloat16, (torch.contiguous_format, torch.channels_last)
    options = LossOptions(0.9, 2, "concave", 1.0, "smooth")
    for h, w in ((64, 64), (200, 300), (1, 40_000), (37, 41), (3, 5), (1, 1), (2, 1), (1, 2)):
        for student_layout, teacher_layout in itertools.product(layouts, layouts):
            student = (3 * torch.randn(1, 4, h, w)).to(dtype).contiguous(memory_format=student_layout)
            teacher = (3 * torch.randn(1, 4, h, w)).to(dtype).contiguous(memory_format=teacher_layout)
            pixel_weight, threshold = torch.rand(1, h, w), torch.rand(1, w, h).transpose(1, 2)
            clear = clear_of_threshold(teacher[0].flatten(1), threshold.flatten()).view(1, h, w)
            for counted in (torch.rand(1, h, w) > 0.5, torch.ones(1, 1, 1, dtype=torch.bool).expand(1, h, w)):
                inputs = LossInputs(student, teacher, pixel_weight=pixel_weight, valid_mask=counted & clear)
                inputs = inputs._replace(threshold=threshold)
                keywords = {"scale": torch.tensor(0.3), "with_grad": True, "with_stats": True}
                sums, grad = planes.fuzzy_positive_sums(inputs, options, **keywords)
                expected, expected_grad = eager.fuzzy_positive_sums(inputs, options, **keywords)
                with threads(3):  # no more than one of which ends with a vector
                    again, again_grad = planes.fuzzy_positive_sums(inputs, options, **keywords)
                assert torch.equal(again, sums) and torch.equal(again_grad, grad)
                assert_close(sums, expected, rtol=1e-4, atol=1e-2)
                assert grad.stride() == student.stride() and grad.dtype == dtype
                assert_close(grad.double(), expected_grad.double(), **GRADIENT[dtype])
    # A compiler that fused the first product of an exponential with a difference would be wrong far down.
    student, teacher = (3 * torch.randn(1, 4, 40, 9) for _ in range(2))
    for x, far in itertools.product((student, teacher), (-1e4, -1e9, -1e12, -1e15, -1e20, -1e30, -3e38)):
        masked = [
            torch.cat([y[:, :3], torch.full_like(y[:, 3:], far if y is x else -9.0)], 1) for y in (student, teacher)
        ]
        inputs = LossInputs(*(y.to(dtype) for y in masked), pixel_weight=torch.rand(1, 40, 9))
        inputs = inputs._replace(valid_mask=clear_of_threshold(inputs.teacher[0].flatten(1), 0.5).view(1, 40, 9))
        inputs = inputs._replace(threshold=torch.full((1, 40, 9), 0.5))
        sums, grad = planes.fuzzy_positive_sums(inputs, options, **keywords)
        expected, expected_grad = eager.fuzzy_positive_sums(inputs, options, **keywords)
        assert_close(sums, expected, rtol=1e-4, atol=1e-2)
        assert_close(grad.double(), expected_grad.double(), **GRADIENT[dtype])
    assert [path.suffix for path in (tmp_path / "fpl_fast").iterdir()] == [".pt2"]


def test_no_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in packages.unavailable_reason()
