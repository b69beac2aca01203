"""A threshold for every pixel: the contract of every engine, and what bad values mean."""

import pytest
import torch
from kernel_cases import decided
from tolerances import EXACT, GRADIENT, LOSS
from torch.testing import assert_close

import fpl_fast
from fpl_fast import FuzzyPositiveLoss, fuzzy_positive_assignment, fuzzy_positive_loss, positive_gradient_score

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
SHAPE, PIXELS, SIZE = (2, 5, 3, 7), (2, 3, 7), (4, 9)  # no block divides them
VALUES = (0.5, 0.8, 0.97)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors where the Triton engine can run."""
    with torch.device(DEVICE):
        yield


def draw(dtype=torch.float32, ties=False):
    student, teacher = 3 * torch.randn(SHAPE), 2 * torch.randn(SHAPE)
    return student.to(dtype).requires_grad_(), (teacher.round() if ties else teacher).to(dtype)


def of_values(pixels=PIXELS):
    """A random one of VALUES for every pixel."""
    return torch.tensor(VALUES)[torch.randint(len(VALUES), pixels)]


def evaluate(student, teacher, threshold, **options):
    loss, stats = fuzzy_positive_loss(student, teacher, threshold=threshold, return_stats=True, **options)
    return loss.detach(), *torch.autograd.grad(loss.sum(), student), *stats


SAME = [
    (torch.float32, {"weighting": "concave", "reduction": "none"}),
    (torch.bfloat16, {"weighting": "linear", "balance": True, "max_positives": 2}),
    (torch.float32, {"weighting": "convex", "form": "hinge", "size": SIZE, "align_corners": False}),
]


@pytest.mark.parametrize(("dtype", "options"), SAME, ids=["pixels", "mean", "upsampled"])
def test_one_value_everywhere_is_the_number(engine, options, dtype):
    """Bit for bit: loss, gradient and statistics."""
    student, teacher = draw(dtype, ties=dtype == torch.bfloat16)
    pixels = (2, *options.get("size", SHAPE[2:]))
    masks = {"valid_mask": torch.rand(pixels) > 0.2, "mix_mask": torch.rand(pixels) > 0.5}
    keywords = {**options, **masks, "partner_logits": teacher.flip(0), "pixel_weight": torch.rand(pixels)}
    keywords |= {"engine": engine, "confidence_power": 2.0}
    ours, expected = (evaluate(student, teacher, value, **keywords) for value in (torch.full(pixels, 0.8), 0.8))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize(("size", "max_positives"), [(None, None), (SIZE, 2)])
def test_every_pixel_follows_its_own_value(engine, size, max_positives):
    """Losses are those of calls with one value each, put together; gradients, too."""
    student, teacher = draw()
    pixels = (2, *(size or SHAPE[2:]))
    threshold = of_values(pixels).transpose(1, 2).contiguous().transpose(1, 2)  # does not collapse
    keywords = {"size": size, "max_positives": max_positives, "weighting": "linear", "engine": engine}
    losses = fuzzy_positive_loss(student, teacher, threshold=threshold, reduction="none", **keywords)
    loss = fuzzy_positive_loss(student, teacher, threshold=threshold, reduction="sum", **keywords)
    expected, gradients = torch.zeros(pixels), []
    for value in VALUES:
        chosen = threshold == value
        each = fuzzy_positive_loss(student, teacher, threshold=value, reduction="none", **keywords).detach()
        expected = torch.where(chosen, each, expected)
        part = fuzzy_positive_loss(student, teacher, threshold=value, valid_mask=chosen, reduction="sum", **keywords)
        gradients.append(torch.autograd.grad(part, student)[0])
    assert torch.equal(losses, expected)
    assert_close(loss, expected.sum(), **LOSS)
    (grad,) = torch.autograd.grad(loss, student)
    assert_close(grad, sum(gradients), **GRADIENT[torch.float32])
    plain = fuzzy_positive_loss(student, teacher, threshold=0.9, reduction="none", **keywords)
    assert (plain != losses).any()


BAD = {NAN: 1, -INF: 1, -1.0: 1, 0.0: 1, 1.5: SHAPE[1] - 1, INF: SHAPE[1] - 1}


@pytest.mark.parametrize("max_positives", [3, None])
def test_values_out_of_range(engine, max_positives):
    """Up to 0 and for NaN one positive, above 1 as many as the cap allows; nothing raises, nothing becomes NaN."""
    student, teacher = draw()
    threshold = of_values()
    expected_k = torch.tensor(list(BAD.values())).clamp(max=max_positives or SHAPE[1])
    threshold[1, 1, :6] = torch.tensor(list(BAD))
    sane = threshold.clone()
    sane[1, 1, :6] = torch.where(expected_k == 1, 1e-6, 2.0)
    k, positives = fuzzy_positive_assignment(teacher, threshold=threshold, max_positives=max_positives)
    assert torch.equal(k[1, 1, :6], expected_k) and torch.equal(positives.sum(1), k)
    keywords = {"max_positives": max_positives, "weighting": "concave", "engine": engine}
    ours, expected = (evaluate(student, teacher, x, reduction="none", **keywords) for x in (threshold, sane))
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True)) and ours[0].isfinite().all()


def test_an_ignored_pixel_hides_its_threshold(engine):
    student, teacher = draw()
    valid, threshold = torch.rand(PIXELS) > 0.4, of_values()
    keywords = {"valid_mask": valid, "engine": engine, "reduction": "sum"}
    expected = evaluate(student, teacher, threshold, **keywords)
    bad = torch.tensor([NAN, INF, -1.0])[torch.randint(3, PIXELS)]
    ours = evaluate(student, teacher, torch.where(valid, threshold, bad), **keywords)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_statistics_and_assignment(engine):
    student, teacher = draw()
    threshold = of_values()
    clear = decided(teacher, threshold)
    _, stats = fuzzy_positive_loss(
        student, teacher, threshold=threshold, valid_mask=clear, return_stats=True, engine=engine
    )
    k, positives = fuzzy_positive_assignment(teacher, threshold=threshold)
    each = [fuzzy_positive_assignment(teacher, threshold=value) for value in VALUES]
    for value, (one_k, one_set) in zip(VALUES, each, strict=True):
        assert torch.equal(k[threshold == value], one_k[threshold == value])
        assert torch.equal((positives & (threshold == value)[:, None]), one_set & (threshold == value)[:, None])
    assert_close(stats.mean_positives, k[clear].float().mean(), **LOSS)


def test_positive_gradient_score_follows_the_pixels():
    student, teacher = (x.detach().double() for x in draw())
    threshold, target = of_values(), torch.randint(SHAPE[1], PIXELS)
    score = positive_gradient_score(student, teacher, target, threshold=threshold)
    for value in VALUES:
        expected = positive_gradient_score(student, teacher, target, threshold=torch.tensor(value).item())
        for ours, theirs in zip(score, expected, strict=True):
            assert torch.equal(ours[threshold == value], theirs[threshold == value])


def test_gradcheck():
    student, teacher = (x.detach().double()[:1, :4, :3, :3].contiguous() for x in draw())
    threshold = of_values((1, 3, 3))
    for reduction in ("mean", "none"):
        options = {"threshold": threshold, "weighting": "concave", "reduction": reduction, "engine": "eager"}
        assert torch.autograd.gradcheck(
            lambda z, o=options: fuzzy_positive_loss(z, teacher, **o), student.clone().requires_grad_()
        )


def test_float64_keeps_all_digits():
    """A cumulative probability of 0.9 - 1e-9, which lies below 0.9, but above the float32 nearest to it."""
    probabilities = torch.tensor([0.5, 0.4 - 1e-9, 0.06, 0.04 + 1e-9], dtype=torch.float64)
    teacher = probabilities.log().view(1, 4, 1, 1)
    wide = torch.full((1, 1, 1), 0.9, dtype=torch.float64)
    assert fuzzy_positive_assignment(teacher, threshold=wide)[0] == 2 == fuzzy_positive_assignment(teacher)[0]
    assert fuzzy_positive_assignment(teacher, threshold=wide.float())[0] == 1


def test_modules_take_it_with_a_call_and_at_construction():
    student, teacher = draw()
    threshold = of_values()
    expected = fuzzy_positive_loss(student, teacher, threshold=threshold)
    plain = fuzzy_positive_loss(student, teacher, threshold=0.8)
    criterion = FuzzyPositiveLoss(threshold=0.8)
    assert torch.equal(criterion(student, teacher, threshold=threshold), expected)
    assert torch.equal(criterion(student, teacher), plain) and plain != expected
    fixed = FuzzyPositiveLoss(threshold=threshold)
    assert torch.equal(fixed(student, teacher), expected) and fixed.state_dict() == {}
    assert "threshold=a tensor of shape (2, 3, 7)" in repr(fixed)


def test_a_threshold_gets_no_gradient_and_is_not_written():
    student, teacher = draw()
    threshold = of_values().requires_grad_()
    before = threshold.detach().clone()
    for reduction in ("mean", "none"):
        fuzzy_positive_loss(student, teacher, threshold=threshold, reduction=reduction).sum().backward()
    assert threshold.grad is None and torch.equal(threshold, before)


def test_fullgraph_compile():
    student, teacher = draw()

    def step(student, teacher, threshold):
        return fuzzy_positive_loss(2 * student, teacher, threshold=threshold)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for threshold in (of_values(), of_values()):
        loss, expected = compiled(student, teacher, threshold), step(student, teacher, threshold)
        assert_close(loss, expected, **EXACT)
        actual, reference = (torch.autograd.grad(x, student)[0] for x in (loss, expected))
        assert_close(actual, reference, **EXACT)


ERRORS = [
    (
        torch.full(PIXELS[1:], 0.9),
        r"threshold of pixels must have shape \(N, H, W\), got \(3, 7\); a number serves",
    ),
    (torch.full((2, 1, 3, 7), 0.9), r"got \(2, 1, 3, 7\); threshold.squeeze\(1\) drops the dimension of channels"),
    (torch.full((2, 3, 6), 0.9), r"threshold must have shape \(N, H, W\) = \(2, 3, 7\), got \(2, 3, 6\)"),
    (torch.full(PIXELS, 0.9).half(), r"threshold of pixels must be float32, got torch.float16; threshold.float\(\) is"),
    (torch.ones(PIXELS, dtype=torch.int64), r"threshold of pixels must be float32, got torch.int64"),
    (torch.full(PIXELS, 0.9).to("meta"), r"threshold must be on the logits' device \(\w+(:0)?\), got meta; move it"),
    (torch.full(PIXELS, 0.9).cpu().numpy(), r"threshold of pixels must be a tensor, got an array of shape \(2, 3, 7\)"),
    (torch.tensor(0.9), r"threshold must be a number in \(0, 1\], got a tensor of shape \(\); give the number itself"),
]


@pytest.mark.parametrize(("threshold", "message"), ERRORS)
def test_errors(threshold, message):
    student, teacher = draw()
    target = torch.zeros(PIXELS, dtype=torch.int64)
    calls = {
        "loss": lambda: fuzzy_positive_loss(student, teacher, threshold=threshold),
        "assignment": lambda: fuzzy_positive_assignment(teacher, threshold=threshold),
        "score": lambda: positive_gradient_score(student, teacher, target, threshold=threshold),
        "call": lambda: FuzzyPositiveLoss()(student, teacher, threshold=threshold),
        "module": lambda: fpl_fast.FuzzyPositiveLoss(threshold=threshold)(student, teacher),
    }
    for call in calls.values():
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
