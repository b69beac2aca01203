"""The contract of the loss, for every engine: each test names one line of it."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import decided
from tolerances import GRADIENT, INVARIANT, LOSS, THRESHOLD_MARGIN
from torch.testing import assert_close

import fpl_fast
from fpl_fast import fuzzy_positive_assignment, fuzzy_positive_loss, pseudo_label_cross_entropy
from fpl_fast.kernels.arguments import NUMBERS

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
# 5 x 13 pixels: no block divides it.
SHAPE = (2, 5, 5, 13)
PIXELS = (2, 5, 13)


@pytest.fixture
def logits():
    """Student and teacher on the device where the Triton engine can run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (
        (3 * torch.randn(SHAPE, device=device)).requires_grad_(),
        2 * torch.randn(SHAPE, device=device),
    )


def gradient(loss, student):
    return torch.autograd.grad(loss, student, retain_graph=True)[0]


def test_one_positive_is_pytorchs_cross_entropy(engine, logits):
    student, teacher = logits
    expected = F.cross_entropy(student, teacher.argmax(1))
    actual = pseudo_label_cross_entropy(student, teacher, engine=engine)
    assert_close(actual, expected, **LOSS)
    assert_close(gradient(actual, student), gradient(expected, student), **GRADIENT[torch.float32])


ANOTHER = {"threshold": 0.6, "convex_scale": 4.0, "confidence_threshold": 0.5, "confidence_power": 2.0}


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_reaches_every_engine(engine, logits, name):
    """It changes the loss, and by as much as in the reference; a new number needs another value above."""
    student, teacher = logits
    confidence = teacher.double().softmax(1).amax(1)
    clear = decided(teacher.double(), 0.9) & decided(teacher.double(), ANOTHER["threshold"])
    clear &= (confidence - ANOTHER["confidence_threshold"]).abs() > THRESHOLD_MARGIN

    def pixel_losses(name, value, engine):
        options = {"weighting": "convex", "valid_mask": clear, "reduction": "none"} | {name: value}
        return fuzzy_positive_loss(student, teacher, engine=engine, **options).detach()

    usual, other = (pixel_losses("threshold", 0.9, engine), pixel_losses(name, ANOTHER[name], engine))
    assert not torch.allclose(usual, other, rtol=1e-3)
    assert_close(other, pixel_losses(name, ANOTHER[name], "eager"), **LOSS)


def test_reductions_agree(engine, logits):
    student, teacher = logits
    valid = torch.rand(PIXELS, device=student.device) > 0.3
    weight = torch.rand(PIXELS, device=student.device)
    losses = [
        fuzzy_positive_loss(student, teacher, valid_mask=valid, pixel_weight=weight, reduction=r, engine=engine)
        for r in ("none", "sum", "mean")
    ]
    assert losses[0].shape == PIXELS and (losses[0][~valid] == 0).all()
    assert_close(losses[1], losses[0].sum(), **LOSS)
    assert_close(losses[2], losses[0].sum() / valid.sum(), **LOSS)
    by_pixel = gradient(losses[0].sum() / valid.sum(), student)
    assert_close(gradient(losses[2], student), by_pixel, **GRADIENT[torch.float32])


def test_gradient_sums_to_zero_over_classes(engine, logits):
    student, teacher = logits
    g = gradient(fuzzy_positive_loss(student, teacher, reduction="sum", engine=engine), student)
    assert_close(g.sum(1), torch.zeros_like(g.sum(1)), **INVARIANT)
    assert g.abs().sum() > 1


def test_shifting_the_logits_changes_nothing(engine, logits):
    student, teacher = logits
    shift_s, shift_t = torch.randn(2, 2, 1, 5, 13, device=student.device).mul(4).round().unbind(0)  # exact in float32
    student = student.detach().mul(64).round().div(64).requires_grad_()
    teacher = teacher.mul(64).round().div(64)
    loss = fuzzy_positive_loss(student, teacher, reduction="none", engine=engine)
    moved = fuzzy_positive_loss(student + shift_s, teacher + shift_t, reduction="none", engine=engine)
    assert_close(moved, loss, **INVARIANT)
    assert_close(gradient(moved.sum(), student), gradient(loss.sum(), student), **INVARIANT)


def test_permuting_the_classes_permutes_the_gradient(engine, logits):
    student, teacher = logits
    order = torch.randperm(SHAPE[1], device=student.device)
    loss = fuzzy_positive_loss(student, teacher, engine=engine)
    permuted = fuzzy_positive_loss(student[:, order], teacher[:, order], engine=engine)
    assert_close(permuted, loss, **INVARIANT)
    assert_close(gradient(permuted, student), gradient(loss, student), **INVARIANT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_go_to_the_lower_class(engine, logits, dtype):
    student, teacher = logits[0].detach().to(dtype), logits[1].round().to(dtype)
    teacher[0, :, 0] = 0  # all equal
    teacher[0, 1, 1], teacher[0, 3, 1] = 0.0, -0.0  # equal, whatever their sign bits say
    student.requires_grad_()
    options = {"threshold": 0.8, "max_positives": 3}
    stats = fuzzy_positive_loss(student, teacher, engine=engine, reduction="sum", return_stats=True, **options)[1]
    g = gradient(fuzzy_positive_loss(student, teacher, engine=engine, reduction="sum", **options), student)
    k, positives = fuzzy_positive_assignment(teacher.double(), **options)
    assert_close(stats.mean_positives, k.float().mean(), **INVARIANT)
    assert torch.equal(g < 0, positives)  # the positives and only they are pushed up


def test_no_valid_pixel_is_zero(engine, logits):
    student, teacher = logits
    nothing = torch.zeros(PIXELS, dtype=torch.bool, device=student.device)
    loss, stats = fuzzy_positive_loss(
        student, teacher, valid_mask=nothing, balance=True, return_stats=True, engine=engine
    )
    assert loss == 0 and (gradient(loss, student) == 0).all()
    assert all(value.isfinite().all() for value in stats) and stats.num_valid == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["student", "teacher"])
def test_non_finite_logits_show_in_valid_pixels_only(engine, logits, bad, where):
    student, teacher = (x.detach().clone() for x in logits)
    (student if where == "student" else teacher)[1, 2, 3, 4] = bad
    student.requires_grad_()
    valid = torch.ones(PIXELS, dtype=torch.bool, device=student.device)
    per_pixel = fuzzy_positive_loss(student, teacher, valid_mask=valid, reduction="none", engine=engine)
    assert per_pixel.isnan().nonzero().tolist() == [[1, 3, 4]]
    loss = fuzzy_positive_loss(student, teacher, valid_mask=valid, engine=engine)
    g = gradient(loss, student)
    assert loss.isnan()
    assert not g[1, :, 3, 4].isfinite().any()
    assert g.isfinite().sum() == g.numel() - SHAPE[1]

    valid[1, 3, 4] = False
    loss = fuzzy_positive_loss(student, teacher, valid_mask=valid, engine=engine)
    assert loss.isfinite() and gradient(loss, student).isfinite().all()
    assert (gradient(loss, student)[1, :, 3, 4] == 0).all()


def test_the_largest_finite_logits_are_finite(engine, logits):
    """Classes that a user masks out with the lowest number of the dtype."""
    student, teacher = (x.detach().clone() for x in logits)
    lowest = torch.finfo(torch.float32).min
    student[:, 1:3], teacher[:, 1:3] = lowest, lowest
    student[0, 1:], teacher[0, 1:] = lowest, lowest  # a single class is left
    loss = fuzzy_positive_loss(student.requires_grad_(), teacher, reduction="none", engine=engine)
    assert loss.isfinite().all() and (loss[0] < 1e-30).all()
    assert gradient(loss.sum(), student).isfinite().all()


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_past_the_largest_exponent(engine, logits, which):
    """Times log2(e), a logit past 2.36e38 is infinite: the right number or NaN, never another one."""
    given = {"student": logits[0].detach().clone(), "teacher": logits[1].clone()}
    x = given[which]
    x[0, 1] = 3e38
    x[1, :, :2] = 3e38
    x[1, :, 2:] = -3e38
    student, exact = given["student"], given["student"].double()
    exact[1] -= exact[1].amax(0)  # float64, too, would round off what is small beside 3e38
    student.requires_grad_()
    exact.requires_grad_()
    for balance in (False, True):
        keywords = {"reduction": "none", "weighting": "none", "balance": balance}
        loss = fuzzy_positive_loss(student, given["teacher"], engine=engine, **keywords)
        expected = fuzzy_positive_loss(exact, given["teacher"].double(), engine="eager", **keywords)
        for actual, wanted in ((loss, expected), (gradient(loss.sum(), student), gradient(expected.sum(), exact))):
            known = ~actual.isnan()
            assert_close(actual.double()[known], wanted[known].double(), rtol=1e-4, atol=1e-5)


def test_inputs_are_not_written_and_the_teacher_gets_no_gradient(engine, logits):
    student, teacher = logits
    teacher.requires_grad_()
    before = student.detach().clone(), teacher.detach().clone()
    fuzzy_positive_loss(student, teacher, engine=engine).backward()
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "broadcast", "transposed"])
def test_any_strides(layout, logits):
    for engine in ("eager", "triton"):  # the compiled engine copies chunks: tests/test_planes.py
        student, teacher = (x.detach() for x in logits)
        if layout == "channels_last":
            view = student.contiguous(memory_format=torch.channels_last)
        elif layout == "sliced":
            view = torch.cat([student, student], 1)[:, 2:7, :, :]
            view = torch.cat([view, view], 3)[:, :, :, 3:16]
        elif layout == "broadcast":
            view = student[:1].expand(2, -1, -1, -1)
        else:
            view = student.transpose(2, 3).contiguous().transpose(2, 3)
        dense, view = view.contiguous().requires_grad_(), view.requires_grad_()
        loss = fuzzy_positive_loss(view, teacher, engine=engine)
        expected = fuzzy_positive_loss(dense, teacher.contiguous(memory_format=torch.channels_last), engine=engine)
        assert_close(loss, expected, **INVARIANT)
        g = gradient(loss, view)
        assert_close(g, gradient(expected, dense), **INVARIANT)
        assert g.stride() == torch.empty_like(view).stride()


@pytest.mark.parametrize("shape", [(0, 5, 3, 4), (1, 5, 1, 1), (2, 5, 0, 3), (1, 2, 1, 1)])
def test_degenerate_sizes(shape):
    for engine in ("eager", "triton"):
        student = torch.randn(shape, requires_grad=True)
        if torch.cuda.is_available():
            student = student.detach().cuda().requires_grad_()
        for reduction in ("mean", "none"):
            loss = fuzzy_positive_loss(student, torch.randn_like(student), reduction=reduction, engine=engine).sum()
            assert loss.isfinite() and gradient(loss, student).shape == shape
            if shape[2] > 0:
                loss = fuzzy_positive_loss(
                    student, torch.randn_like(student), size=(3, 2), reduction=reduction, engine=engine
                ).sum()
                g = gradient(loss, student)
                assert g.shape == shape and g.isfinite().all()


def test_balance_gives_the_value_of_cross_entropy(engine, logits):
    student, teacher = logits
    loss, stats = fuzzy_positive_loss(
        student, teacher, weighting="concave", balance=True, return_stats=True, engine=engine
    )
    raw = fuzzy_positive_loss(student, teacher, weighting="concave", engine=engine)
    assert_close(loss, F.cross_entropy(student, teacher.argmax(1)), **LOSS)
    assert_close(loss, stats.cross_entropy, **LOSS)
    assert_close(raw, stats.weighted_loss, **LOSS)
    factor = stats.cross_entropy / stats.weighted_loss
    assert_close(gradient(loss, student), factor * gradient(raw, student), **INVARIANT)


def test_balance_is_bounded_where_the_loss_is_nearly_zero(engine):
    """One pixel of the hinge, 5e-6 above zero, against a cross entropy of order 1, in float16."""
    student = torch.zeros(1, 5, 5, 13, dtype=torch.float16)
    teacher = torch.zeros(1, 5, 5, 13)
    student[:, 0], teacher[:, 0] = 1.0, 5.0
    student[0, :, 0, 0] = torch.tensor([0.0, 3e-4, 0.0, 0.0, 0.0])
    student = student.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_()
    keywords = {"form": "hinge", "balance": True, "return_stats": True, "engine": engine}
    loss, stats = fuzzy_positive_loss(student, teacher.to(student.device), **keywords)
    assert stats.cross_entropy > 0.5 and 4e-6 < stats.weighted_loss < 5e-6
    assert_close(loss, 1000 * stats.weighted_loss, **LOSS)
    g = gradient(loss, student)
    assert_close(
        g[0, :, 0, 0].float(), torch.tensor([-1.0, 1, 0, 0, 0], device=g.device) * 1000 / 65, rtol=1e-3, atol=0
    )
    for weighted in (1e-42, 0.0):  # where the quotient would be infinite, and without a loss
        expected = 1000.0 if weighted else 1.0
        assert fpl_fast.balance_factor(torch.tensor(1.6), torch.tensor(weighted)) == expected
    assert fpl_fast.balance_factor(torch.tensor(float("nan")), torch.tensor(1.0)).isnan()


def test_stats(engine, logits):
    student, teacher = logits
    valid = torch.rand(PIXELS, device=student.device) > 0.3
    _, stats = fuzzy_positive_loss(
        student,
        teacher,
        valid_mask=valid,
        weighting="linear",
        pixel_weight=(weight := torch.rand(PIXELS, device=student.device)),
        confidence_power=2.0,
        return_stats=True,
        engine=engine,
    )
    k, _ = fuzzy_positive_assignment(teacher)
    plain = fuzzy_positive_loss(student, teacher, reduction="none", engine="eager")
    weighted = fuzzy_positive_loss(student, teacher, weighting="linear", reduction="none", engine="eager")
    assert stats.num_valid == valid.sum()
    assert_close(stats.valid_share, valid.float().mean(), **LOSS)
    assert_close(stats.mean_confidence, teacher.softmax(1).amax(1)[valid].mean(), **LOSS)
    histogram = torch.stack([(k[valid] == number).float().mean() for number in (1, 2, 3)])
    assert_close(stats.positives_histogram[:3], histogram, **LOSS)
    assert_close(stats.positives_histogram.sum(), torch.ones_like(stats.valid_share), **LOSS)
    assert_close(stats.mean_positives, k[valid].float().mean(), **LOSS)
    assert_close(stats.unweighted_loss, plain[valid].mean(), **LOSS)
    assert_close(stats.weighted_loss, weighted[valid].mean(), **LOSS)
    assert_close(stats.weight_sum, (weight * teacher.softmax(1).amax(1) ** 2)[valid].sum(), **LOSS)
    assert not any(value.requires_grad for value in stats)


@pytest.mark.parametrize(
    ("size", "align_corners"), [((9, 31), True), ((9, 31), False), ((3, 4), False), ((5, 13), True)]
)
def test_upsampling_and_cutmix_equal_doing_it_by_hand(engine, size, align_corners, logits):
    student, teacher = logits
    partner = torch.randn_like(teacher)
    mask = torch.rand(2, *size, device=student.device) > 0.5
    exact = student.detach().double().requires_grad_()

    def up(x):
        return F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners)

    mixed = torch.where(mask.unsqueeze(1), up(partner), up(teacher))
    valid = clear_of_threshold(mixed, 0.9)
    keywords = {"size": size, "align_corners": align_corners, "partner_logits": partner, "mix_mask": mask}
    loss = fuzzy_positive_loss(student, teacher, valid_mask=valid, engine=engine, **keywords)
    expected = fuzzy_positive_loss(up(exact), mixed, valid_mask=valid, engine="eager")
    assert_close(loss.double(), expected, **LOSS)
    assert_close(gradient(loss, student).double(), gradient(expected, exact), **GRADIENT[torch.float32])
    by_pixel = fuzzy_positive_loss(student, teacher, valid_mask=valid, engine=engine, reduction="none", **keywords)
    by_hand = fuzzy_positive_loss(up(exact), mixed, valid_mask=valid, reduction="none", engine="eager")
    assert_close(by_pixel.double(), by_hand, **LOSS)
    weights = torch.rand_like(by_pixel)
    from_pixels = gradient((weights * by_pixel).sum(), student)
    assert_close(from_pixels.double(), gradient((weights * by_hand).sum(), exact), **GRADIENT[torch.float32])


def clear_of_threshold(teacher, threshold):
    cumulative = teacher.double().sort(1, descending=True).values.softmax(1).cumsum(1)
    return (cumulative - threshold).abs().amin(1) > THRESHOLD_MARGIN


def test_confidence_gate_and_power(engine, logits):
    student, teacher = logits
    q = teacher.softmax(1).amax(1)
    gate = q >= 0.6
    ce = F.cross_entropy(student, teacher.argmax(1), reduction="none")
    gated, stats = pseudo_label_cross_entropy(
        student, teacher, confidence_threshold=0.6, return_stats=True, engine=engine
    )
    assert_close(gated, (gate * ce).mean(), **LOSS)
    assert_close(stats.selected_share, gate.float().mean(), **LOSS)
    weighted = pseudo_label_cross_entropy(
        student, teacher, confidence_threshold=0.6, confidence_power=2.0, reduction="weighted_mean", engine=engine
    )
    expected = (gate * q**2 * ce).sum() / (q**2).sum()
    assert_close(weighted, expected, **LOSS)
    assert_close(gradient(weighted, student), gradient(expected, student), **GRADIENT[torch.float32])


def test_nothing_to_upsample_is_said(engine):
    empty = torch.zeros(1, 5, 0, 3)
    with pytest.raises(ValueError, match=r"size needs logits of at least 1 x 1 to upsample, got shape \(1, 5, 0, 3\)"):
        fuzzy_positive_loss(empty, empty, size=(4, 4), engine=engine)


def test_a_partner_keeps_its_precision(engine, logits):
    """bfloat16 would make its two logits tie."""
    with logits[0].device:
        student = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1)
        partner = torch.tensor([1.0, 1.001]).view(1, 2, 1, 1)
        everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    mixed = fuzzy_positive_loss(
        student, partner.flip(1).bfloat16(), partner_logits=partner, mix_mask=everywhere, engine=engine
    )
    assert_close(mixed, fuzzy_positive_loss(student, partner, engine=engine))


def test_assignment_of_the_public_example():
    teacher = torch.tensor([0.5, 0.3, 0.15, 0.03, 0.02]).log().view(1, 5, 1, 1)
    k, positives = fuzzy_positive_assignment(teacher, threshold=0.9)
    assert k.item() == 2 and positives.flatten().tolist() == [True, True, False, False, False]
    assert fuzzy_positive_assignment(teacher, threshold=0.9, max_positives=1)[0].item() == 1
