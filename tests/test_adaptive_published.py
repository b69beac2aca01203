"""The choice of thresholds and its loss against inputs and outputs of the public code of A-FPL."""

import json

import numpy as np
import pytest
import torch
from golden_cases import FOLDER
from torch.testing import assert_close

from fpl_fast import adaptive_threshold, fuzzy_positive_assignment, fuzzy_positive_loss

INDEX = FOLDER / "golden_afpl.json"
CASES = json.loads(INDEX.read_text())["cases"] if INDEX.is_file() else []
pytestmark = pytest.mark.skipif(not CASES, reason="neither GOLDEN nor ../shared/golden holds cases of A-FPL")
HARD = 255  # the label of pixels that have no hard pseudo-label: only they have the loss
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.mark.parametrize("case", CASES, ids=[f"case{case['case']}" for case in CASES])
def test_equals_the_public_code(case):
    arrays, start = np.load(FOLDER / "golden_afpl.npz"), f"case{case['case']}_"
    names = [name for name in arrays.files if name.startswith(start)]
    data = {name.removeprefix(start): torch.from_numpy(arrays[name]) for name in names}
    student, teacher = data["student"].requires_grad_(), data["teacher"]
    cap = {"max_positives": case["cap"]}
    threshold = adaptive_threshold(teacher, case["thresholds"], case["window"], **cap)
    assert torch.equal(threshold, data["chosen_threshold"])
    _, positives = fuzzy_positive_assignment(teacher, threshold=threshold, **cap)
    assert torch.equal(positives, data["positives"].bool())

    options = {"threshold": threshold, "reduction": "none", **cap}
    raw = fuzzy_positive_loss(student.detach(), teacher, **options)
    assert_close(raw, data["raw_loss"], **CLOSE)
    weighted = fuzzy_positive_loss(student.detach(), teacher, weighting=case["weighting"], **options)
    assert_close(weighted / raw, data["weight"], **CLOSE)
    soft = data["hard_label"] == HARD
    loss = fuzzy_positive_loss(student, teacher, weighting=case["weighting"], valid_mask=soft, **options)
    assert_close(loss, data["loss"], **CLOSE)
    loss.mean().backward()
    assert_close(student.grad, data["grad_of_mean"], **CLOSE)
