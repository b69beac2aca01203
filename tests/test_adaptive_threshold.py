"""The choice among thresholds by context: the engines against the equations, and what the choice means."""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import probe_once
from kernel_cases import decided, draw_logits
from torch.library import opcheck

from fpl_fast import adaptive_threshold, fuzzy_positive_loss, reference
from fpl_fast.engines import context_planes, eager_context, packages, planes
from fpl_fast.kernels.arguments import ContextOptions
from fpl_fast.kernels.divergence import ONE, divergence_table
from fpl_fast.ops.adaptive_threshold import adaptive_threshold as operator

pytestmark = pytest.mark.gpu if torch.cuda.is_available() else []
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_a_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the compiled engine runs on the CPU")
CANDIDATES = (0.5, 0.7, 0.84, 0.94)
# A sum of up to five rounded terms of each of 20 classes; candidates closer than this may be chosen either way.
MARGIN = 2.0**-24


@pytest.fixture(autouse=True)
def tensors_lie_on_the_device():
    """Create tensors where the Triton engine can run."""
    with torch.device(DEVICE):
        yield


def draw(*shape, dtype=torch.float32, ties=False):
    return draw_logits(*shape, dtype=dtype, spread=1.5, ties=ties, device=DEVICE)


def clear_of(teacher, thresholds):
    """Pixels whose K does not hang on rounding under any threshold."""
    return torch.stack([decided(teacher, threshold) for threshold in thresholds]).all(0)


def check_against_the_equations(teacher, thresholds, window, max_positives, valid, engine="eager"):
    """The choice is a least divergence, up to rounding, and the first of those that are exactly as small."""
    chosen = adaptive_threshold(
        teacher, thresholds, window, max_positives=max_positives, valid_mask=valid, engine=engine
    )
    cap = teacher.shape[1] - 1 if max_positives is None else max_positives
    divergences = reference.context_divergences(teacher.double(), thresholds, cap, window, valid)
    index = torch.searchsorted(torch.tensor(thresholds, dtype=torch.float32), chosen)
    assert torch.equal(torch.tensor(thresholds, dtype=torch.float32)[index], chosen) and chosen.dtype == torch.float32
    ours, least = divergences.gather(1, index.unsqueeze(1)).squeeze(1), divergences.amin(1)
    assert (ours - least)[valid].max() < MARGIN and (index[~valid] == 0).all()
    alone = ((divergences - least.unsqueeze(1)) < MARGIN).sum(1) == 1
    expected = reference.adaptive_threshold(teacher.double(), thresholds, cap, window, valid)
    assert torch.equal(chosen[alone], expected[alone]) and alone[valid].float().mean() > 0.3
    assert chosen.unique().numel() > 1


@pytest.mark.parametrize(
    ("num_classes", "max_positives", "window", "thresholds"),
    [
        (6, 4, 5, CANDIDATES),
        (3, None, 3, (0.6, 0.9)),
        (20, None, 3, (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)),
        (5, 3, 15, CANDIDATES),
    ],
)
def test_against_the_equations(num_classes, max_positives, window, thresholds):
    teacher = draw(2, num_classes, 9, 11)
    valid = clear_of(teacher, thresholds) & (torch.rand(2, 9, 11) > 0.1)
    check_against_the_equations(teacher, thresholds, window, max_positives, valid)


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=on_a_cpu)], indirect=True)
def test_ties_of_logits_and_bands_of_rows(engine, monkeypatch):
    """A window and its neighbours on all sides, in the image and outside it, at every corner of a band."""
    teacher = draw(1, 6, 21, 13, dtype=torch.bfloat16, ties=True)
    valid = clear_of(teacher, CANDIDATES)
    options = {"max_positives": 4, "valid_mask": valid, "engine": engine}
    whole = adaptive_threshold(teacher, CANDIDATES, **options)
    check_against_the_equations(teacher, CANDIDATES, 5, 4, valid, engine)
    for pixels in (26, 7):
        for module in (eager_context, context_planes):
            monkeypatch.setattr(module, "BAND_PIXELS", pixels)
            monkeypatch.setattr(module, "UPSAMPLED_CHUNK_PIXELS", 7)
        assert torch.equal(adaptive_threshold(teacher, CANDIDATES, **options), whole)


# fewer classes than ranks; 16-bit keys and ties; tiles of classes, more than 32; one threshold, two, three
KERNELS = [
    ((1, 2, 2, 5), torch.float32, 3, None, (0.8,)),
    ((2, 4, 3, 5), torch.bfloat16, 3, 3, (0.6, 0.8)),
    ((1, 6, 3, 7), torch.float32, 5, 4, CANDIDATES),
    ((1, 36, 1, 5), torch.float16, 3, 4, (0.5, 0.7, 0.9)),
    ((1, 36, 2, 3), torch.float32, 3, 2, CANDIDATES),
]


@pytest.mark.parametrize(("shape", "dtype", "window", "max_positives", "thresholds"), KERNELS)
def test_engines_equal_the_eager_one(engine, shape, dtype, window, max_positives, thresholds):
    """Bit for bit, in any layout, with ties, where both find the same K."""
    if engine == "compiled":
        shape = (shape[0], min(shape[1], planes.MAX_CLASSES), *shape[2:])
    teacher = draw(*shape, dtype=dtype, ties=dtype != torch.float32)
    teacher = teacher.contiguous(memory_format=torch.channels_last)
    valid = clear_of(teacher, thresholds) & (torch.rand(shape[0], *shape[2:]) > 0.1)
    keywords = {"max_positives": max_positives, "valid_mask": valid}
    ours, expected = (adaptive_threshold(teacher, thresholds, window, engine=x, **keywords) for x in (engine, "eager"))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize(("num_classes", "align_corners"), [(5, True), (33, False)])
def test_engines_upsample_and_mix(engine, num_classes, align_corners):
    num_classes = min(num_classes, planes.MAX_CLASSES) if engine == "compiled" else num_classes
    teacher, partner = 3 * draw(1, num_classes, 2, 4), 3 * draw(1, num_classes, 4, 2).transpose(2, 3)
    size = (2, 6)
    mask = torch.rand(1, *size) > 0.5
    keywords = {"size": size, "align_corners": align_corners, "partner_logits": partner, "mix_mask": mask}
    own, other = (
        F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners) for x in (teacher, partner)
    )
    mixed = torch.where(mask.unsqueeze(1), other, own)
    valid = clear_of(mixed, CANDIDATES)
    expected = adaptive_threshold(mixed, CANDIDATES, 3, max_positives=4, valid_mask=valid, engine="eager")
    chosen = adaptive_threshold(teacher, CANDIDATES, 3, max_positives=4, valid_mask=valid, engine=engine, **keywords)
    assert torch.equal(chosen, expected)


def test_equals_choose_the_first(engine):
    """Amid one label all divergences are 0, although each threshold has another K; so has an image of one pixel."""
    teacher = torch.tensor([0.55, 0.3, 0.1, 0.05]).log().view(1, 4, 1, 1).expand(1, 4, 2, 3)
    k = [reference.assign_positives(teacher, threshold, 3).num_positives.unique().item() for threshold in CANDIDATES]
    assert k == [1, 1, 1, 2]
    keywords = {"window": 3, "max_positives": 3, "engine": engine}
    for thresholds in (CANDIDATES, (0.94, 0.96, 0.99)):
        assert (adaptive_threshold(teacher, thresholds, **keywords) == torch.tensor(thresholds[0])).all()
    assert (adaptive_threshold(teacher[..., :1, :1], CANDIDATES, **keywords) == 0.5).all()
    assert adaptive_threshold(teacher[:0], CANDIDATES, **keywords).shape == (0, 2, 3)
    for empty in (teacher[..., :0], teacher[:, :, :0]):
        assert adaptive_threshold(empty, CANDIDATES, **keywords).numel() == 0


def test_agreement_decides(engine):
    """A doubtful pixel amid pixels that are sure of its second class takes both; amid those of its first, one."""
    doubtful, first, second = ([0.5, 0.42, 0.05, 0.03], [0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01])
    for around, expected in ((first, 0.9), (second, 0.95)):
        probabilities = torch.tensor(around).view(1, 4, 1, 1).repeat(1, 1, 3, 3)
        probabilities[0, :, 1, 1] = torch.tensor(doubtful)
        chosen = adaptive_threshold(probabilities.log(), (0.9, 0.95), 3, max_positives=3, engine=engine)
        assert chosen[0, 1, 1] == torch.tensor(expected)


def test_pixels_that_do_not_count_are_outside(engine):
    """Whatever they hold; they themselves have the first threshold."""
    teacher = draw(1, 5, 2, 6)
    valid = torch.ones(1, 2, 6, dtype=torch.bool)
    valid[..., 4:] = False
    keywords = {"window": 3, "max_positives": 3, "engine": engine}
    alone = adaptive_threshold(teacher[..., :4], CANDIDATES, **keywords)
    teacher[..., 4], teacher[..., 5] = float("nan"), float("inf")
    chosen = adaptive_threshold(teacher, CANDIDATES, valid_mask=valid, **keywords)
    assert torch.equal(chosen[..., :4], alone) and (chosen[..., 4:] == 0.5).all()
    nothing = adaptive_threshold(teacher, CANDIDATES, valid_mask=torch.zeros_like(valid), **keywords)
    assert (nothing == 0.5).all()


@pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")
@on_a_cpu
@pytest.mark.slow
def test_compiled_equals_the_eager_engine(monkeypatch, tmp_path):
    """Any size and thresholds through two graphs; logits that are not finite do no harm."""
    probe_once(monkeypatch)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    packages._load.cache_clear()
    for height, width in ((37, 41), (1, 300), (3, 1), (9, 70)):
        thresholds = CANDIDATES if height % 3 else (0.4, 0.55, 0.7, 0.8)
        teacher = draw(2, 3, height, width)
        valid = clear_of(teacher, thresholds) & (torch.rand(2, height, width) > 0.1)
        counts = torch.ones_like(valid)
        if height == 9:
            teacher[:, 1, 2:4, 5], teacher[:, :, 4, 60] = float("nan"), float("inf")
            counts[..., :8] = counts[..., 58:63] = False
        options = {"max_positives": 2, "valid_mask": valid}
        ours, expected = (adaptive_threshold(teacher, thresholds, engine=x, **options) for x in ("compiled", "eager"))
        assert torch.equal(ours[counts], expected[counts]) and counts.any()
    assert len(list((tmp_path / "fpl_fast").iterdir())) == 2


def test_one_candidate_is_fuzzy_positive_learning():
    student, teacher = draw(2, 6, 5, 7), draw(2, 6, 5, 7)
    threshold = adaptive_threshold(teacher, (0.9,), max_positives=3)
    options = {"max_positives": 3, "weighting": "concave", "reduction": "none"}
    ours, expected = (fuzzy_positive_loss(student, teacher, threshold=x, **options) for x in (threshold, 0.9))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("module", [eager_context])
def test_terms_are_computed_where_a_table_would_be_too_large(module, monkeypatch):
    """The same numbers; with many classes and no cap the table would not fit into memory."""
    teacher = draw(2, 6, 9, 11)
    expected = adaptive_threshold(teacher, CANDIDATES, engine="eager")
    monkeypatch.setattr(module, "MAX_ENTRIES", 0)
    assert torch.equal(adaptive_threshold(teacher, CANDIDATES, engine="eager"), expected)
    monkeypatch.undo()
    many = draw(1, 250, 3, 4)
    reference_choice = reference.adaptive_threshold(many.double(), (0.2, 0.9), 249, 15)
    clear = clear_of(many, (0.2, 0.9)).all()
    chosen = adaptive_threshold(many, (0.2, 0.9), 15)
    assert not clear or torch.equal(chosen, reference_choice)


def test_a_single_candidate_needs_no_choice(monkeypatch):
    """Nothing is read or compiled."""
    monkeypatch.setattr(packages, "load", lambda _: pytest.fail("compiled"))
    chosen = adaptive_threshold(draw(1, 5, 2, 3), (0.9,), size=(200, 300))
    assert chosen.shape == (1, 200, 300) and (chosen == torch.tensor(0.9)).all()


def test_the_table_is_the_terms():
    options = ContextOptions((), 3, 2)
    table = divergence_table(options, torch.device("cpu")).double() / ONE
    for k, total, neighbours in ((0, 8, 0), (0, 8, 3), (1, 8, 8), (2, 16, 5), (2, 11, 0)):
        b = torch.tensor(1e-6 + neighbours / total, dtype=torch.float64)
        d = torch.tensor(1e-6 + (1 / k if k else 0), dtype=torch.float64)
        assert abs(table[k, total, neighbours] - b * (b.log() - d.log())) <= 0.5 / ONE
    assert table.shape == (3, 17, 9) and table[1, 8, 8] == table[2, 16, 8] == table[0, 8, 0] == 0
    largest = divergence_table(ContextOptions((), 15, 4), torch.device("cpu"))
    assert largest.max() < 2**30 and (largest[:, 0] == 0).all()


def test_inside_pytorch():
    """opcheck, a compiler, no gradient, nothing written."""
    teacher, mask = draw(1, 5, 4, 6).requires_grad_(), torch.rand(1, 4, 6) > 0.5
    options = {"thresholds": CANDIDATES, "window": 3, "max_positives": 3, "engine": "eager"}
    opcheck(operator, (teacher.detach(), None, None, mask), {"size": None, "align_corners": True, **options})
    opcheck(
        operator, (teacher.detach(), -teacher.detach(), mask, None), {"size": (4, 6), "align_corners": False} | options
    )
    before = teacher.detach().clone()

    def step(student, teacher):
        threshold = adaptive_threshold(teacher, CANDIDATES, 3, max_positives=3)
        return fuzzy_positive_loss(student, teacher, threshold=threshold, max_positives=3), threshold

    loss, threshold = torch.compile(step, fullgraph=True, backend="aot_eager")(2 * teacher, teacher)
    expected_loss, expected = step(2 * teacher, teacher)
    assert torch.equal(threshold, expected) and not threshold.requires_grad
    torch.testing.assert_close(loss, expected_loss)
    assert torch.equal(teacher, before)


ERRORS = [
    ({"thresholds": ()}, r"thresholds must be a sequence of numbers in \(0, 1\], got \(\); such as"),
    ({"thresholds": 0.9}, r"thresholds must be a sequence of numbers in \(0, 1\], got 0.9"),
    ({"thresholds": torch.ones(2)}, r"thresholds must be a sequence .* got a tensor of shape \(2,\)"),
    (
        {"thresholds": (0.9, 0.8)},
        r"thresholds must ascend, each larger than the one before, got \(0.9, 0.8\); sort",
    ),
    ({"thresholds": (0.8, 0.8)}, "thresholds must ascend"),
    ({"thresholds": (0.8, 1.5)}, r"thresholds\[1\] must lie in \(0, 1\], got 1.5"),
    ({"thresholds": (float("nan"), 0.8)}, r"thresholds\[0\] must lie in \(0, 1\], got nan"),
    ({"window": 4}, "window must be an odd integer from 3 to 15, got 4; the public code has 5"),
    ({"window": 17}, "window must be an odd integer from 3 to 15, got 17"),
    ({"window": True}, "window must be an odd integer from 3 to 15, got True"),
    ({"max_positives": 0}, "max_positives must be an integer >= 1 or None, got 0"),
    ({"engine": "numba"}, "engine must be one of 'auto', 'triton', 'compiled', 'eager', got 'numba'"),
    ({"align_corners": None}, "align_corners must be True or False"),
    ({"valid_mask": torch.ones(1, 2, 2)}, "valid_mask must be bool"),
    ({"mix_mask": torch.ones(1, 2, 2)}, "partner_logits and mix_mask must be given together"),
    ({"partner_logits": torch.ones(1, 5, 2, 3), "mix_mask": torch.ones(1, 2, 2)}, "the shape of teacher_logits"),
    (
        {"engine": "triton", "max_positives": None},
        r"triton' cannot run here: it takes at most 4 positives .* got 5;",
    ),
    ({"engine": "triton", "thresholds": (0.1, 0.2, 0.3, 0.4, 0.5)}, "it takes at most 4 thresholds, got 5"),
    ({"engine": "compiled", "thresholds": (0.1, 0.2, 0.3, 0.4, 0.5)}, "'compiled' cannot run here: it "),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_errors(arguments, message):
    arguments = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    with pytest.raises(ValueError, match=message) as caught:
        adaptive_threshold(torch.randn(1, 6, 2, 2), **{"max_positives": 3} | arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
