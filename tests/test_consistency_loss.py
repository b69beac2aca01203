"""The consistency loss: each engine against the reference in float64, and what it promises."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import draw_logits
from tolerances import EXACT, GRADIENT, INVARIANT, LOSS, SUMS
from torch.library import opcheck
from torch.testing import assert_close

from fpl_fast import consistency_loss
from fpl_fast.engines import eager_consistency, planes
from fpl_fast.ops.consistency import consistency_map, consistency_operator
from fpl_fast.reference import softmax_distance

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE, PIXELS = (2, 5, 4, 9), (2, 4, 9)


@pytest.fixture(params=["mse", "kl"])
def kind(request):
    """Kinds of distance."""
    return request.param


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors where the Triton engine can run."""
    with torch.device(DEVICE):
        yield


def gradient(loss, student, upstream=None):
    return torch.autograd.grad(loss, student, upstream, retain_graph=True)[0]


def check(student, teacher, masked, *, size=None, align_corners=True, partner_logits=None, mix_mask=None, **keywords):
    """Sum or mean and losses of pixels, with their gradients, against the reference in float64."""

    def up(x):
        x = x.double()
        return x if size is None else F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    exact, student = student.detach().double().requires_grad_(), student.detach().requires_grad_()
    t = up(teacher)
    if partner_logits is not None:
        t = torch.where(mix_mask.unsqueeze(1), up(partner_logits), t)
    distance = softmax_distance(up(exact), t, keywords["kind"])
    valid, weight = torch.rand(distance.shape) > 0.3, torch.rand(distance.shape)
    places = {"size": size, "align_corners": align_corners, "partner_logits": partner_logits, "mix_mask": mix_mask}
    places |= {"valid_mask": valid, "pixel_weight": weight} if masked else {}
    pixels = (distance * weight).masked_fill(~valid, 0) if masked else distance
    total = ("mean", pixels.sum() / valid.sum(), LOSS) if masked else ("sum", pixels.sum(), SUMS)
    for reduction, expected, close in (("none", pixels, LOSS), total):
        loss = consistency_loss(student, teacher, reduction=reduction, **places, **keywords)
        assert loss.dtype == torch.float32
        assert_close(loss.double(), expected, **close)
        upstream = torch.rand_like(loss) if reduction == "none" else torch.ones(())
        g, wanted = gradient(loss, student, upstream), gradient(expected, exact, upstream.double())
        assert g.dtype == student.dtype and g.stride() == torch.empty_like(student).stride()
        assert_close(g.double(), wanted, **GRADIENT[student.dtype])
        assert wanted.abs().sum() > 0


def few_enough(engine, num_classes):
    return min(num_classes, planes.MAX_CLASSES) if engine == "compiled" else num_classes


CASES = [
    ((2, 2, 5, 7), torch.float32, torch.float32),
    ((1, 19, 3, 23), torch.bfloat16, torch.float32),
    ((1, 9, 3, 5), torch.float16, torch.bfloat16),
    ((1, 36, 2, 5), torch.float32, torch.float32),
]


@pytest.mark.parametrize(("shape", "dtype", "dtype_of_teacher"), CASES)
def test_full_resolution(engine, kind, shape, dtype, dtype_of_teacher):
    """In two layouts, one with weights, mask and CutMix."""
    shape = (shape[0], few_enough(engine, shape[1]), *shape[2:])
    student = draw_logits(*shape, dtype=dtype, device=DEVICE)
    teacher, partner = (draw_logits(*shape, dtype=dtype_of_teacher, device=DEVICE) for _ in range(2))
    check(student, teacher, False, kind=kind, engine=engine)
    mask = torch.rand(shape[0], *shape[2:]) > 0.5
    student, teacher = (x.contiguous(memory_format=torch.channels_last) for x in (student, teacher))
    check(student, teacher, True, partner_logits=partner, mix_mask=mask, kind=kind, engine=engine)


@pytest.mark.parametrize(
    ("num_classes", "size", "align_corners", "kind", "mixed"),
    [
        (5, (5, 7), True, "mse", True),
        (6, (4, 5), False, "kl", True),
        (3, (2, 3), True, "kl", False),
        (4, (7, 6), False, "mse", False),
        (34, (3, 4), True, "mse", False),
        (34, (2, 3), True, "kl", True),
    ],
)
def test_upsampled_and_mixed(engine, num_classes, size, align_corners, kind, mixed):
    low = (2, 3) if num_classes > 32 else (3, 4)
    num_classes = few_enough(engine, num_classes)
    student = draw_logits(1, num_classes, *low, dtype=torch.float32, device=DEVICE)
    teacher = draw_logits(1, num_classes, *low, dtype=torch.bfloat16, device=DEVICE)
    partner = draw_logits(1, num_classes, *low[::-1], dtype=torch.float32, device=DEVICE).transpose(2, 3)
    places = {"partner_logits": partner, "mix_mask": torch.rand(1, *size) > 0.5} if mixed else {}
    check(student, teacher, mixed, size=size, align_corners=align_corners, kind=kind, engine=engine, **places)


def test_is_pytorchs(engine):
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    q = teacher.softmax(1)
    of_classes = {
        "mse": F.mse_loss(student.softmax(1), q, reduction="none"),
        "kl": F.kl_div(student.log_softmax(1), q, reduction="none"),
    }
    for kind, expected in of_classes.items():
        loss = consistency_loss(student, teacher, kind=kind, engine=engine)
        assert_close(loss, expected.sum(1).mean(), **LOSS)
        assert_close(gradient(loss, student), gradient(expected.sum(1).mean(), student), **GRADIENT[torch.float32])


def test_what_changes_nothing(engine, kind):
    """Equal predictions are at no distance; offsets and the order of classes do not count."""
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    same = consistency_loss(student, student.detach() + 2, kind=kind, engine=engine)
    assert_close(same, torch.zeros(()), **INVARIANT)
    assert_close(gradient(same, student), torch.zeros(SHAPE), **INVARIANT)
    loss = consistency_loss(student, teacher, kind=kind, reduction="sum", engine=engine)
    g = gradient(loss, student)
    assert_close(g.sum(1), torch.zeros(PIXELS), **INVARIANT)
    order, (shift, other) = torch.randperm(SHAPE[1]), 4 * torch.randn(2, 2, 1, 4, 9)
    moved = consistency_loss(
        student[:, order] + shift, teacher[:, order] + other, kind=kind, reduction="sum", engine=engine
    )
    assert_close(moved, loss, **INVARIANT)
    assert_close(gradient(moved, student), g, **INVARIANT)
    assert g.abs().sum() > 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["student", "teacher"])
def test_non_finite_logits_show_in_valid_pixels_only(engine, kind, bad, where):
    student, teacher, weight = torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(PIXELS)
    (student if where == "student" else teacher)[1, 2, 3, 4] = bad
    student.requires_grad_()
    keywords = {"kind": kind, "engine": engine}
    assert consistency_loss(student, teacher, reduction="none", **keywords).isnan().nonzero().tolist() == [[1, 3, 4]]
    g = gradient(consistency_loss(student, teacher, **keywords), student)
    assert not g[1, :, 3, 4].isfinite().any() and g.isfinite().sum() == g.numel() - SHAPE[1]
    valid = torch.ones(PIXELS, dtype=torch.bool)
    valid[1, 3, 4], weight[1, 3, 4] = False, float("nan")
    loss = consistency_loss(student, teacher, valid_mask=valid, pixel_weight=weight, **keywords)
    g = gradient(loss, student)
    assert loss.isfinite() and g.isfinite().all() and (g[1, :, 3, 4] == 0).all()


def test_large_logits_lose_nothing(engine, kind):
    """Differences count, not sizes; classes may be masked out with the lowest number, by both or by the teacher."""
    lowest = torch.finfo(torch.float32).min
    student, teacher = (torch.randn(SHAPE).mul(64).round().div(64) for _ in range(2))
    student[:, 4], teacher[:, 3:] = lowest, lowest
    if kind == "mse":
        student[:, 1] = lowest
    student.requires_grad_()
    exact = student.detach().double().requires_grad_()
    expected = softmax_distance(exact, teacher.double(), kind)
    loss = consistency_loss(student, teacher, kind=kind, reduction="none", engine=engine)
    assert_close(loss.double(), expected, **LOSS)
    wanted = gradient(expected.sum(), exact)
    assert_close(gradient(loss.sum(), student).double(), wanted, **GRADIENT[torch.float32])
    shift = torch.full((2, 5, 4, 9), 2.0**16)
    shift[:, 1], shift[:, 3:] = 0, 0
    moved = consistency_loss(student + shift, teacher + shift, kind=kind, reduction="none", engine=engine)
    exact = softmax_distance((student + shift).double(), (teacher + shift).double(), kind)
    assert_close(moved.double(), exact, **LOSS)


def test_past_the_largest_exponent(engine, kind):
    """Times log2(e), a logit past 2.36e38 is infinite: the right number or NaN, never another one."""
    student, teacher = torch.randn(SHAPE), torch.randn(SHAPE)
    for x in (student, teacher):
        x[0, 1] = 3e38
        x[1, :, :2] = 3e38
        x[1, :, 2:] = -3e38
    exact = (student.double() - student.double().amax(1, keepdim=True)).requires_grad_()
    student.requires_grad_()
    loss = consistency_loss(student, teacher, kind=kind, reduction="none", engine=engine)
    expected = softmax_distance(exact, teacher.double() - teacher.double().amax(1, keepdim=True), kind)
    for actual, wanted in (
        (loss, expected),
        (gradient(loss.sum(), student), gradient(expected.sum(), exact)),
    ):
        known = ~actual.isnan()
        assert_close(actual.double()[known], wanted[known], rtol=1e-4, atol=1e-5)
        assert known.any()


@pytest.mark.parametrize("size", [None, (3, 2)])
def test_nothing_to_compare_is_zero(engine, kind, size):
    """No valid pixel, no image, no pixel."""
    keywords = {"kind": kind, "engine": engine}
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    nothing = torch.zeros(2, *(size or SHAPE[2:]), dtype=torch.bool)
    loss = consistency_loss(student, teacher, valid_mask=nothing, size=size, **keywords)
    assert loss == 0 and (gradient(loss, student) == 0).all()
    for shape in ((0, 5, 3, 4), (1, 2, 1, 1), *([] if size else [(2, 5, 0, 3)])):
        student = torch.randn(shape, requires_grad=True)
        for reduction in ("mean", "none"):
            loss = consistency_loss(student, torch.randn(shape), size=size, reduction=reduction, **keywords).sum()
            g = gradient(loss, student)
            assert loss.isfinite() and g.shape == shape and g.isfinite().all()


def test_inputs_are_not_written_and_the_teacher_gets_no_gradient(engine, kind):
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, requires_grad=True)
    weight = torch.rand(PIXELS, requires_grad=True)
    before = [x.detach().clone() for x in (student, teacher, weight)]
    consistency_loss(student, teacher, pixel_weight=weight, kind=kind, engine=engine).backward()
    assert all(torch.equal(x, old) for x, old in zip((student, teacher, weight), before, strict=True))
    assert student.grad is not None and teacher.grad is None and weight.grad is None


@pytest.mark.parametrize(("kind", "size"), [("mse", None), ("kl", (3, 5))])
def test_any_strides(engine, kind, size):
    teacher = torch.randn(SHAPE)
    for view in (
        torch.randn(2, 5, 9, 4).transpose(2, 3),
        torch.randn(2, 8, 4, 20)[:, 2:7, :, 1:19:2],
        torch.randn(1, 5, 4, 9).expand(2, -1, -1, -1),
    ):
        dense, view = view.contiguous().requires_grad_(), view.detach().requires_grad_()
        mask = torch.rand(2, 5, 3).mT > 0.5 if size else torch.rand(2, 9, 4).mT > 0.5
        keywords = {"kind": kind, "engine": engine, "size": size}
        loss = consistency_loss(view, teacher, valid_mask=mask, **keywords)
        expected = consistency_loss(dense, teacher, valid_mask=mask.contiguous(), **keywords)
        assert_close(loss, expected, **INVARIANT)
        g = gradient(loss, view)
        assert_close(g, gradient(expected, dense), **INVARIANT)
        assert g.stride() == torch.empty_like(view).stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradient_follows_grad_output(engine, kind, dtype):
    """A loss scale meets 1 / pixels before it meets a float16 gradient."""
    student, teacher = torch.randn(SHAPE).to(dtype).requires_grad_(), torch.randn(SHAPE)
    exact = student.detach().double().requires_grad_()
    expected = gradient(consistency_loss(exact, teacher.double(), kind=kind), exact)
    for factor in (1.0, 65536.0, -0.25):
        loss = consistency_loss(student, teacher, kind=kind, engine=engine)
        g = gradient(loss, student, torch.tensor(factor))
        tolerance = {**GRADIENT[dtype], "atol": GRADIENT[dtype]["atol"] * abs(factor)}
        assert_close(g.double(), factor * expected, **tolerance)


@pytest.mark.parametrize("size", [None, (11, 13)])
def test_chunks_of_pixels(monkeypatch, kind, size):
    """In float64 the eager engine is the reference, whatever the chunks."""
    student, teacher = (torch.randn(SHAPE, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    monkeypatch.setattr(eager_consistency, "CHUNK_PIXELS", 7)
    loss = consistency_loss(student, teacher, kind=kind, size=size, align_corners=False)
    z, t = (
        x if size is None else F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (student, teacher)
    )
    expected = softmax_distance(z, t, kind).mean()
    assert loss.dtype == torch.float64
    assert_close(loss, expected, **EXACT)
    assert_close(gradient(loss, student), gradient(expected, student), **EXACT)


def test_the_wider_logits_decide_the_dtype():
    """Dtypes of teacher and student; the kernels and the planes have no float64."""
    student, teacher = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE, dtype=torch.float64)
    loss = consistency_loss(student, teacher)
    assert loss.dtype == torch.float64 and gradient(loss, student).dtype == torch.float32
    for engine in ("triton", "compiled"):
        refusal = (
            f"engine='{engine}' cannot run here: it computes in float32 and the logits are float64; engine='eager'"
        )
        with pytest.raises(ValueError, match=refusal):
            consistency_loss(student, teacher, engine=engine)


def test_inside_pytorch(kind):
    """opcheck; a compiler with the whole function."""
    student, teacher, weight = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE), torch.rand(PIXELS)
    plain = {"kind": kind, "size": None, "align_corners": True, "engine": "eager"}
    tensors = (student, teacher, -teacher, weight > 0.5, weight, weight > 0.2)
    opcheck(consistency_operator, tensors, plain | {"mean": True, "with_grad": True})
    opcheck(consistency_map, tensors, plain)
    half, upsampled = student.detach().half(), plain | {"size": [7, 8]}
    opcheck(consistency_operator, (half, teacher, *[None] * 4), upsampled | {"mean": True, "with_grad": True})
    opcheck(consistency_map, (student, teacher, *[None] * 4), upsampled)

    def step(student, teacher, reduction):
        return consistency_loss(2 * student, teacher, kind=kind, size=(8, 12), reduction=reduction).sum()

    for reduction in ("mean", "none"):
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(student, teacher, reduction)
        expected = step(student, teacher, reduction)
        assert_close(compiled, expected, **INVARIANT)
        assert_close(gradient(compiled, student), gradient(expected, student), **INVARIANT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "js"}, "kind must be one of 'mse', 'kl', got 'js'"),
        ({"reduction": "weighted_mean"}, "reduction must be one of 'none', 'sum', 'mean', got 'weighted_mean'"),
        ({"engine": "cuda"}, "engine must be one of 'auto', 'triton', 'compiled', 'eager', got 'cuda'"),
        ({"align_corners": None}, "align_corners must be True or False, got None"),
        ({"size": 4}, r"size must be \(H, W\)"),
        ({"mix_mask": torch.ones(1, 2, 2, device=DEVICE)}, "partner_logits and mix_mask must be given together"),
        ({"valid_mask": torch.ones(1, 2, 2, device=DEVICE)}, "valid_mask must be bool, got torch.float32"),
        ({"pixel_weight": torch.ones(1, 4, 4, device=DEVICE)}, "pixel_weight must have shape"),
        ({"teacher_logits": torch.ones(1, 5, 2, 2, device=DEVICE)}, "teacher_logits must have the shape of student"),
        ({"student_logits": torch.ones(1, 1, 2, 2, device=DEVICE)}, "student_logits must have at least 2 classes"),
    ],
)
def test_errors(arguments, message):
    logits = torch.randn(1, 6, 2, 2)
    with pytest.raises(ValueError, match=message) as caught:
        consistency_loss(**{"student_logits": logits, "teacher_logits": logits} | arguments)
    assert "\n" not in str(caught.value)
