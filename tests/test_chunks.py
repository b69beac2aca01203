"""The chunks of the eager engine: small on a CPU, which has a cache, and large elsewhere, where launches count."""

import pytest
import torch
from tolerances import GRADIENT, INVARIANT
from torch.testing import assert_close

from fpl_fast import adaptive_threshold, consistency_loss, cross_entropy, fuzzy_positive_loss
from fpl_fast.engines import chunked, eager, eager_consistency, eager_context, eager_labels
from fpl_fast.kernels.arguments import ContextOptions, LabelInputs, LossInputs, LossOptions, TeacherInputs

OPTIONS = LossOptions(0.9, 3, "none", 1.0, "smooth", 0.0, 0.0)


@pytest.fixture
def chunks(monkeypatch):
    """Shapes of the chunks that have been evaluated, (H, W)."""
    seen, windows_on = [], chunked.windows_on

    def noted(*arguments):
        for window in windows_on(*arguments):
            seen.append((window.rows.stop - window.rows.start, window.columns.stop - window.columns.start))
            yield window

    for module in (chunked, eager_labels, eager_context):
        monkeypatch.setattr(module, "windows_on", noted)
    return seen


@pytest.mark.parametrize(
    ("shape", "size", "number"),
    [
        ((8, 19, 512, 512), None, 8),  # an image each
        ((16, 19, 200, 200), (800, 800), 16),
        ((1, 19, 256, 512), (1024, 2048), 3),
    ],
)
def test_beside_a_cpu_an_image_is_a_chunk_if_its_temporaries_are_small(chunks, shape, size, number):
    student, teacher = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2))
    height, width = size or shape[2:]
    teachers = TeacherInputs(teacher, size=size)
    target = torch.empty(shape[0], height, width, dtype=torch.int64, device="meta")
    inputs = LossInputs(student, teacher, size=size)
    eager.fuzzy_positive_sums(inputs, OPTIONS, scale=None, with_grad=True, with_stats=True)
    assert len(chunks) == number and sum(h * w for h, w in chunks) == len(student) * height * width
    assert max(h * w for h, w in chunks) * shape[1] <= chunked.DEVICE_CHUNK_LOGITS
    eager.fuzzy_positive_map(inputs, OPTIONS)
    eager_context.adaptive_threshold(teachers, ContextOptions((0.8, 0.9), 3, 3))
    eager_labels.cross_entropy_sums(LabelInputs(student, target, size=size), scale=None, with_grad=True)
    eager_consistency.consistency_sums(inputs, "mse", scale=None, with_grad=True)
    assert len(chunks) == 5 * number


def test_temporaries_of_many_classes_are_no_larger():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert chunked.pixels_on(cuda, 150, 1 << 14) == (1 << 24) // 150 and chunked.pixels_on(cpu, 150, 1 << 14) == 1 << 14
    assert chunked.pixels_on(cuda, 1 << 20, 1 << 14) == 1 << 14  # never smaller than on a CPU


@pytest.mark.parametrize(("size", "shapes"), [(None, {(64, 512)}), ((800, 800), {(20, 800)})])
def test_on_a_cpu_chunks_stay_in_cache(chunks, size, shapes):
    low = torch.randn(1, 3, *((512, 512) if size is None else (20, 20)))
    fuzzy_positive_loss(low, low, size=size, engine="eager")
    assert set(chunks) == shapes


@pytest.mark.parametrize("size", [None, (260, 90)])
def test_large_chunks_give_the_same(monkeypatch, size):
    """The whole path on the CPU, with the chunks of another device."""
    student, teacher = (torch.randn(2, 5, 150, 130) for _ in range(2))
    student.requires_grad_()
    label = torch.randint(0, 5, (2, *(size or (150, 130))))

    def results():
        fuzzy = fuzzy_positive_loss(student, teacher, size=size, balance=True, engine="eager")
        labelled = cross_entropy(student, label, size=size, engine="eager")
        distance = consistency_loss(student, teacher, kind="kl", size=size, engine="eager")
        chosen = adaptive_threshold(teacher, (0.6, 0.8, 0.9), 3, max_positives=3, size=size, engine="eager")
        losses = fuzzy, labelled, distance
        return losses, [torch.autograd.grad(loss, student)[0] for loss in losses], chosen

    small = results()
    pixels_on, windows_on = chunked.pixels_on, chunked.windows_on
    for module in (chunked, eager_labels, eager_context):
        monkeypatch.setattr(module, "windows_on", lambda _, *rest: windows_on(torch.device("meta"), *rest))
    monkeypatch.setattr(eager_context, "pixels_on", lambda _, *rest: pixels_on(torch.device("meta"), *rest))
    large = results()
    for ours, expected in zip(large[0], small[0], strict=True):
        assert_close(ours, expected, **INVARIANT)
    for ours, expected in zip(large[1], small[1], strict=True):
        assert_close(ours, expected, **GRADIENT[torch.float32])
    assert torch.equal(large[2], small[2])
