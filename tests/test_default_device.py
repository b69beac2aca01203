"""Another default device, as ``torch.set_default_device`` sets it: the same bits, where the inputs lie."""

import pytest
import torch

from fpl_fast import (
    adaptive_threshold,
    consistency_loss,
    cross_entropy,
    fuzzy_positive_assignment,
    fuzzy_positive_loss,
    ohem_cross_entropy,
    positive_gradient_score,
    pseudo_label_cross_entropy,
    pseudo_labels,
)
from fpl_fast.kernels import axis, divergence

LOW, HIGH = (3, 4), (5, 7)


@pytest.fixture(autouse=True)
def forget_tables():
    """Tables of places and terms are kept: each call below makes its own."""

    def forget():
        axis.axis.forget()
        divergence.divergence_table.forget()

    forget()
    yield forget
    forget()


def make_calls(engine, device):
    """Every function with inputs on a device."""
    student, teacher = (torch.randn(1, 5, *LOW, device=device) for _ in range(2))
    weight = torch.rand(1, *HIGH, device=device)
    target = torch.randint(5, (1, *HIGH), device=device)
    student.requires_grad_()
    at = {"size": HIGH, "engine": engine}
    yield student, lambda: fuzzy_positive_loss(student, teacher, balance=True, pixel_weight=weight, **at)
    yield student, lambda: fuzzy_positive_loss(student, teacher, reduction="none", threshold=weight, **at)
    yield student, lambda: fuzzy_positive_loss(student, teacher, return_stats=True, engine=engine)[0]
    yield student, lambda: pseudo_label_cross_entropy(student, teacher, **at)
    yield student, lambda: consistency_loss(student, teacher, pixel_weight=weight, valid_mask=weight > 0.3, **at)
    yield student, lambda: consistency_loss(student, teacher, kind="kl", reduction="none", **at)
    yield None, lambda: adaptive_threshold(teacher, (0.7, 0.9), window=3, **at)
    if engine == "compiled":  # which the rest does not have
        return
    yield student, lambda: cross_entropy(student, target, **at)
    yield student, lambda: ohem_cross_entropy(student, target, min_kept=20, **at)
    yield None, lambda: pseudo_labels(teacher, threshold=0.9, **at).entropy
    yield None, lambda: fuzzy_positive_assignment(teacher, max_positives=3)[0]
    yield None, lambda: positive_gradient_score(student, teacher, target[:, : LOW[0], : LOW[1]]).fuzzy


def results(student, call):
    result = call()
    return (result,) if student is None else (result, *torch.autograd.grad(result.sum(), student))


def test_results_are_those_without_a_default_device(engine, kernel_device, forget_tables):
    for student, call in make_calls(engine, kernel_device):
        expected = results(student, call)
        forget_tables()
        with torch.device("meta"):
            actual = results(student, call)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))
        assert all(ours.device.type == kernel_device for ours in actual)
