"""Supported and refused ways to differentiate the losses; tensors that autograd treats specially."""

import pytest
import torch
from tolerances import INVARIANT
from torch.autograd import forward_ad
from torch.testing import assert_close

from fpl_fast import (
    consistency_loss,
    cross_entropy,
    fuzzy_positive_loss,
    ohem_cross_entropy,
    pseudo_label_cross_entropy,
)

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
SHAPE, PIXELS = (2, 5, 4, 6), (2, 4, 6)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors on the device of the operators' fastest engine."""
    with torch.device(DEVICE):
        yield


LOSSES = {
    "fpl": lambda z, t: fuzzy_positive_loss(z, t),
    "fpl of pixels": lambda z, t: fuzzy_positive_loss(z, t, reduction="none").sum(),
    "fpl balanced": lambda z, t: fuzzy_positive_loss(z, t, weighting="concave", balance=True),
    "pseudo-label": lambda z, t: pseudo_label_cross_entropy(z, t),
    "consistency": lambda z, t: consistency_loss(z, t),
    "consistency of pixels": lambda z, t: consistency_loss(z, t, kind="kl", reduction="none").sum(),
    "labels": lambda z, t: cross_entropy(z, t.argmax(1)),
    "labels of pixels": lambda z, t: cross_entropy(z, t.argmax(1), reduction="none").sum(),
    "ohem": lambda z, t: ohem_cross_entropy(z, t.argmax(1), min_kept=3),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_forward_mode_is_refused(loss):
    """A tangent would be dropped, and the derivative be zero without a word."""
    student, teacher, tangent = (torch.randn(SHAPE) for _ in range(3))
    with pytest.raises(RuntimeError, match=r"no forward-mode derivative: torch\.func\.jvp cannot go through it"):
        torch.func.jvp(lambda z: loss(z, teacher), (student,), (tangent,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
        loss(forward_ad.make_dual(student.requires_grad_(), tangent), teacher)
    with forward_ad.dual_level():  # of something else: the losses run
        assert_close(loss(student, teacher), loss(student.detach(), teacher), **INVARIANT)


NO_BATCHING_RULE = pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet")
TRANSFORMS = {
    "grad": torch.func.grad,
    "vjp": lambda f: lambda z: torch.func.vjp(f, z)[1](torch.ones(())),
    "jacrev": torch.func.jacrev,
    "grad of vmap": lambda f: torch.func.grad(lambda z: torch.func.vmap(f)(z[None]).sum()),
    "vmap of grad": lambda f: lambda z: torch.func.vmap(torch.func.grad(f))(z[None]),
    "vmap": lambda f: lambda z: torch.func.vmap(f)(z.clone().requires_grad_()[None]),
}


@NO_BATCHING_RULE
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_gradient_within_torch_func_is_refused(loss, transform):
    student, teacher = torch.randn(SHAPE), torch.randn(SHAPE)
    with pytest.raises(RuntimeError, match=r"no derivative within torch\.func: .*; take the gradient with backward"):
        transform(lambda z: loss(z, teacher))(student)


@NO_BATCHING_RULE
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_torch_func_without_a_gradient(loss):
    """vmap gives each of its inputs what a call gives; a gradient of something else goes past the losses."""
    students, teachers = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    expected = torch.stack([loss(z, t) for z, t in zip(students, teachers, strict=True)])
    assert_close(torch.func.vmap(loss)(students, teachers), expected, **INVARIANT)
    factor = torch.func.grad(lambda a: a * loss(students[0], teachers[0]))(torch.ones(()))
    assert_close(factor, expected[0], **INVARIANT)
    assert_close(torch.func.functionalize(loss)(students[0], teachers[0]), expected[0], **INVARIANT)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_an_undefined_gradient_stays_undefined(loss):
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    undefined = _NoGradient.apply(loss(student, teacher))
    assert torch.autograd.grad(undefined, student, allow_unused=True) == (None,)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_inputs_made_in_inference_mode(reduction):
    """Every input but the student, with the gradient of equal ones that are not."""
    student = torch.randn(SHAPE, requires_grad=True)
    with torch.inference_mode():
        teacher, partner, mask = torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(PIXELS) > 0.4
        weight, class_weight, target = torch.rand(PIXELS), torch.rand(5), torch.randint(0, 5, PIXELS)
    assert teacher.is_inference()

    def losses(teacher, partner, mask, weight, class_weight, target):
        mixed = {"partner_logits": partner, "mix_mask": mask, "valid_mask": mask}
        yield fuzzy_positive_loss(student, teacher, pixel_weight=weight, reduction=reduction, **mixed)
        yield cross_entropy(student, target, weight=class_weight, pixel_weight=weight, reduction=reduction)
        yield consistency_loss(student, teacher, pixel_weight=weight, reduction=reduction, **mixed)

    inference = (teacher, partner, mask, weight, class_weight, target)
    for loss, expected in zip(losses(*inference), losses(*(x.clone() for x in inference)), strict=True):
        upstream = torch.rand_like(loss)
        actual, reference = (torch.autograd.grad((x * upstream).sum(), student)[0] for x in (loss, expected))
        assert_close(actual, reference, **INVARIANT)
        assert actual.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_double_backward_is_refused(loss):
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    with pytest.raises(RuntimeError, match="no double backward"):
        torch.autograd.grad(loss(student, teacher), student, create_graph=True)
