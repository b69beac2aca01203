"""The positive gradient score against published values and against gradients taken by autograd."""

import pytest
import torch
import torch.nn.functional as F
from tolerances import EXACT, PUBLISHED
from torch.testing import assert_close

from fpl_fast import fuzzy_positive_loss, positive_gradient_score

STUDENT = torch.tensor([0.2, 1.5, -0.3, 0.9, -1.0], dtype=torch.float64).view(1, 5, 1, 1)
PUBLISHED_SCORES = {
    1: ((0.93, 0.04, 0.02, 0.006, 0.004), (1, -0.556732, -0.092027, -0.305541, -0.045699)),
    2: ((0.50, 0.30, 0.15, 0.03, 0.02), (0.785835, 0.214165, -0.207611, -0.689293, -0.103097)),
    3: ((0.40, 0.30, 0.15, 0.10, 0.05), (0.342319, 0.093293, 0.564388, -0.869892, -0.130108)),
}


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("truth", range(5))
def test_published_scores(k, truth):
    probabilities, scores = PUBLISHED_SCORES[k]
    teacher = torch.tensor(probabilities, dtype=torch.float64).log().view(1, 5, 1, 1)
    score = positive_gradient_score(STUDENT, teacher, torch.full((1, 1, 1), truth), max_positives=3)
    assert_close(score.fuzzy.item(), float(scores[truth]), **PUBLISHED)
    assert_close(score.vanilla.item(), float(PUBLISHED_SCORES[1][1][truth]), **PUBLISHED)
    assert score.case.item() == (1 if truth == 0 else 2 if truth < k else 3)


def test_scores_are_quotients_of_gradients():
    student = torch.randn(2, 7, 50, 30, dtype=torch.float64, requires_grad=True)  # enough to meet every case
    teacher = torch.randn(2, 7, 50, 30, dtype=torch.float64)
    target = torch.randint(7, (2, 50, 30))
    score = positive_gradient_score(student, teacher, target, threshold=0.8)
    (vanilla,) = torch.autograd.grad(F.cross_entropy(student, teacher.argmax(1), reduction="sum"), student)
    (fuzzy,) = torch.autograd.grad(fuzzy_positive_loss(student, teacher, threshold=0.8, reduction="sum"), student)
    for actual, gradient in ((score.vanilla, vanilla), (score.fuzzy, fuzzy)):
        expected = gradient.gather(1, target.unsqueeze(1)).squeeze(1) / gradient.clamp(max=0).sum(1)
        assert_close(actual, expected, **EXACT)
    assert set(score.case.unique().tolist()) == {1, 2, 3}


def test_ignored_targets_have_no_score():
    student, teacher = torch.randn(2, 1, 4, 2, 2).unbind(0)
    score = positive_gradient_score(student, teacher, torch.tensor([[[0, 255], [255, 3]]]))
    unknown = torch.tensor([[[False, True], [True, False]]])
    assert torch.equal(score.fuzzy.isnan(), unknown)
    assert torch.equal(score.vanilla.isnan(), unknown)
    assert torch.equal(score.case == 0, unknown)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(1, 2, 3, dtype=torch.int64), r"target must have shape \(N, H, W\) = \(1, 2, 2\), got \(1, 2, 3\)"),
        (torch.zeros(1, 2, 2), "target must be uint8, int32 or int64, got torch.float32"),
        (torch.full((1, 2, 2), 4), r"target must lie in \[0, 4\) or be ignore_index=255, got 4"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(ValueError, match=message):
        positive_gradient_score(torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), target)
