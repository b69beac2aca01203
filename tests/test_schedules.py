"""Numbers that change from step to step inside a user's torch.compile: always right, and never compiled again."""

import pytest
import torch
from tolerances import INVARIANT
from torch import nn
from torch.testing import assert_close

from fpl_fast import FuzzyPositiveLoss, fuzzy_positive_assignment, fuzzy_positive_loss, ohem_cross_entropy
from fpl_fast.kernels.arguments import NUMBERS

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
SHAPE = (2, 5, 5, 7)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = [step / 11 for step in range(1, 12)]
# The first value is taken for a constant, the second makes an input of it.
GRAPHS = 2
OPTIONS = {
    "threshold": {},
    "convex_scale": {"weighting": "convex"},
    "confidence_threshold": {"threshold": 1.0},
    "confidence_power": {},
}


@pytest.fixture(autouse=True)
def no_graphs():
    """Nothing compiled, and none of it counted."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def logits():
    """Student and teacher."""
    return 2 * torch.randn(SHAPE, device=DEVICE), 2 * torch.randn(SHAPE, device=DEVICE)


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_every_number_of_the_loss_is_here():
    assert set(OPTIONS) == set(NUMBERS)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_number_as_an_argument(name, reduction, logits):
    fixed = OPTIONS[name] | {"reduction": reduction}

    def step(student, teacher, value):
        return fuzzy_positive_loss(student, teacher, **{name: value}, **fixed).sum()

    compiled = torch.compile(step, fullgraph=True)
    student = logits[0].requires_grad_()
    for value in STEPS:
        loss, expected = compiled(student, logits[1], value), step(student, logits[1], value)
        assert_close(loss, expected, **INVARIANT)
        actual, reference = (torch.autograd.grad(x, student)[0] for x in (loss, expected))
        assert_close(actual, reference, **INVARIANT)
    assert graphs() == GRAPHS


def test_a_number_that_is_computed(logits):
    def step(student, teacher, s):
        return fuzzy_positive_loss(student, teacher, confidence_threshold=0.3 + 0.4 * s)

    compiled = torch.compile(step, fullgraph=True)
    values = [(compiled(*logits, s), step(*logits, s)) for s in (0.1, 0.3, 0.5, 0.7, 0.9)]
    for actual, expected in values:
        assert_close(actual, expected, **INVARIANT)
    assert len({expected.item() for _, expected in values}) > 3  # the schedule does change the loss
    computed_is_constant = torch.__version__.startswith("2.11.")  # seen there, and not in 2.14
    assert graphs() == (len(values) if computed_is_constant else GRAPHS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_number_as_an_attribute(name, logits):
    """Attributes of the user's own module, and of ours, may follow a schedule."""

    class Step(nn.Module):
        value = 0.5

        def forward(self, student, teacher):
            return fuzzy_positive_loss(student, teacher, **{name: self.value}, **OPTIONS[name])

    theirs, ours = Step(), FuzzyPositiveLoss(**OPTIONS[name])
    for module, attribute in ((theirs, "value"), (ours, name)):
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(module, fullgraph=True)
        for value in STEPS:
            setattr(module, attribute, value)
            expected = fuzzy_positive_loss(*logits, **OPTIONS[name] | {name: value})
            assert_close(compiled(*logits), expected, **INVARIANT)
        assert graphs() <= GRAPHS


def test_thresholds_of_the_other_functions(logits):
    student, teacher = logits
    target = torch.randint(0, 5, (2, 5, 7), device=DEVICE)

    def step(value):
        k, _ = fuzzy_positive_assignment(teacher, threshold=value)
        return k.float().mean() + ohem_cross_entropy(student, target, min_kept=3, threshold=value)

    compiled = torch.compile(step, fullgraph=True)
    for value in STEPS:
        assert_close(compiled(value), step(value), **INVARIANT)
    assert graphs() == GRAPHS
