import pytest
import torch
from kernel_cases import check_against_reference, draw_huge_logits, draw_logits, fuzzy_positive_sums
from tolerances import GRADIENT, LOSS, WEIGHT
from torch.testing import assert_close

from fpl_fast import fuzzy_positive_loss
from fpl_fast.kernels.arguments import NUM_SUMS, LossInputs, LossOptions
from fpl_fast.kernels.fuzzy_positive import fuzzy_positive_map, is_streamed

UNCAPPED = 10_000
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
OPTIONS = LossOptions(threshold=0.9, max_positives=3, weighting="concave", convex_scale=1.0, form="smooth")


def call_sums(student, teacher, *, valid_mask=None, with_grad=True, **options):
    inputs = LossInputs(student, teacher, valid_mask=valid_mask)
    return fuzzy_positive_sums(inputs, OPTIONS._replace(**options), scale=None, with_grad=with_grad, with_stats=True)


# 2, 3: fewer classes than the top-4 network ranks; 4, 5: exactly and one more; 19, 21: Cityscapes and VOC; 31, 32: the
# last sizes with a register per class; 33, 60: tiles with padding; 150: ADE20K.
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 19, 21, 31, 32, 33, 60, 150])
@pytest.mark.parametrize(("teacher_dtype", "max_positives"), [(torch.bfloat16, 3), (torch.float32, UNCAPPED)])
def test_numbers_of_classes(kernel_device, num_classes, max_positives, teacher_dtype):
    student = draw_logits(1, num_classes, 5, 7, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, num_classes, 5, 7, dtype=teacher_dtype, spread=2.0, device=kernel_device)
    check_against_reference(student, teacher, max_positives=max_positives)


def test_a_thousand_classes(kernel_device):
    student = draw_logits(1, 1024, 2, 3, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, 1024, 2, 3, dtype=torch.bfloat16, spread=4.0, ties=True, device=kernel_device)
    check_against_reference(student, teacher, max_positives=12)


@pytest.mark.parametrize("teacher_dtype", DTYPES)
@pytest.mark.parametrize("student_dtype", DTYPES)
def test_dtypes(kernel_device, student_dtype, teacher_dtype):
    student = draw_logits(1, 19, 9, 31, dtype=student_dtype, device=kernel_device)
    teacher = draw_logits(1, 19, 9, 31, dtype=teacher_dtype, device=kernel_device)
    check_against_reference(student, teacher, scale=3.0)


@pytest.mark.parametrize("form", ["smooth", "hinge"])
@pytest.mark.parametrize("weighting", ["none", "linear", "convex", "concave"])
def test_weightings_and_forms(kernel_device, weighting, form):
    student = draw_logits(1, 7, 11, 13, dtype=torch.float32, ties=True, device=kernel_device)
    teacher = draw_logits(1, 7, 11, 13, dtype=torch.float16, spread=1.0, device=kernel_device)
    check_against_reference(student, teacher, weighting=weighting, convex_scale=4.0, form=form, max_positives=UNCAPPED)


@pytest.mark.parametrize("max_positives", [1, 2, 3, 4, 7, UNCAPPED])
@pytest.mark.parametrize("threshold", [1e-3, 0.5, 0.95, 1.0])
def test_thresholds_and_caps(kernel_device, threshold, max_positives):
    student = draw_logits(1, 10, 3, 41, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, 10, 3, 41, dtype=torch.bfloat16, spread=1.0, device=kernel_device)
    check_against_reference(student, teacher, threshold=threshold, max_positives=max_positives)


@pytest.mark.parametrize("teacher_dtype", DTYPES)
@pytest.mark.parametrize("num_classes", [6, 19, 40])  # registers below and above the top-4 network's groups, and tiles
@pytest.mark.parametrize("max_positives", [3, UNCAPPED])
def test_equal_logits_go_to_the_lower_class(kernel_device, num_classes, teacher_dtype, max_positives):
    student = draw_logits(1, num_classes, 6, 7, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, num_classes, 6, 7, dtype=teacher_dtype, spread=1.0, ties=True, device=kernel_device)
    teacher[0, :, 0] = 0.0
    teacher[0, ::2, 0] = -0.0  # as large as +0.0
    check_against_reference(student, teacher, max_positives=max_positives)


@pytest.mark.parametrize("num_classes", [8, 40])
def test_huge_ranges(kernel_device, num_classes):
    student = draw_logits(1, num_classes, 6, 7, dtype=torch.float32, spread=1e4, device=kernel_device)
    for spread in (1.0, 1e4):
        teacher = draw_logits(1, num_classes, 6, 7, dtype=torch.float32, spread=spread, device=kernel_device)
        check_against_reference(student, teacher, weighting="none", huge=True)


LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "pixel_slice": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],  # collapses: stride 2 along a row, and rows join
    "class_slice": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "crop": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1))[:, :, 3:-1, 1:-2],  # does not collapse: is copied
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),  # dense, but does not collapse
    "batch_inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("num_classes", [5, 33])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernel_device, layout, num_classes):
    student = draw_logits(2, num_classes, 3, 4, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(2, num_classes, 3, 4, dtype=torch.bfloat16, device=kernel_device)
    check_against_reference(LAYOUTS[layout](student), teacher)
    check_against_reference(student, LAYOUTS[layout](teacher))


@pytest.mark.parametrize("size", [(8, 20), (9, 20)])  # a block and a rest, in pairs of pixels or one by one
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_an_odd_number_of_16_bit_logits(kernel_device, dtype, size):
    last = LAYOUTS["channels_last"]
    logits = [draw_logits(2, 5, *size, dtype=dtype, device=kernel_device) for _ in range(3)]
    check_against_reference(last(logits[0]), last(logits[1]))
    check_against_reference(last(logits[0]), logits[1])
    mix_mask = torch.rand(2, *size, device=kernel_device) > 0.5
    mix_mask[0] = False  # blocks of one side only
    check_against_reference(last(logits[0]), last(logits[1]), partner=last(logits[2]), mix_mask=mix_mask)


def test_expanded_teacher(kernel_device):
    student = draw_logits(3, 5, 4, 4, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, 5, 1, 1, dtype=torch.float32, device=kernel_device).expand(3, 5, 4, 4)
    check_against_reference(student, teacher)


# one pixel; one row; one column; just below, at and above a program's 256 pixels (16-bit) and 128 (float32)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (15, 17), (16, 16), (1, 257), (3, 43)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sizes(kernel_device, size, dtype):
    student = draw_logits(2, 4, *size, dtype=dtype, device=kernel_device)
    teacher = draw_logits(2, 4, *size, dtype=dtype, device=kernel_device)
    check_against_reference(student, teacher)


@pytest.mark.parametrize("num_classes", [6, 34])
def test_pixel_weight_and_valid_mask(kernel_device, num_classes):
    student = draw_logits(2, num_classes, 5, 7, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(2, num_classes, 5, 7, dtype=torch.bfloat16, device=kernel_device)
    pixel_weight = torch.rand(2, 7, 5, device=kernel_device).transpose(1, 2)  # does not collapse
    valid_mask = torch.rand(5, 7, device=kernel_device).gt(0.4).expand(2, 5, 7)  # stride 0
    check_against_reference(student, teacher, pixel_weight=pixel_weight, scale=-0.5)
    check_against_reference(student, teacher, valid_mask=valid_mask)
    check_against_reference(student, teacher, pixel_weight=pixel_weight, valid_mask=valid_mask)


@pytest.mark.parametrize(("num_classes", "max_positives"), [(6, 2), (6, UNCAPPED), (34, UNCAPPED)])
def test_thresholds_of_pixels(kernel_device, num_classes, max_positives):
    student = draw_logits(2, num_classes, 5, 7, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(2, num_classes, 5, 7, dtype=torch.bfloat16, spread=1.0, device=kernel_device)
    threshold = torch.rand(2, 7, 5, device=kernel_device).transpose(1, 2)  # does not collapse
    valid_mask = torch.rand(5, 7, device=kernel_device).gt(0.4).expand(2, 5, 7)
    keywords = {"valid_mask": valid_mask, "max_positives": max_positives}
    check_against_reference(student, teacher, threshold=threshold, **keywords)


@pytest.mark.parametrize("num_classes", [6, 34])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "crop"])
def test_cutmix(kernel_device, num_classes, layout):
    student, teacher, partner = (
        draw_logits(2, num_classes, 9, 17, dtype=dtype, device=kernel_device)
        for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    partner = LAYOUTS.get(layout, lambda x: x)(partner)
    mix_mask = torch.rand(2, 9, 17, device=kernel_device) > 0.5
    mix_mask[0] = False  # blocks of one side only
    check_against_reference(student, teacher, partner=partner, mix_mask=mix_mask)


@pytest.mark.parametrize("num_classes", [6, 34])
def test_confidence(kernel_device, num_classes):
    student = draw_logits(1, num_classes, 5, 7, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, num_classes, 5, 7, dtype=torch.float32, device=kernel_device)
    pixel_weight = torch.rand(1, 5, 7, device=kernel_device)
    check_against_reference(
        student, teacher, pixel_weight=pixel_weight, confidence_threshold=0.7, confidence_power=2.0, max_positives=1
    )
    check_against_reference(student, teacher, confidence_power=0.5, valid_mask=pixel_weight > 0.3)


@pytest.mark.parametrize("num_classes", [4, 33])
@pytest.mark.parametrize("form", ["smooth", "hinge"])
@pytest.mark.parametrize("poisoned", ["student", "teacher"])
def test_a_bad_logit_reaches_loss_and_gradient_only_where_valid(kernel_device, num_classes, form, poisoned):
    logits = {
        name: draw_logits(1, num_classes, 3, 5, dtype=torch.bfloat16, device=kernel_device)
        for name in ("student", "teacher")
    }
    clean = {name: x.clone() for name, x in logits.items()}
    bad = torch.zeros(1, 3, 5, dtype=torch.bool, device=kernel_device)
    # the first, a middle and the last class: the last one shares its tile with padding
    for row, c in enumerate((0, num_classes // 2, num_classes - 1)):
        for column, value in enumerate((float("nan"), float("inf"), float("-inf"))):
            logits[poisoned][0, c, row, column] = value
            bad[0, row, column] = True
    sums, grad = call_sums(**logits, form=form)
    assert sums[[0, 2, 3, 4]].isnan().all()
    assert grad.isnan().any(1).equal(bad)
    pixel_map = fuzzy_positive_map(LossInputs(**logits), OPTIONS._replace(form=form))
    assert pixel_map.isnan().equal(bad)

    sums, grad = call_sums(**logits, form=form, valid_mask=~bad)
    clean_sums, clean_grad = call_sums(**clean, form=form, valid_mask=~bad)
    assert sums.equal(clean_sums)
    assert grad.equal(clean_grad)
    assert grad.masked_select(bad.unsqueeze(1)).eq(0).all()


@pytest.mark.parametrize("num_classes", [5, 36])
def test_no_valid_pixel(kernel_device, num_classes):
    student = draw_logits(2, num_classes, 4, 5, dtype=torch.float32, device=kernel_device)
    valid_mask = torch.zeros(2, 4, 5, dtype=torch.bool, device=kernel_device)
    sums, grad = call_sums(student * float("nan"), student, valid_mask=valid_mask)
    assert sums.eq(0).all()
    assert grad.eq(0).all()


@pytest.mark.parametrize("shape", [(0, 5, 4, 4), (2, 5, 0, 4), (2, 5, 4, 0)])
def test_empty(kernel_device, shape):
    logits = torch.zeros(shape, device=kernel_device)
    sums, grad = call_sums(logits, logits)
    assert sums.tolist() == [0] * NUM_SUMS
    assert grad.shape == shape
    pixel_map = fuzzy_positive_map(LossInputs(logits, logits), OPTIONS)
    assert pixel_map.shape == (shape[0], *shape[2:])


def test_inputs_stay_and_results_repeat(kernel_device):
    student = draw_logits(1, 19, 9, 40, dtype=torch.bfloat16, device=kernel_device)
    teacher = draw_logits(1, 19, 9, 40, dtype=torch.bfloat16, device=kernel_device)
    before = student.clone(), teacher.clone()
    first = call_sums(student, teacher)
    second = call_sums(student, teacher)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])
    assert call_sums(student, teacher, with_grad=False)[1] is None


def test_one_positive_is_cross_entropy(kernel_device):
    student = draw_logits(1, 19, 8, 8, dtype=torch.float32, device=kernel_device)
    teacher = draw_logits(1, 19, 8, 8, dtype=torch.float32, device=kernel_device)
    sums, grad = call_sums(student, teacher, weighting="none", max_positives=1)
    z = student.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(z, teacher.argmax(1), reduction="sum")
    expected.backward()
    torch.testing.assert_close(sums[0], expected.detach())
    torch.testing.assert_close(sums[4], expected.detach())
    torch.testing.assert_close(grad, z.grad, rtol=1e-5, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_second_device():
    student = draw_logits(1, 19, 8, 8, dtype=torch.bfloat16, device="cuda:1")
    teacher = draw_logits(1, 19, 8, 8, dtype=torch.bfloat16, device="cuda:1")
    check_against_reference(student, teacher)


def check_losses(ours, expected, slack):
    """As assert_close, with a slack for each of them; infinite where the right value is beyond float32."""
    wanted = expected.float()
    assert torch.equal(ours.isinf(), wanted.isinf())
    error = (ours.double() - expected)[wanted.isfinite()].abs()
    assert (error <= (LOSS["atol"] + LOSS["rtol"] * expected.abs() + slack)[wanted.isfinite()]).all()


def test_ties_at_huge_logits_have_weight_zero_but_for_its_rounding(kernel_device):
    """All ranks tie, so that m = r, and the loss that the weight is multiplied by is some 10^9."""
    teacher = torch.zeros(1, 4, 8, 8, device=kernel_device) + torch.randn(1, 1, 8, 8, device=kernel_device)
    student = 1e9 * torch.randn(1, 4, 8, 8, device=kernel_device).clamp(-1, 1)
    options = OPTIONS._replace(weighting="linear", max_positives=3)
    losses = fuzzy_positive_map(LossInputs(student, teacher), options)
    unweighted = fuzzy_positive_map(LossInputs(student, teacher), options._replace(weighting="none"))
    check_losses(losses, torch.zeros_like(losses, dtype=torch.float64), WEIGHT * unweighted.double())
    assert (unweighted > 1e8).any()


@pytest.mark.parametrize(("form", "weighting"), [("smooth", "linear"), ("hinge", "none")])
@pytest.mark.parametrize(("num_classes", "dtype"), [(3, torch.float32), (5, torch.bfloat16), (34, torch.float32)])
def test_finite_logits_of_any_size_give_the_right_numbers_or_nan(kernel_device, num_classes, dtype, form, weighting):
    """Up to 10^9 they are right, and so are pixels all of whose classes but one are masked."""
    student, teacher = (draw_huge_logits(3, num_classes, 4, 11, dtype=dtype, device=kernel_device) for _ in range(2))
    student[1], teacher[1] = student[1].clamp(-1e9, 1e9), teacher[1].clamp(-1e9, 1e9)
    student[2], teacher[2] = student[2].clamp(-3, 3), teacher[2].clamp(-3, 3)
    for x in (student, teacher):
        x[2, 1:, :, ::2], x[2, 1:, :, 1::2] = -1e30, torch.finfo(dtype).min
    inputs, cap = LossInputs(student, teacher), min(3, num_classes - 1)
    options = OPTIONS._replace(form=form, weighting=weighting, max_positives=cap)
    losses = fuzzy_positive_map(inputs, options)
    sums, grad = fuzzy_positive_sums(inputs, options, scale=None, with_grad=True, with_stats=True)
    z = student.double().requires_grad_()
    keywords = {"form": form, "weighting": weighting, "max_positives": cap, "reduction": "none", "engine": "eager"}
    expected = fuzzy_positive_loss(z, teacher.double(), **keywords)
    (slopes,) = torch.autograd.grad(expected.sum(), z)
    unweighted = fuzzy_positive_loss(z, teacher.double(), **{**keywords, "weighting": "none"}).detach()
    known = ~losses.isnan()
    check_losses(losses[known], expected[known].detach(), WEIGHT * unweighted[known])
    shown = known.unsqueeze(1).expand_as(grad)
    assert_close(grad[shown], slopes[shown].to(dtype), **GRADIENT[dtype])
    assert grad[~shown].isnan().all() and known[1:].all() and not losses[2].any()
    assert not (sums == -torch.inf).any()


@pytest.mark.parametrize("masked", [slice(0, 10), slice(0, 31), slice(0, 39), slice(10, 40)])
@pytest.mark.parametrize("lowest", [-1e30, torch.finfo(torch.bfloat16).min])
@pytest.mark.parametrize("max_positives", [3, UNCAPPED])
def test_masked_classes(kernel_device, max_positives, lowest, masked):
    """Whole chunks of them, before those that are not or behind."""
    student, teacher = (draw_logits(1, 40, 3, 7, dtype=torch.bfloat16, device=kernel_device) for _ in range(2))
    student[:, masked] = teacher[:, masked] = lowest
    check_against_reference(student, teacher, max_positives=max_positives)


@pytest.mark.parametrize("num_classes", [3, 34])
def test_huge_logits_upsampled_give_no_negative_infinity(kernel_device, num_classes):
    student, teacher = (
        draw_huge_logits(2, num_classes, 3, 5, dtype=torch.float32, device=kernel_device) for _ in range(2)
    )
    inputs, options = LossInputs(student, teacher, size=(5, 9)), OPTIONS._replace(max_positives=2)
    sums, grad = fuzzy_positive_sums(inputs, options, scale=None, with_grad=True, with_stats=True)
    assert not (sums == -torch.inf).any() and not grad.isinf().any()
    assert not (fuzzy_positive_map(inputs, options) < 0).any()


@pytest.mark.parametrize(
    ("num_classes", "layout", "changes", "expected"),
    [
        (33, "contiguous", {}, True),
        (256, "crop", {"max_positives": 1}, True),
        (32, "contiguous", {}, False),
        (257, "contiguous", {}, False),
        (33, "contiguous", {"max_positives": 4}, False),
        (33, "contiguous", {"form": "hinge"}, False),
        (33, "channels_last", {}, False),
        (33, "pixel_slice", {}, False),
    ],
)
def test_many_classes_in_planes_are_streamed(num_classes, layout, changes, expected):
    logits = torch.zeros(2, num_classes, 3, 4)
    moved = LAYOUTS.get(layout, lambda x: x)(logits)
    options = OPTIONS._replace(**{"max_positives": 3, "form": "smooth", **changes})
    assert is_streamed(LossInputs(moved, moved), options) is expected
    assert is_streamed(LossInputs(logits, logits, moved, logits[:, 0] > 0), options) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="2^31 elements take minutes in the interpreter")
def test_more_than_2_to_31_elements():
    # one image of 2^25 pixels and 65 classes: class * stride_c passes 2^31 within the tile
    student = torch.zeros(1, 65, 1 << 13, 1 << 12, dtype=torch.bfloat16, device="cuda")
    student[:, 64] = 1.0
    sums, grad = call_sums(student, student, weighting="none", max_positives=1)
    assert sums[1].item() == 1 << 25
    assert grad[0, 64, -1, -1].item() < 0
    assert grad[0, 63, -1, -1].item() > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU reserves what it is asked for; see the test above")
@pytest.mark.parametrize("size", [None, (3, 9)])
@pytest.mark.parametrize(("num_classes", "step"), [(5, 3), (34, 3), (34, 1)])  # tiles, and streamed classes
def test_offsets_past_2_to_31(num_classes, step, size):
    """Logits spread over memory that is reserved but hardly touched: classes, rows and images lie far apart."""
    strides = (2**31 + 7, 2**27, 2**26 + 1, step)
    logits = draw_logits(2, num_classes, 2, 7, dtype=torch.bfloat16)
    length = 1 + sum((n - 1) * stride for n, stride in zip(logits.shape, strides, strict=True))
    storage = torch.UntypedStorage(2 * length)
    spread = torch.empty(0, dtype=torch.bfloat16).set_(storage, 0, logits.shape, strides)
    spread.copy_(logits)
    student = draw_logits(2, num_classes, 2, 7, dtype=torch.float32)
    for z, t in ((student, spread), (spread, student)):
        inputs = LossInputs(z, t, size=size)
        student_near, teacher_near = (x.repeat_interleave(step, 3)[..., ::step] for x in (z, t))
        near = inputs._replace(student=student_near, teacher=teacher_near)
        actual, expected = (
            fuzzy_positive_sums(x, OPTIONS, scale=None, with_grad=True, with_stats=True) for x in (inputs, near)
        )
        assert torch.equal(actual[0], expected[0])
        assert torch.equal(actual[1], expected[1])
