"""The kernel that upsamples in registers, against upsampling first, in float64."""

import pytest
import torch
from kernel_cases import check_against_reference, draw_logits, fuzzy_positive_sums
from tolerances import GRADIENT, SUMS
from torch.testing import assert_close

from fpl_fast.kernels import upsampled
from fpl_fast.kernels.arguments import LossInputs, LossOptions
from fpl_fast.kernels.configs import Strips


def draw(num_classes, height, width, *, n=1, dtype=torch.float32, device="cpu"):
    return draw_logits(n, num_classes, height, width, dtype=dtype, device=device)


# scales 2, 4, 8; not integer; more columns than a program owns; more columns of a sample than are loaded at once; more
# cell rows than columns; the same size; down; one row, one column, one pixel on either side
SIZES = [
    ((3, 4), (6, 8)),
    ((2, 3), (8, 12)),
    ((2, 2), (16, 16)),
    ((4, 5), (7, 13)),
    ((2, 40), (3, 150)),
    ((3, 3), (5, 100)),
    ((10, 2), (11, 5)),
    ((3, 4), (3, 4)),
    ((7, 8), (4, 3)),
    ((1, 6), (3, 13)),
    ((6, 1), (9, 2)),
    ((1, 1), (4, 3)),
    ((4, 5), (1, 1)),
    ((1, 1), (1, 1)),
]


# A class alone in its block; blocks of every size; one block.
@pytest.mark.parametrize("num_classes", [2, 3, 12, 21, 31, 32])
def test_numbers_of_classes(kernel_device, num_classes):
    """They are loaded and stored in blocks, by the binary digits of their number."""
    student, teacher = (draw(num_classes, 2, 3, n=2, device=kernel_device) for _ in range(2))
    check_against_reference(student, teacher, size=(3, 5))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_sizes(kernel_device, low, size, align_corners):
    student, teacher = (draw(4, *low, device=kernel_device) for _ in range(2))
    check_against_reference(student, teacher, size=size, align_corners=align_corners, scale=0.5)


@pytest.mark.parametrize("num_classes", [2, 19, 33])
@pytest.mark.parametrize(
    ("max_positives", "weighting", "form"), [(1, "none", "smooth"), (3, "linear", "hinge"), (99, "concave", "smooth")]
)
def test_options(kernel_device, num_classes, max_positives, weighting, form):
    student, teacher = (draw(num_classes, 3, 5, device=kernel_device) for _ in range(2))
    check_against_reference(
        student, teacher, size=(4, 14), max_positives=max_positives, weighting=weighting, form=form, threshold=0.95
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(kernel_device, dtype, layout):
    student, teacher = (
        draw(6, 5, 4, n=2, dtype=dtype, device=kernel_device).contiguous(memory_format=layout) for _ in range(2)
    )
    check_against_reference(student, teacher.float(), size=(7, 9))
    check_against_reference(student.float()[:, :, 1:, :-1], teacher[:, :, 1:, :-1], size=(6, 9))


@pytest.mark.parametrize("num_classes", [5, 34])
def test_masks_weights_and_cutmix(kernel_device, num_classes):
    student, teacher, partner = (draw(num_classes, 3, 3, n=2, device=kernel_device) for _ in range(3))
    size = (5, 10)
    weight = torch.rand(2, *size, device=kernel_device)
    valid_mask = torch.rand(2, *size, device=kernel_device) > 0.3
    valid_mask[1, 2:] = False  # cell rows without a valid pixel
    mix_mask = torch.zeros(2, *size, dtype=torch.bool, device=kernel_device)
    mix_mask[0, 2:4, 2:7] = True  # cell rows of either side only, and mixed ones
    mix_mask[1] = True
    if num_classes == 5:  # each by itself, too; the interpreter takes ten times as long for 34
        check_against_reference(student, teacher, size=size, valid_mask=valid_mask, pixel_weight=weight)
        check_against_reference(student, teacher, size=size, partner=partner, mix_mask=mix_mask, confidence_power=2.0)
    partner = partner.contiguous(memory_format=torch.channels_last)
    mixed = {"partner": partner, "mix_mask": mix_mask, "confidence_power": 2.0}
    check_against_reference(student, teacher, size=size, valid_mask=valid_mask, pixel_weight=weight, **mixed)


@pytest.mark.parametrize(("num_classes", "max_positives"), [(5, 99), (34, 3)])
def test_thresholds_of_pixels(kernel_device, num_classes, max_positives):
    student, teacher, partner = (draw(num_classes, 2, 3, device=kernel_device) for _ in range(3))
    size = (3, 5)
    threshold = torch.rand(1, *size[::-1], device=kernel_device).transpose(1, 2)
    mix_mask = torch.rand(1, *size, device=kernel_device) > 0.5
    keywords = {"size": size, "threshold": threshold, "max_positives": max_positives}
    check_against_reference(student, teacher, partner=partner, mix_mask=mix_mask, **keywords)


def test_a_single_column_has_no_neighbour(kernel_device):
    """The memory behind it is another tensor's."""
    student, teacher = (draw(5, 3, 2, device=kernel_device) for _ in range(2))
    for logits in (student, teacher):
        logits[..., 1] = float("nan")
    check_against_reference(student[..., :1], teacher[..., :1], size=(5, 4))


def test_a_mask_that_is_true_changes_nothing(kernel_device):
    """With a mask the teacher's rows are loaded for each cell row, without one they are carried to the next."""
    student, teacher = (draw(5, 6, 4, device=kernel_device) for _ in range(2))
    inputs, options = LossInputs(student, teacher, size=(13, 9)), LossOptions(0.9, 3, "concave", 1.0, "smooth")
    masked = inputs._replace(valid_mask=torch.ones(1, 13, 9, dtype=torch.bool, device=kernel_device))
    keywords = {"scale": None, "with_grad": True, "with_stats": True}
    sums, gradient = fuzzy_positive_sums(masked, options, **keywords)
    expected_sums, expected_gradient = fuzzy_positive_sums(inputs, options, **keywords)
    assert_close(sums, expected_sums, **SUMS)
    assert_close(gradient, expected_gradient, **GRADIENT[torch.float32])


def test_ties_go_to_the_lower_class(kernel_device):
    """Scale 2 with corners aligned to samples that tie: interpolated halves are exact."""
    student = draw(7, 4, 4, device=kernel_device)
    teacher = draw(7, 4, 4, device=kernel_device).round()
    check_against_reference(student, teacher, size=(7, 7), threshold=0.8, exact_ties=True)
    check_against_reference(student, teacher.clamp(-1, 1), size=(7, 7), max_positives=99, exact_ties=True)


@pytest.mark.parametrize(("cells", "images"), [(1, 3), (2, 1), (4, 2), (7, 1)])
def test_any_strips(kernel_device, cells, images, monkeypatch):
    """Strips that divide the six cell rows, or do not, or hold more; three images in one launch or in several."""
    student, teacher = (draw(3, 6, 4, n=3, device=kernel_device) for _ in range(2))
    monkeypatch.setattr(upsampled, "choose_strips", lambda *_: Strips(cells, images))
    check_against_reference(student, teacher, size=(11, 5), scale=0.5)


def test_images_in_several_launches(kernel_device, monkeypatch):
    student, teacher = (draw(5, 6, 7, n=5, device=kernel_device) for _ in range(2))
    found = []
    for images in (5, 2):
        monkeypatch.setattr(upsampled, "choose_strips", lambda *_, images=images: Strips(2, images))
        found.append(sums_and_gradient(student, teacher, (7, 12)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_bad_logit_stays_where_it_is_seen(kernel_device):
    student, teacher = (draw(5, 4, 4, device=kernel_device) for _ in range(2))
    teacher[0, 2, 0, 0] = float("nan")
    _, grad = sums_and_gradient(student, teacher, (8, 8))
    assert grad.isnan()[0, :, :2, :2].all() and grad.isfinite()[0, :, 2:].all()
    valid_mask = torch.ones(1, 8, 8, dtype=torch.bool, device=kernel_device)
    valid_mask[0, :3, :3] = False
    _, grad = sums_and_gradient(student, teacher, (8, 8), valid_mask=valid_mask)
    assert grad.isfinite().all()


def sums_and_gradient(student, teacher, size, valid_mask=None):
    options = LossOptions(0.9, 3, "none", 1.0, "smooth")
    inputs = LossInputs(student, teacher, valid_mask=valid_mask, size=size)
    return fuzzy_positive_sums(inputs, options, scale=None, with_grad=True, with_stats=True)
