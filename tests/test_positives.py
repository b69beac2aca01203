"""The analysis of positives against a loop over pixels, and torchmetrics' calibration error."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from fpl_fast import fuzzy_positive_assignment, positive_gradient_score
from fpl_fast.trainer.evaluation.positives import PositivesTally

C, THRESHOLDS = 6, (0.5, 0.8, 0.95)


def draw(num=2, size=(9, 11), ignored=0.2):
    teacher = 3 * torch.randn(num, C, *size)
    label = (teacher + 3 * torch.randn_like(teacher)).argmax(1)
    label[torch.rand(label.shape) < ignored] = 255
    return teacher + torch.randn_like(teacher), teacher, label


@pytest.mark.parametrize("max_positives", [None, 3, 1])
@pytest.mark.parametrize("by_pixel", [False, True])
def test_equals_a_loop_over_pixels(max_positives, by_pixel):
    tally, rows, kept = PositivesTally(C, max_positives=max_positives, thresholds=THRESHOLDS), [], []
    for _ in range(3):
        z, t, y = draw()
        threshold = torch.rand(y.shape) * 0.5 + 0.45 if by_pixel else 0.85
        score = tally.add(z, t, y, threshold=threshold)
        expected = positive_gradient_score(z, t, y, threshold=threshold, max_positives=max_positives)
        torch.testing.assert_close(score, expected, equal_nan=True)
        options = {"max_positives": max_positives}
        number, members = fuzzy_positive_assignment(t, threshold=threshold, **options)
        others = [fuzzy_positive_assignment(t, threshold=one, **options) for one in THRESHOLDS]
        for place in (y != 255).nonzero().tolist():
            n, h, w = place
            truth = y[n, h, w].item()
            rows.append(
                {
                    "truth": truth,
                    "case": int(score.case[n, h, w]),
                    "right": float(t[n, :, h, w].argmax() == truth),
                    "held": float(members[n, truth, h, w]),
                    "k": float(number[n, h, w]),
                    "vanilla": score.vanilla[n, h, w].item(),
                    "fuzzy": score.fuzzy[n, h, w].item(),
                    "confidence": t[n, :, h, w].softmax(0).max().item(),
                    "other_held": [float(m[n, truth, h, w]) for _, m in others],
                    "other_k": [float(k[n, h, w]) for k, _ in others],
                }
            )
        kept.append((t.movedim(1, -1)[y != 255], y[y != 255]))
    found, num = tally.result(), len(rows)

    def mean(key, chosen=lambda row: True):
        values = [row[key] for row in rows if chosen(row)]
        return sum(values) / len(values) if values else float("nan")

    def close(ours, theirs):
        theirs = torch.tensor(theirs, dtype=torch.float64)
        torch.testing.assert_close(torch.as_tensor(ours, dtype=torch.float64), theirs, rtol=1e-5, atol=1e-6,
                                   equal_nan=True)  # fmt: skip

    assert found.pixels == num
    for name, key in (("accuracy", "right"), ("inclusion", "held"), ("mean_positives", "k"), ("vanilla", "vanilla"),
                      ("fuzzy", "fuzzy")):  # fmt: skip
        close(getattr(found, name), mean(key))
        close(
            getattr(found.classes, name),
            [mean(key, lambda row, c=c: row["truth"] == c) for c in range(C)],
        )
    close(found.raised, [sum(row[key] > 0 for row in rows) / num for key in ("vanilla", "fuzzy")])
    close(found.classes.pixels, [float(sum(row["truth"] == c for row in rows)) for c in range(C)])
    close(found.cases.share, [sum(row["case"] == case for row in rows) / num for case in (1, 2, 3)])
    for key in ("vanilla", "fuzzy"):
        close(getattr(found.cases, key), [mean(key, lambda row, c=c: row["case"] == c) for c in (1, 2, 3)])
    close(found.thresholds.threshold, list(THRESHOLDS))
    close(found.thresholds.inclusion, [sum(row["other_held"][i] for row in rows) / num for i in range(3)])
    close(found.thresholds.mean_positives, [sum(row["other_k"][i] for row in rows) / num for i in range(3)])
    assert found.histogram.sum(1).tolist() == [num, num]
    middle = found.histogram.shape[1] // 2
    close(
        found.histogram[:, middle:].sum(1), [float(sum(row[key] >= 0 for row in rows)) for key in ("vanilla", "fuzzy")]
    )

    logits, truth = (torch.cat(part) for part in zip(*kept, strict=True))
    expected = multiclass_calibration_error(logits.softmax(1), truth, num_classes=C, n_bins=15)
    assert found.calibration.error == pytest.approx(expected.item(), abs=1e-5)
    assert found.calibration.pixels.sum() == num
    close((found.calibration.confidence.nan_to_num() * found.calibration.pixels).sum() / num, mean("confidence"))


def test_the_score_wins_in_the_second_case_alone():
    tally = PositivesTally(C, max_positives=None)
    for _ in range(4):
        tally.add(*draw(), threshold=0.9)
    vanilla, fuzzy = tally.result().cases[1:]
    assert vanilla[0] == 1 >= fuzzy[0] > 0
    assert fuzzy[1] > 0 > vanilla[1]
    assert 0 > vanilla[2] >= fuzzy[2]


def test_nothing_with_a_class_is_refused():
    tally = PositivesTally(C, max_positives=3)
    for _ in range(2):
        with pytest.raises(ValueError, match="images must hold a pixel with a class to analyse, got none"):
            tally.result()
        z, t, y = draw()
        tally.add(z, t, torch.full_like(y, 255), threshold=0.9)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_types_of_labels_and_logits(dtype):
    z, t, y = draw()
    ours, theirs = (PositivesTally(C, max_positives=3) for _ in range(2))
    ours.add(z.bfloat16(), t.bfloat16(), y.to(dtype), threshold=0.9)
    theirs.add(z.bfloat16().float(), t.bfloat16().float(), y, threshold=0.9)
    torch.testing.assert_close(ours.result(), theirs.result(), equal_nan=True)
