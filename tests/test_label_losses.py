"""Losses with labels: what each engine promises."""

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import EXACT, GRADIENT, INVARIANT, LOSS
from torch.library import opcheck
from torch.testing import assert_close

from fpl_fast import cross_entropy, ohem_cross_entropy, positive_gradient_score
from fpl_fast.checks import shown
from fpl_fast.ops.cross_entropy import cross_entropy_map, cross_entropy_operator

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
IGNORE = 255
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(params=["eager", "triton"])
def engine(request):
    """Engine of the losses with labels."""
    return request.param


def draw(num_classes=5, low=(4, 5), high=None, *, dtype=torch.float32, target_dtype=torch.int64):
    logits = (3 * torch.randn(2, num_classes, *low, device=DEVICE)).to(dtype).requires_grad_()
    target = torch.randint(0, num_classes, (2, *(high or low)), device=DEVICE)
    target[torch.rand(target.shape, device=DEVICE) < 0.2] = IGNORE
    return logits, target.to(target_dtype)


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("num_classes", [2, 19, 33])
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.int32, torch.int64])
def test_is_pytorchs(engine, num_classes, target_dtype):
    logits, target = draw(num_classes, target_dtype=target_dtype)
    weight = torch.rand(num_classes, device=DEVICE)
    strided = torch.rand(2 * num_classes, device=DEVICE)[::2]
    for keywords in ({}, {"weight": weight}, {"weight": strided}):
        for reduction in ("mean", "sum", "none"):
            loss = cross_entropy(logits, target, reduction=reduction, engine=engine, **keywords)
            expected = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction=reduction, **keywords)
            assert_close(loss, expected, **LOSS)
            upstream = torch.rand_like(loss)
            ours, theirs = (gradient((x * upstream).sum(), logits) for x in (loss, expected))
            assert_close(ours, theirs, **GRADIENT[torch.float32])


def test_past_the_largest_exponent(engine):
    """Times log2(e), a logit past 2.36e38 is infinite: the right number or NaN, never another one."""
    logits, target = (x.detach() for x in draw())
    logits[0, 1] = 3e38
    logits[1, :, :2] = 3e38
    logits[1, :, 2:] = -3e38
    exact = (logits.double() - logits.double().amax(1, keepdim=True)).requires_grad_()
    logits.requires_grad_()
    loss = cross_entropy(logits, target, reduction="none", engine=engine)
    expected = F.cross_entropy(exact, target, ignore_index=IGNORE, reduction="none")
    for actual, wanted in ((loss, expected), (gradient(loss.sum(), logits), gradient(expected.sum(), exact))):
        known = ~actual.isnan()
        assert_close(actual.double()[known], wanted[known], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "high"), [((4, 5), (7, 13)), ((3, 3), (12, 12)), ((1, 1), (3, 4)), ((5, 6), (3, 4))])
def test_upsampling(engine, low, high, align_corners):
    logits, target = draw(6, low, high)
    pixel_weight = torch.rand(target.shape, device=DEVICE)
    loss = cross_entropy(
        logits, target, size=high, align_corners=align_corners, pixel_weight=pixel_weight, engine=engine
    )
    exact = logits.detach().double().requires_grad_()
    upsampled = F.interpolate(exact, high, mode="bilinear", align_corners=align_corners)
    losses = F.cross_entropy(upsampled, target, ignore_index=IGNORE, reduction="none")
    expected = (pixel_weight * losses).sum() / pixel_weight[target != IGNORE].sum()
    assert_close(loss.double(), expected, **LOSS)
    assert_close(gradient(loss, logits).double(), gradient(expected, exact), **GRADIENT[torch.float32])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_and_layouts(engine, dtype):
    logits, target = draw(19, dtype=dtype)
    exact = logits.detach().double().requires_grad_()
    expected = gradient(F.cross_entropy(exact, target, ignore_index=IGNORE), exact)
    for layout in (torch.contiguous_format, torch.channels_last):
        view = logits.detach().contiguous(memory_format=layout).requires_grad_()
        g = gradient(cross_entropy(view, target, engine=engine), view)
        assert g.dtype == dtype and g.stride() == view.stride()
        assert_close(g.double(), expected, **GRADIENT[dtype])


def test_bad_values(engine):
    logits, target = draw()
    poisoned = logits.detach().clone()
    poisoned[0, 1, 0, 0] = float("nan")
    poisoned.requires_grad_()
    target[0, 0, 0] = 1
    loss = cross_entropy(poisoned, target, engine=engine)
    assert loss.isnan() and gradient(loss, poisoned)[0, :, 0, 0].isnan().all()
    target[0, 0, 0] = IGNORE
    loss = cross_entropy(poisoned, target, engine=engine)
    assert loss.isfinite() and gradient(loss, poisoned).isfinite().all()
    target[0, 0, 0] = 200  # neither a class nor ignored
    assert cross_entropy(logits, target, engine=engine).isnan()
    target[0, 0, 0] = IGNORE
    pixel_weight = torch.rand(target.shape, device=DEVICE).masked_fill(target == IGNORE, float("nan"))
    loss = cross_entropy(logits, target, pixel_weight=pixel_weight, engine=engine)
    assert_close(loss, cross_entropy(logits, target, pixel_weight=pixel_weight.nan_to_num(7), engine=engine))
    nothing = cross_entropy(logits, torch.full_like(target, IGNORE), engine=engine)
    assert nothing == 0 and not gradient(nothing, logits).any()


def test_labels_do_not_wrap(engine):
    """44 as uint8 is 300 modulo 256; 2^32 + 3 as int32 is 3."""
    logits = torch.randn(1, 60, 2, 2, device=DEVICE)
    target = torch.full((1, 2, 2), 44, device=DEVICE)
    expected = F.cross_entropy(logits, target)
    assert_close(cross_entropy(logits, target.to(torch.uint8), ignore_index=300, engine=engine), expected, **LOSS)
    assert cross_entropy(logits, target + 2**32, engine=engine).isnan()


@pytest.mark.parametrize("ignore_index", [2**32, 2**32 + 3, 256, 259, -1, -(2**40), -(2**63), 2**63 - 1, -253])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("size", [None, (3, 4)])
def test_an_ignore_index_that_is_no_label_ignores_nothing(engine, dtype, size, ignore_index):
    """Though it may equal one modulo 2^8 or 2^32; compiled, too."""
    logits = torch.randn(1, 5, 3, 4, device=DEVICE)
    target = torch.randint(0, 5, (1, 3, 4), device=DEVICE)
    target[0, 0, :2] = torch.tensor([0, 3], device=DEVICE)
    expected = F.cross_entropy(logits, target)
    keywords = {"ignore_index": ignore_index, "size": size, "engine": engine}
    assert_close(cross_entropy(logits, target.to(dtype), **keywords), expected, **LOSS)
    if engine == "eager":
        torch._dynamo.reset()  # each case would be one more graph of the same code
        step = torch.compile(lambda z, y: cross_entropy(z, y, **keywords), fullgraph=True, backend="aot_eager")
        assert_close(step(logits, target.to(dtype)), expected, **LOSS)
        probable = positive_gradient_score(logits, logits, target.to(dtype), ignore_index=ignore_index)
        assert (probable.case > 0).all()
        mined = ohem_cross_entropy(logits, target.to(dtype), min_kept=12, **keywords)
        assert_close(mined, expected, **LOSS)


@pytest.mark.parametrize("ignore_index", [None, "255", [255], 255.0, True, 2**63, torch.tensor(255)])
def test_an_ignore_index_is_an_integer(ignore_index):
    logits, target = torch.randn(1, 5, 3, 4), torch.zeros(1, 3, 4, dtype=torch.uint8)
    rule = re.escape(f"ignore_index must be one integer of at most 64 bits, got {shown(ignore_index)}; give -1 where")
    for call in (
        lambda: cross_entropy(logits, target, ignore_index=ignore_index),
        lambda: ohem_cross_entropy(logits, target, min_kept=2, ignore_index=ignore_index),
        lambda: positive_gradient_score(logits, logits, target, ignore_index=ignore_index),
    ):
        with pytest.raises(ValueError, match=rule):
            call()


def test_an_ignore_index_of_numpy():
    logits, target = draw(target_dtype=torch.uint8)
    expected = cross_entropy(logits, target)
    assert_close(cross_entropy(logits, target, ignore_index=np.uint8(255)), expected, **INVARIANT)


def test_operators():
    logits, target = draw()
    with torch.device(DEVICE):
        weight, pixel_weight, one = torch.rand(5), torch.rand(2, 7, 8), torch.ones(())
        up = torch.randint(0, 5, (2, 7, 8))
    plain = {"ignore_index": IGNORE, "size": None, "align_corners": True, "engine": "eager"}
    opcheck(cross_entropy_operator, (logits, target, weight, None, one), plain | {"with_grad": True})
    tensors, upsampled = (logits, up, None, pixel_weight), plain | {"size": [7, 8], "align_corners": False}
    opcheck(cross_entropy_operator, (*tensors, one), upsampled | {"with_grad": True})
    opcheck(cross_entropy_map, tensors, upsampled)


def test_compiles_whole():
    logits, target = draw(5, (4, 5), (8, 9))
    step = torch.compile(lambda z, y: cross_entropy(2 * z, y, size=(8, 9)), fullgraph=True, backend="aot_eager")
    loss, expected = step(logits, target), cross_entropy(2 * logits, target, size=(8, 9))
    assert_close(loss, expected, **INVARIANT)
    assert_close(gradient(loss, logits), gradient(expected, logits), **INVARIANT)


def literal_ohem(logits, target, min_kept, threshold, group_size=1):
    """Group by group, as the spec reads; the images of a group side by side."""
    losses = []
    for z, y in zip(logits.split(group_size), target.split(group_size), strict=True):
        z, y = torch.cat(z.unbind(), dim=-1), torch.cat(y.unbind(), dim=-1)
        valid = y != IGNORE
        p = z.softmax(0).gather(0, y.where(valid, 0)[None])[0].where(valid, 1.0)
        kept = valid
        if min_kept <= valid.sum():
            kept = valid & (p <= max(threshold, p.flatten().sort().values[min_kept - 1].item()))
        ce = -z.log_softmax(0).gather(0, y.where(valid, 0)[None])[0]
        losses.append(ce[kept].mean() if kept.any() else 0 * z.sum())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("group_size", [1, 2])
@pytest.mark.parametrize("min_kept", [1, 20, 60, 1000])  # few, some, nearly all, more than there are
def test_ohem_is_the_literal_version(min_kept, group_size):
    logits, target = draw(5, (6, 7), (9, 11))
    exact = logits.detach().double().requires_grad_()
    loss = ohem_cross_entropy(exact, target, min_kept=min_kept, size=(9, 11), group_size=group_size)
    upsampled = F.interpolate(exact, (9, 11), mode="bilinear", align_corners=True)
    expected = literal_ohem(upsampled, target, min_kept, 0.7, group_size)
    assert_close(loss, expected, **EXACT)
    assert_close(gradient(loss, exact), gradient(expected, exact), **EXACT)


@pytest.mark.parametrize("group_size", [1, 2])
def test_ohem_takes_targets_with_any_strides(group_size):
    logits, target = draw(4, (5, 6))
    padded = F.pad(target, (2, 1, 1, 3))
    views = [target.mT.contiguous().mT, padded[:, 1:-3, 2:-1], target.repeat_interleave(2, dim=2)[..., ::2]]
    expected = ohem_cross_entropy(logits, target, min_kept=5, group_size=group_size)
    for view in views:
        assert not view.is_contiguous()
        assert ohem_cross_entropy(logits, view, min_kept=5, group_size=group_size) == expected


def test_ohem_of_an_easy_and_a_hard_image():
    """Mined together, all pixels kept are the hard image's; mined alone, either image gives half."""
    target = torch.randint(19, (2, 300, 300))
    margin = torch.tensor([9.0, 2.0]).view(2, 1, 1, 1)
    logits = margin * F.one_hot(target, 19).movedim(-1, 1)
    easy, hard = (math.log(1 + 18 * math.exp(-m)) for m in (9, 2))
    together = ohem_cross_entropy(logits, target, min_kept=90_000, group_size=2)
    alone = ohem_cross_entropy(logits, target, min_kept=45_000)
    assert_close(together, torch.tensor(hard), rtol=1e-5, atol=0)
    assert_close(alone, torch.tensor((easy + hard) / 2), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("group_size", "rule"), [(0, "an integer >= 1"), (1.5, "an integer"), (3, "a divisor of the 2")]
)
def test_ohem_groups_divide_the_images(group_size, rule):
    logits, target = draw()
    with pytest.raises(ValueError, match=f"group_size must be {rule}.*, got {group_size}"):
        ohem_cross_entropy(logits, target, min_kept=3, group_size=group_size)


def test_ohem_in_float16_survives_a_scaler():
    """Divided by the pixels kept, a gradient underflows; times the loss scale it does not."""
    logits, target = draw(5, (100, 100), (200, 200), dtype=torch.float16)
    upsampled = F.interpolate(logits.detach().double(), (200, 200), mode="bilinear", align_corners=True)
    p = upsampled.softmax(1).gather(1, target.where(target != IGNORE, 0)[:, None])[:, 0]
    target[(p - 0.7).abs() < 1e-4] = IGNORE  # the cut: closer to it, rounding would decide which pixels are kept
    scale = 2.0**14
    g = gradient(scale * ohem_cross_entropy(logits, target, min_kept=20_000, size=(200, 200)), logits)
    exact = logits.detach().double().requires_grad_()
    expected = gradient(scale * ohem_cross_entropy(exact, target, min_kept=20_000, size=(200, 200)), exact)
    assert_close(g.double(), expected, **GRADIENT[torch.float16])


def test_ohem_without_pixels_is_zero():
    logits = torch.zeros(1, 5, 0, 3, requires_grad=True)
    assert ohem_cross_entropy(logits, torch.zeros(1, 0, 3, dtype=torch.int64), min_kept=3) == 0


def test_ohem_without_labels_is_zero():
    logits, target = draw()
    loss = ohem_cross_entropy(logits, torch.full_like(target, IGNORE), min_kept=3)
    assert loss == 0 and not gradient(loss, logits).any()
