import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpl_fast import reference
from fpl_fast.bench.cases import Case, make_inputs, selection
from fpl_fast.bench.correctness import truth, wrong_share
from fpl_fast.bench.peers import PROVIDERS, public_algorithm
from fpl_fast.bench.traffic import minimum_bytes

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
    terms = reference.pixel_terms(
        student, teacher, threshold=threshold, max_positives=3, weighting=weighting, convex_scale=1.0, form="smooth"
    )
    expected = (terms.loss * terms.weight).mean()
    loss = public_algorithm(student, teacher, threshold=threshold, weighting=weighting)
    torch.testing.assert_close(loss, expected, rtol=2e-4, atol=2e-5)
    gradients = [torch.autograd.grad(value, student)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=2e-5)


SMALL = [
    Case(shape=(2, 7, 13, 9)),  # odd sides
    Case(shape=(1, 19, 16, 8), max_positives=None, layout="nhwc", teacher="confident"),
    Case(shape=(1, 4, 5, 6), max_positives=1),
]
UNCOMPILED = [provider for provider in PROVIDERS if provider.name in ("public", "eager", "cross_entropy")]
SUPPORTED = [(provider, case) for provider in UNCOMPILED for case in SMALL if provider.supports(case)]


@pytest.mark.parametrize(
    ("provider", "case"), SUPPORTED, ids=[f"{provider.name}-{case}" for provider, case in SUPPORTED]
)
def test_gate_lets_right_providers_pass(provider, case) -> None:
    inputs = make_inputs(case, torch.device("cpu"))
    loss = provider.bind(case, inputs.teacher)(inputs.student)
    (gradient,) = torch.autograd.grad(loss, inputs.student)
    assert wrong_share(provider.solved(case), inputs, loss, gradient) == 0


def test_gate_stops_wrong_answers() -> None:
    case = Case(shape=(1, 7, 16, 16))
    inputs = make_inputs(case, torch.device("cpu"))
    expected = truth(case, torch.device("cpu"))
    loss, gradient = torch.tensor(expected.loss), expected.gradient / case.num_pixels
    assert wrong_share(case, inputs, loss, gradient) == 0
    assert wrong_share(case, inputs, loss * 1.1, gradient) == 1
    assert wrong_share(case, inputs, loss * float("nan"), gradient) == 1
    assert wrong_share(case, inputs, loss, gradient.bfloat16()) == 1
    flipped = gradient.clone()
    flipped[:, :, 0, :4] += 1 / case.num_pixels
    assert wrong_share(case, inputs, loss, flipped) == pytest.approx(4 / 256)
    assert wrong_share(case, inputs, loss, torch.full_like(gradient, float("nan"))) == 1


def test_inputs_follow_the_case() -> None:
    case = Case(shape=(1, 5, 9, 7), dtype=torch.bfloat16, layout="nhwc")
    inputs = make_inputs(case, torch.device("cpu"))
    for logits in (inputs.student, inputs.teacher):
        assert logits.shape == case.shape and logits.dtype == case.dtype
        assert logits.is_contiguous(memory_format=torch.channels_last)
    assert inputs.student.requires_grad and inputs.student.is_leaf and not inputs.teacher.requires_grad
    # n changes the work: the two teachers must differ in K, and a rerun must see the same logits.
    means = {
        teacher: truth(
            Case(shape=(1, 19, 32, 32), max_positives=None, teacher=teacher), torch.device("cpu")
        ).mean_positives
        for teacher in ("uncertain", "confident")
    }
    assert means["uncertain"] > 1.5 > 1.2 > means["confident"]
    assert make_inputs(case, torch.device("cpu")).student is not inputs.student
    assert torch.equal(make_inputs(case, torch.device("cpu")).student, inputs.student)


def test_bytes_by_hand() -> None:
    case = Case(shape=(2, 19, 512, 512))
    assert minimum_bytes(case, "both") == 3 * 39_845_888  # 2 * 19 * 512 * 512 * 4 bytes a stream
    assert minimum_bytes(case, "forward") == 2 * 39_845_888
    assert minimum_bytes(case, "backward") is None


@pytest.mark.parametrize("full", [False, True])
def test_selection_has_no_doubles(full) -> None:
    names = [str(case) for case, _ in selection(full=full)]
    assert len(set(names)) == len(names)


def test_providers_say_what_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refusals = {
        provider.name: provider.refusal(Case(shape=(1, 60, 8, 8)), torch.device("cpu")) for provider in PROVIDERS
    }
    assert "at most 32 classes" in refusals["compiled"]
    assert "CUDA" in refusals["triton"]
    assert refusals["eager"] is None and refusals["public"] is None and refusals["cross_entropy"] is None
