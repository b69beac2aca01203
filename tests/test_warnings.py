"""The lines that warnings of the losses point at: the user's."""

import inspect
from pathlib import Path

import pytest
import torch

from fpl_fast import FuzzyPositiveLoss, adaptive_threshold, checks, fuzzy_positive_loss
from fpl_fast.engines import choice, packages
from fpl_fast.ops import fuzzy_positive as ops

FEW, MANY = torch.randn(1, 2, 3, 4), torch.randn(1, 5, 3, 4)
OPTIONS = {
    "two classes leave": (FEW, {}),
    "at or above threshold": (MANY, {"confidence_threshold": 0.95}),
}


@pytest.fixture(autouse=True)
def nothing_has_been_warned_of():
    """Every warning comes once in a process."""
    yield forget()
    forget()


def forget():
    for function in (checks.warn_of_two_classes, ops._warn_of_gate, choice._warn_once):
        function.cache_clear()


def points_here(text, call):
    """Call a function of one line, and hold that its one warning points there."""
    with pytest.warns(UserWarning, match=text) as caught:
        call()
    (warning,) = caught
    assert (Path(warning.filename), warning.lineno) == (Path(__file__), inspect.getsourcelines(call)[1])
    forget()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("text", OPTIONS)
def test_of_options(text, reduction):
    logits, options = OPTIONS[text]
    points_here(text, lambda: fuzzy_positive_loss(logits, logits, reduction=reduction, **options))
    criterion = FuzzyPositiveLoss(reduction=reduction, **options)
    points_here(text, lambda: criterion(logits, logits))


def test_of_a_compiled_step():
    step = torch.compile(lambda: fuzzy_positive_loss(MANY, MANY, confidence_threshold=0.95), backend="aot_eager")
    points_here("at or above threshold", step)


@pytest.mark.parametrize("found_by", ["a look", "an attempt"])
def test_of_an_engine_that_cannot_run(monkeypatch, found_by):
    def fail(_):
        raise packages.UnavailableError("no headers")

    monkeypatch.setattr(choice, "COMPILED_MIN_LOGITS", 0)
    monkeypatch.setattr(packages, "load", fail)
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None if found_by == "an attempt" else "no headers")
    criterion = FuzzyPositiveLoss(max_positives=1)
    points_here("no headers", lambda: fuzzy_positive_loss(MANY, MANY))
    points_here("no headers", lambda: criterion(MANY, MANY))
    points_here("no headers", lambda: adaptive_threshold(MANY))
