import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpl_fast import reference
from fpl_fast.bench.peers.public_algorithm import public_algorithm
from fpl_fast.kernels.arguments import LossOptions

# Five classes, threshold 0.9: teacher probabilities, smooth loss, and the three weights that the public code has.
STUDENT = (0.2, 1.5, -0.3, 0.9, -1.0)
TABLE = [
    ((0.93, 0.04, 0.02, 0.006, 0.004), 2.026934, {"linear": 0.917526, "convex": 0.847619, "concave": 0.974442}),
    ((0.60, 0.34, 0.03, 0.02, 0.01), 2.026934, {"linear": 0.276596, "convex": 0.160494, "concave": 0.629918}),
    ((0.50, 0.30, 0.15, 0.03, 0.02), 1.551316, {"linear": 0.526316, "convex": 0.357143, "concave": 0.791111}),
    ((0.40, 0.30, 0.15, 0.10, 0.05), 2.049310, {"linear": 0.578947, "convex": 0.407407, "concave": 0.807617}),
    ((0.30, 0.25, 0.20, 0.15, 0.10), 2.049310, {"linear": 0.333333, "convex": 0.200000, "concave": 0.621883}),
]


def pixel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


@pytest.mark.parametrize(("probabilities", "loss", "weights"), TABLE)
def test_public_algorithm_on_published_values(probabilities, loss, weights) -> None:
    student, teacher = pixel(STUDENT), pixel(probabilities).log()
    assert public_algorithm(student, teacher).item() == pytest.approx(loss, abs=1e-5)
    for weighting, weight in weights.items():
        weighted = public_algorithm(student, teacher, weighting=weighting).item()
        assert weighted == pytest.approx(loss * weight, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    num_classes=st.integers(4, 24),  # 4: the fewest that a top-4 selection can look at
    threshold=st.sampled_from([0.7, 0.9, 0.95]),
    weighting=st.sampled_from(["none", "linear", "convex", "concave"]),
    scale=st.floats(0.5, 12),
    seed=st.integers(0, 2**31),
)
def test_public_algorithm_is_the_reference_capped_at_three(num_classes, threshold, weighting, scale, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(2, num_classes, 7, 5, generator=generator) for _ in range(2))
    student.requires_grad_()
    terms = reference.pixel_terms(student, teacher, LossOptions(threshold, 3, weighting, 1.0, "smooth"))
    expected = (terms.loss * terms.weight).mean()
    loss = public_algorithm(student, teacher, threshold=threshold, weighting=weighting)
    torch.testing.assert_close(loss, expected, rtol=2e-4, atol=2e-5)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=2e-5)
