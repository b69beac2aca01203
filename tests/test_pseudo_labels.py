"""Predictions from low-resolution logits: the engines against softmax, argmax and the assignment of the loss."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import decided, draw_logits
from tolerances import EXACT, LOSS
from torch.library import opcheck
from torch.testing import assert_close

from fpl_fast import cross_entropy, pseudo_labels, reference
from fpl_fast.engines import eager_pseudo_labels
from fpl_fast.ops.pseudo_labels import pseudo_labels as operator

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["eager", "triton"])
def engine(request):
    """Engines of predictions."""
    return request.param


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors where the Triton engine can run."""
    with torch.device(DEVICE):
        yield


def check(found, logits, threshold, max_positives):
    """Against float64; labels where the two largest logits differ, K where it does not hang on rounding."""
    exact = logits.double()
    p = exact.softmax(1)
    expected = reference.assign_positives(exact, 0.9 if threshold is None else threshold, max_positives)
    assert_close(found.confidence.double(), expected.confidence, **LOSS)
    assert_close(found.entropy.double(), torch.special.entr(p).sum(1), **LOSS)
    two = exact.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 1e-5 * two[:, 0].abs()
    assert torch.equal(found.label.long()[clear], expected.pseudo_label[clear]) and clear.float().mean() > 0.5
    if threshold is None:
        assert found.num_positives is None
    else:
        sure = decided(exact, threshold)
        assert torch.equal(found.num_positives.long()[sure], expected.num_positives[sure]) and sure.any()


CASES = [
    ((2, 2, 5, 7), torch.float32, None, None),
    ((1, 19, 3, 37), torch.bfloat16, 0.9, 3),
    ((2, 6, 4, 9), torch.float32, 0.7, 2),
    ((1, 9, 3, 5), torch.float16, 0.99, None),
    ((1, 36, 2, 5), torch.float32, 0.9, None),
    ((1, 40, 2, 3), torch.bfloat16, 0.5, 3),
]


@pytest.mark.parametrize(("shape", "dtype", "threshold", "max_positives"), CASES)
def test_full_resolution(engine, shape, dtype, threshold, max_positives):
    """In any layout."""
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = draw_logits(*shape, dtype=dtype, device=DEVICE).contiguous(memory_format=layout)
        found = pseudo_labels(logits, threshold=threshold, max_positives=max_positives, engine=engine)
        check(found, logits, threshold, max_positives or shape[1] - 1)
        assert (found.label.dtype, found.confidence.dtype) == (torch.uint8, torch.float32)


@pytest.mark.parametrize(("num_classes", "align_corners"), [(5, True), (7, False), (34, True)])
def test_upsampled_and_mixed(engine, num_classes, align_corners):
    teacher = draw_logits(2, num_classes, 3, 4, dtype=torch.bfloat16, device=DEVICE)
    partner = draw_logits(2, num_classes, 4, 3, dtype=torch.float32, device=DEVICE).transpose(2, 3)
    size, mask = (7, 11), torch.rand(2, 7, 11) > 0.5
    keywords = {"size": size, "align_corners": align_corners, "engine": engine, "threshold": 0.8}
    own, other = (
        F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners) for x in (teacher, partner)
    )
    check(pseudo_labels(teacher, **keywords), own, 0.8, num_classes - 1)
    mixed = torch.where(mask.unsqueeze(1), other, own)
    check(pseudo_labels(teacher, partner_logits=partner, mix_mask=mask, **keywords), mixed, 0.8, num_classes - 1)


def test_ties_go_to_the_lower_class(engine):
    logits = draw_logits(1, 40, 4, 50, dtype=torch.float32, ties=True, device=DEVICE)
    expected = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert torch.equal(pseudo_labels(logits, engine=engine).label.long(), expected)
    assert (logits == logits.amax(1, keepdim=True)).sum(1).max() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_classes_and_logits_that_are_not_finite(engine, dtype):
    """-inf and the lowest number are no classes; NaN and inf show; a neighbour is as it was."""
    logits = draw_logits(1, 5, 2, 6, dtype=dtype, device=DEVICE)
    logits[:, 3], logits[:, 4] = -torch.inf, torch.finfo(dtype).min
    found = pseudo_labels(logits, engine=engine, threshold=0.9)
    p = logits[:, :3].double().softmax(1)
    assert_close(found.entropy.double(), torch.special.entr(p).sum(1), **LOSS)
    assert torch.equal(found.label.long(), logits[:, :3].argmax(1))
    assert torch.equal(found.num_positives, pseudo_labels(logits[:, :3], engine="eager", threshold=0.9).num_positives)
    logits[0, 1, 0, 0], logits[0, 2, 1, 1], logits[0, :, 1, 5] = torch.nan, torch.inf, -torch.inf
    broken = torch.zeros(1, 2, 6, dtype=torch.bool)
    broken[0, 0, 0] = broken[0, 1, 1] = broken[0, 1, 5] = True
    again = pseudo_labels(logits, engine=engine)
    for before, after in zip(found[1:3], again[1:3], strict=True):
        assert torch.equal(after.isnan(), broken) and torch.equal(after[~broken], before[~broken])
    assert again.label.max() < 5


def test_large_logits_lose_nothing(engine):
    """Differences count, not sizes."""
    logits = torch.tensor([3e4, 3e4 - 1, 0]).view(1, 3, 1, 1)
    found = pseudo_labels(logits, engine=engine)
    assert_close(found.confidence.flatten(), torch.tensor([1.0, 0.0]).softmax(0)[:1], **LOSS)


def test_any_number_of_classes_and_pixels(engine):
    """More classes than a byte holds; no image, no pixel, one pixel; the labels fit the losses."""
    many = draw_logits(1, 300, 1, 3, dtype=torch.float32, device=DEVICE)
    label = pseudo_labels(many, engine=engine).label
    assert label.dtype == torch.int32 and torch.equal(label.long(), many.argmax(1))
    loss = cross_entropy(many, label, ignore_index=-1, engine=engine)  # class 255 exists, and counts
    assert_close(loss, F.cross_entropy(many, many.argmax(1)), **LOSS)
    for shape in ((0, 3, 2, 2), (2, 3, 0, 4), (1, 3, 1, 1)):
        found = pseudo_labels(torch.randn(shape), engine=engine, threshold=0.9)
        assert all(x.shape == (shape[0], *shape[2:]) for x in found)


def test_chunks_of_pixels(monkeypatch):
    logits = draw_logits(2, 6, 9, 13, dtype=torch.float64, device=DEVICE)
    whole = pseudo_labels(logits, threshold=0.9, engine="eager")
    monkeypatch.setattr(eager_pseudo_labels, "UPSAMPLED_CHUNK_PIXELS", 7)
    parts = pseudo_labels(logits, threshold=0.9, engine="eager")
    assert torch.equal(parts.label, whole.label) and torch.equal(parts.num_positives, whole.num_positives)
    assert_close(parts.entropy, torch.special.entr(logits.softmax(1)).sum(1), **EXACT)
    assert parts.confidence.dtype == torch.float64


def test_inside_pytorch():
    """opcheck, a compiler, no gradient."""
    teacher, mask = torch.randn(1, 5, 4, 6, requires_grad=True), torch.rand(1, 4, 6) > 0.5
    options = {"align_corners": True, "max_positives": 4, "engine": "eager"}
    opcheck(operator, (teacher.detach(), None, None), {"size": None, "threshold": None, **options})
    opcheck(operator, (teacher.detach(), -teacher.detach(), mask), {"size": (4, 6), "threshold": 0.9, **options})

    def confident(teacher):
        found = pseudo_labels(teacher, size=(8, 12))
        return found.label, found.confidence > 0.5

    for ours, expected in zip(
        torch.compile(confident, fullgraph=True, backend="aot_eager")(teacher), confident(teacher), strict=True
    ):
        assert torch.equal(ours, expected) and not ours.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0}, r"threshold must lie in \(0, 1\], got 0; the paper's is 0.9"),
        ({"threshold": torch.ones(1, 2, 2)}, "threshold must be a number"),
        ({"max_positives": 0}, "max_positives must be an integer >= 1 or None, got 0"),
        ({"engine": "compiled"}, "engine must be one of 'auto', 'triton', 'eager', got 'compiled'"),
        ({"size": 4}, r"size must be \(H, W\)"),
        ({"mix_mask": torch.ones(1, 2, 2)}, "partner_logits and mix_mask must be given together"),
        ({"teacher_logits": torch.ones(1, 1, 2, 2)}, "teacher_logits"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        pseudo_labels(**{"teacher_logits": torch.randn(1, 6, 2, 2)} | arguments)
    assert "\n" not in str(caught.value)
