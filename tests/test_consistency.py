import dataclasses

import pytest
import torch
from method_cases import CLOSE
from torch.nn import functional as F
from trainer_runs import method_config

from fpl_fast import adaptive_threshold, fuzzy_positive_loss, pseudo_label_cross_entropy
from fpl_fast.trainer.methods.consistency import (
    Target,
    balance_factor,
    consistency_loss,
    loss_telemetry,
    pseudo_label_loss,
)

SIZE = (13, 22)


@pytest.fixture
def logits():
    """Student, teacher, partner at low resolution."""
    return [3 * torch.randn(2, 5, 4, 6) for _ in range(3)]


@pytest.fixture
def mask():
    return torch.rand(2, *SIZE) < 0.4


@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_every_number_reaches_the_loss(logits, mask, loss):
    student, *teachers = logits
    valid, weight = torch.rand(2, *SIZE) < 0.8, torch.rand(2, *SIZE)
    config = method_config(loss=loss, threshold=0.8, max_positives=2, weighting="linear")
    ours, stats = pseudo_label_loss(
        config, student, Target(*teachers, mask), size=SIZE, valid_mask=valid, pixel_weight=weight, reduction="sum"
    )  # fmt: skip
    places = {"size": SIZE, "partner_logits": teachers[1], "mix_mask": mask, "valid_mask": valid,
              "pixel_weight": weight, "reduction": "sum", "return_stats": True}  # fmt: skip
    expected, expected_stats = (
        pseudo_label_cross_entropy(student, teachers[0], **places)
        if loss == "ce"
        else fuzzy_positive_loss(student, teachers[0], **places, threshold=0.8, max_positives=2, weighting="linear")
    )
    assert ours == expected
    assert all(torch.equal(a, b) for a, b in zip(stats, expected_stats, strict=True))


@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_balance_is_that_of_the_loss(logits, mask, loss):
    student, *teachers = logits
    places = {"size": SIZE, "valid_mask": torch.rand(2, *SIZE) < 0.8}
    config = method_config(loss=loss, max_positives=2, weighting="linear")
    ours, stats = pseudo_label_loss(config, student, Target(*teachers, mask), **places)
    places |= {"partner_logits": teachers[1], "mix_mask": mask, "max_positives": 2, "weighting": "linear"}
    expected = fuzzy_positive_loss(student, teachers[0], **places, balance=True) if loss == "fpl" else ours
    torch.testing.assert_close(ours * balance_factor(config, stats), expected)
    assert balance_factor(dataclasses.replace(config, balance=False), stats) == 1


@pytest.mark.parametrize("masked", [False, True])
def test_candidates_choose_the_threshold(logits, mask, masked):
    """Every pixel chooses in the mixture, at full resolution; one candidate is plain FPL."""
    student, *teachers = logits
    target, candidates = Target(*teachers, mask), (0.5, 0.7, 0.9)
    places = {"size": SIZE, "valid_mask": torch.rand(2, *SIZE) < 0.8 if masked else None}
    config = method_config(threshold_candidates=candidates, threshold_window=3, max_positives=2, weighting="concave")
    ours, stats = pseudo_label_loss(config, student, target, **places)
    places |= {"partner_logits": teachers[1], "mix_mask": mask, "max_positives": 2}
    threshold = adaptive_threshold(teachers[0], candidates, 3, **places)
    assert ours == fuzzy_positive_loss(student, teachers[0], threshold=threshold, weighting="concave", **places)
    expected = threshold[places["valid_mask"]].mean() if masked else threshold.mean()
    torch.testing.assert_close(loss_telemetry(stats, stats)["mean_threshold"], expected)
    assert threshold.unique().numel() == 3

    config = dataclasses.replace(config, threshold_candidates=(0.9,))
    alone, _ = pseudo_label_loss(config, student, target, size=SIZE)
    plain, stats = pseudo_label_loss(dataclasses.replace(config, threshold_candidates=()), student, target, size=SIZE)
    assert alone == plain and "mean_threshold" not in loss_telemetry(stats)
    nothing = torch.zeros(2, *SIZE, dtype=torch.bool)
    _, stats = pseudo_label_loss(config, student, target, size=SIZE, valid_mask=nothing)
    assert loss_telemetry(stats)["mean_threshold"] == 0


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("ignored", "divided_by_all"), [(False, False), (True, False), (True, True)])
def test_squared_difference_equals_the_literal_version(engine, logits, mask, mixed, ignored, divided_by_all):
    """Mean over pixels that count, or divided by all, of sum_c (softmax(z)_c - softmax(t)_c)^2."""
    student, teacher, partner = logits
    student.requires_grad_()
    z, t, p = (F.interpolate(x, SIZE, mode="bilinear", align_corners=True).softmax(1) for x in logits)
    t = torch.where(mask.unsqueeze(1), p, t) if mixed else t
    target = Target(teacher, partner, mask) if mixed else Target(teacher)
    pixels, valid = sum((z[:, c] - t[:, c]) ** 2 for c in range(5)), torch.rand(2, *SIZE) < 0.5
    options = {"ignore_padding": ignored, "divide_by_all": divided_by_all, "engine": engine}
    config = method_config(name="mean_teacher", loss="mse", **options)
    expected = pixels[valid].mean() if ignored else pixels.mean()
    if divided_by_all:
        expected = pixels[valid].sum() / pixels.numel()
    ours, telemetry = consistency_loss(config, student, target, valid)
    assert telemetry == {}
    torch.testing.assert_close(ours, expected, **CLOSE)
    (gradient,) = torch.autograd.grad(ours, student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0], **CLOSE)
    assert consistency_loss(config, student, target, torch.zeros_like(valid))[0] == 0 or not ignored


@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_the_engine_reaches_the_loss(logits, loss):
    """Kernels and planes refuse float64."""
    student, teacher, _ = (x.double() for x in logits)
    for engine in ("triton", "compiled"):
        config, valid = method_config(name="mean_teacher", loss=loss, engine=engine), torch.ones(2, *SIZE).bool()
        with pytest.raises(ValueError, match=f"engine='{engine}' cannot run here"):
            consistency_loss(config, student, Target(teacher), valid)


def test_telemetry_of_several_losses():
    config = method_config(threshold=0.99)
    stats = []
    for _ in range(2):
        student, teacher = torch.randn(2, 1, 5, 4, 6)
        stats.append(pseudo_label_loss(config, student, Target(teacher), size=(4, 6))[1])
    a, b = stats
    telemetry = loss_telemetry(a, b)
    assert telemetry["mean_positives"] == pytest.approx((a.mean_positives + b.mean_positives).item() / 2)
    ratio = (a.cross_entropy + b.cross_entropy) / (a.unweighted_loss + b.unweighted_loss)
    assert telemetry["fpl_ce_ratio"] == pytest.approx(ratio.item())
