"""Errors on wrong arguments: one line with the argument, the rule, the value and the remedy."""

import inspect
from typing import get_type_hints

import numpy as np
import pytest
import torch
from tolerances import INVARIANT
from torch.testing import assert_close

import fpl_fast
from fpl_fast import (
    consistency,
    cross_entropy,
    functional,
    fuzzy_positive_assignment,
    fuzzy_positive_loss,
    label_losses,
    ohem_cross_entropy,
)
from fpl_fast.checks import CONSISTENCY_RULES, LABEL_RULES, LOSS_RULES

STUDENT, TEACHER = torch.randn(2, 1, 5, 2, 2).unbind(0)
TARGET = torch.randint(0, 5, (1, 2, 2))
FLAG = torch.ones(1, 2, 2, dtype=torch.bool)

LOGITS = [
    (torch.randn(5, 2, 2), r"the four dimensions \(N, C, H, W\), got shape \(5, 2, 2\); unsqueeze\(0\) adds"),
    (torch.zeros(1, 5, 2, 2, dtype=torch.int64), r"floating point \(.* not labels\), got torch.int64; .*cross_entropy"),
    (TARGET, r"floating point \(.* not labels\), got torch.int64; .*cross_entropy"),
    ([[1.0, 2.0]], r"must be a tensor, got \[\[1.0, 2.0\]\]; torch.as_tensor\(\w+\) makes one"),
    (np.zeros((1, 5, 2, 2)), r"must be a tensor, got an array of shape \(1, 5, 2, 2\); torch.as_tensor"),
    (torch.randn(1, 5, 2, 2).to_sparse(), r"must be dense, got the layout torch.sparse_coo; \w+.to_dense\(\) is"),
    (torch.randn(1, 5, 2, 2).to(torch.float8_e4m3fn), r"at least 16 bits, got torch.float8_e4m3fn; \w+.bfloat16\(\)"),
    (torch.randn(1, 1, 2, 2), r"at least 2 classes in dimension 1, got shape \(1, 1, 2, 2\); torch.cat"),
]
NUMBERS = [
    ({"threshold": 0.0}, r"threshold must lie in \(0, 1\], got 0.0; the paper's is 0.9"),
    ({"threshold": 1.5}, r"threshold must lie in \(0, 1\], got 1.5"),
    ({"threshold": float("nan")}, r"threshold must lie in \(0, 1\], got nan"),
    ({"threshold": "0.9"}, r"threshold must be a number in \(0, 1\], got '0.9'; leave out the quotes"),
    ({"threshold": True}, r"threshold must be a number in \(0, 1\], got True"),
    ({"threshold": None}, r"threshold must be a number in \(0, 1\], got None"),
    ({"threshold": torch.tensor(0.9)}, r"must be a number .* got a tensor of shape \(\); give the number itself"),
    ({"max_positives": 0}, "max_positives must be an integer >= 1 or None, got 0; None sets no cap"),
    ({"max_positives": 2.5}, "max_positives must be an integer >= 1 or None, got 2.5"),
    ({"max_positives": True}, "max_positives must be an integer >= 1 or None, got True"),
    ({"max_positives": torch.tensor(3)}, r"max_positives must be .* or None, got a tensor of shape \(\)"),
]
OPTIONS = [
    *NUMBERS,
    ({"convex_scale": -1.0}, "convex_scale must be finite and >= 0, got -1.0; the paper's are 1 and 4"),
    ({"convex_scale": 10**400}, r"convex_scale must be finite and >= 0, got 10+\.\.\.; the paper's are 1 and 4"),
    ({"convex_scale": "4"}, "convex_scale must be a number >= 0, got '4'; leave out the quotes"),
    ({"weighting": "cubic"}, "weighting must be one of 'none', 'linear', 'convex', 'concave', got 'cubic'"),
    ({"weighting": None}, "weighting must be one of 'none', 'linear', 'convex', 'concave', got None"),
    ({"form": "square"}, "form must be one of 'smooth', 'hinge', got 'square'"),
    ({"reduction": "avg"}, "reduction must be one of 'none', 'sum', 'mean', 'weighted_mean', got 'avg'"),
    ({"confidence_threshold": 1.5}, r"confidence_threshold must lie in \[0, 1\], got 1.5; 0 sets no gate"),
    ({"confidence_threshold": [0.5]}, r"confidence_threshold must be a number in \[0, 1\], got \[0.5\]"),
    ({"confidence_power": -1.0}, "confidence_power must be finite and >= 0, got -1.0; 0 leaves it out"),
    ({"engine": "cuda"}, "engine must be one of 'auto', 'triton', 'compiled', 'eager', got 'cuda'"),
    ({"size": (0, 4)}, r"size must be \(H, W\), two integers >= 1, got \(0, 4\); such as labels.shape\[-2:\]"),
    ({"size": 4}, r"size must be \(H, W\), two integers >= 1, got 4"),
    ({"size": (4.5, 4)}, r"size must be \(H, W\), two integers >= 1, got \(4.5, 4\)"),
    ({"size": (1, 4, 4)}, r"size must be \(H, W\), two integers >= 1, got \(1, 4, 4\)"),
    ({"size": torch.tensor([4, 4])}, r"size .* got a tensor of shape \(2,\); tuple\(size.tolist\(\)\) makes them"),
    ({"size": np.array([4, 4])}, r"size .* got an array of shape \(2,\); tuple\(size.tolist\(\)\) makes them"),
    ({"align_corners": None}, "align_corners must be True or False, got None"),
    ({"balance": "no"}, "balance must be True or False, got 'no'"),
    ({"return_stats": 2}, "return_stats must be True or False, got 2"),
]
TENSORS = [
    (
        {"student_logits": torch.randn(1, 4, 2, 2)},
        r"of student_logits \(1, 4, 2, 2\), got \(1, 5, 2, 2\); both must come from the same images",
    ),
    ({"student_logits": STUDENT.to("meta")}, r"of student_logits \(meta\), got cpu; move it with .*\.to\('meta'\)"),
    ({"valid_mask": [1]}, r"valid_mask must be a tensor, got \[1\]; torch.as_tensor\(valid_mask\) makes one"),
    ({"valid_mask": torch.ones(1, 2, 2)}, r"valid_mask must be bool, got torch.float32; valid_mask.bool\(\) is"),
    ({"valid_mask": FLAG[0]}, r"valid_mask must have shape \(N, H, W\) = \(1, 2, 2\), got \(2, 2\)"),
    ({"valid_mask": FLAG[:, None]}, r"got \(1, 1, 2, 2\); valid_mask.squeeze\(1\) drops the dimension of channels"),
    ({"valid_mask": FLAG.to("meta")}, r"on the logits' device \(cpu\), got meta; move it with valid_mask.to\('cpu'\)"),
    ({"pixel_weight": FLAG.int()}, r"pixel_weight must be floating point, got torch.int32; pixel_weight.float\(\) is"),
    ({"pixel_weight": torch.ones(1, 4, 4)}, r"pixel_weight must have shape .* got \(1, 4, 4\)"),
    ({"partner_logits": TEACHER}, "must be given together, got no mix_mask; give both or neither"),
    ({"mix_mask": FLAG}, "must be given together, got no partner_logits; give both or neither"),
]
LABELS = [
    ({"target": torch.zeros(2, 3, 4)}, r"\(N, H, W\) = \(1, 2, 2\), got \(2, 3, 4\); where a function takes size"),
    ({"target": TARGET[:, None]}, r"got \(1, 1, 2, 2\); target.squeeze\(1\) drops the dimension of channels"),
    ({"target": STUDENT.long()}, r"got \(1, 5, 2, 2\); target.argmax\(1\) makes labels of one-hot vectors"),
    ({"target": TARGET.float()}, r"target must be uint8, int32 or int64, got torch.float32; target.long\(\) is"),
    (
        {"target": TARGET.numpy()},
        r"target must be a tensor, got an array of shape \(1, 2, 2\); torch.as_tensor\(target",
    ),
    ({"weight": [1.0, 1.0]}, r"weight must be a tensor, got \[1.0, 1.0\]; torch.as_tensor\(weight\) makes one"),
    ({"weight": torch.ones(4)}, r"\(C,\) = \(5,\), got torch.float32 \(4,\); it has one number for each class"),
    ({"reduction": "weighted_mean"}, "reduction must be one of 'none', 'sum', 'mean', got 'weighted_mean'"),
    ({"engine": "compiled"}, "engine must be one of 'auto', 'triton', 'eager', got 'compiled'"),
]
MINING = [
    ({"min_kept": 0}, "min_kept must be an integer >= 1, got 0; it counts pixels of an image"),
    ({"min_kept": 0.5}, "min_kept must be an integer >= 1, got 0.5"),
    ({"threshold": "0.7"}, r"threshold must be a number in \(0, 1\], got '0.7'; leave out the quotes"),
    ({"threshold": 0}, r"threshold must lie in \(0, 1\], got 0; at 1 every pixel is kept"),
]


def refused(function, message, **arguments):
    with pytest.raises(ValueError, match=message) as caught:
        function(**arguments)
    said = str(caught.value)
    assert "\n" not in said and "class '" not in said and len(said) < 250


@pytest.mark.parametrize(("arguments", "message"), OPTIONS + TENSORS)
def test_of_the_fuzzy_positive_loss(arguments, message):
    refused(fuzzy_positive_loss, message, **{"student_logits": STUDENT, "teacher_logits": TEACHER} | arguments)


@pytest.mark.parametrize(("logits", "message"), LOGITS)
def test_of_logits(logits, message):
    refused(fuzzy_positive_loss, f"student_logits .*{message}", student_logits=logits, teacher_logits=TEACHER)
    refused(fuzzy_positive_loss, f"teacher_logits .*{message}", student_logits=STUDENT, teacher_logits=logits)
    refused(cross_entropy, f"^logits .*{message}", logits=logits, target=TARGET)
    refused(fpl_fast.consistency_loss, f"teacher_logits .*{message}", student_logits=STUDENT, teacher_logits=logits)
    for function in (fuzzy_positive_assignment, fpl_fast.adaptive_threshold, fpl_fast.pseudo_labels):
        refused(function, f"teacher_logits .*{message}", teacher_logits=logits)


@pytest.mark.parametrize(("arguments", "message"), LABELS)
def test_of_labels(arguments, message):
    refused(cross_entropy, message, **{"logits": STUDENT, "target": TARGET} | arguments)


@pytest.mark.parametrize(("arguments", "message"), MINING)
def test_of_mining(arguments, message):
    refused(ohem_cross_entropy, message, **{"logits": STUDENT, "target": TARGET, "min_kept": 2} | arguments)
    refused(fpl_fast.OhemCrossEntropy, message, **{"min_kept": 2} | arguments)


@pytest.mark.parametrize(("arguments", "message"), [case for case in LABELS if "target" in case[0]])
def test_labels_of_mining_are_those_of_the_cross_entropy(arguments, message):
    refused(ohem_cross_entropy, message, **{"logits": STUDENT, "target": TARGET, "min_kept": 2} | arguments)


@pytest.mark.parametrize(("arguments", "message"), NUMBERS)
def test_of_the_assignment(arguments, message):
    refused(fuzzy_positive_assignment, message, teacher_logits=TEACHER, **arguments)


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_modules_check_when_they_are_made(arguments, message):
    refused(fpl_fast.FuzzyPositiveLoss, message, **arguments)
    if set(arguments) <= set(inspect.signature(fpl_fast.PseudoLabelCrossEntropy).parameters):
        refused(fpl_fast.PseudoLabelCrossEntropy, message, **arguments)
    if set(arguments) <= {"size", "align_corners"}:
        refused(fpl_fast.CrossEntropy, message, **arguments)


def test_numbers_of_numpy_and_sizes_of_torch_work():
    numpy = {"threshold": np.float32(0.75), "max_positives": np.int64(2), "confidence_power": np.float64(2.0)}
    python = {"threshold": 0.75, "max_positives": 2, "confidence_power": 2.0}
    for size in (torch.Size([4, 6]), [np.int64(4), np.int32(6)], TEACHER.new_empty(1, 4, 6).shape[-2:]):
        loss = fuzzy_positive_loss(STUDENT, TEACHER, size=size, **numpy)
        assert_close(loss, fuzzy_positive_loss(STUDENT, TEACHER, size=(4, 6), **python), **INVARIANT)
        target = torch.zeros(1, 4, 6, dtype=torch.uint8)
        loss = ohem_cross_entropy(STUDENT, target, min_kept=np.int64(3), threshold=np.float32(0.5), size=size)
        expected = ohem_cross_entropy(STUDENT, target, min_kept=3, threshold=0.5, size=(4, 6))
        assert_close(loss, expected, **INVARIANT)


def test_probabilities_become_logits_by_their_logarithm():
    """The conversion that the docstring names; probabilities cannot be detected without reading them."""
    loss = fuzzy_positive_loss(STUDENT, TEACHER.softmax(1).log())
    assert_close(loss, fuzzy_positive_loss(STUDENT, TEACHER), **INVARIANT)


MODULES = [
    (fpl_fast.FuzzyPositiveLoss, fuzzy_positive_loss, {"threshold": 0.8, "weighting": "linear", "balance": True}),
    (fpl_fast.PseudoLabelCrossEntropy, fpl_fast.pseudo_label_cross_entropy, {"confidence_threshold": 0.3}),
    (fpl_fast.ConsistencyLoss, fpl_fast.consistency_loss, {"kind": "kl", "reduction": "sum"}),
    (fpl_fast.CrossEntropy, cross_entropy, {"weight": torch.rand(5), "ignore_index": 0}),
    (fpl_fast.OhemCrossEntropy, ohem_cross_entropy, {"min_kept": 2, "threshold": 0.2}),
]


@pytest.mark.parametrize(("module", "function", "options"), MODULES)
def test_modules_are_the_functions(module, function, options):
    criterion = module(**options)
    second = TARGET if function in (cross_entropy, ohem_cross_entropy) else TEACHER
    assert_close(criterion(STUDENT, second), function(STUDENT, second, **options), **INVARIANT)
    tensors = {} if function is ohem_cross_entropy else {"pixel_weight": torch.rand(1, 2, 2)}
    assert_close(criterion(STUDENT, second, **tensors), function(STUDENT, second, **options, **tensors), **INVARIANT)
    for name in options:
        assert f"{name}=" in repr(criterion)
    assert "engine" not in repr(criterion) and criterion.state_dict() == {}
    with pytest.raises(TypeError, match=rf"^{module.__name__}\(\) got an unexpected keyword argument 'treshold'"):
        module(**options, treshold=0.8)
    known = set(inspect.signature(function).parameters)
    given = set(inspect.signature(module).parameters) | set(inspect.signature(criterion.forward).parameters)
    assert known == given  # nothing of the function is out of reach


def test_an_option_that_must_be_given():
    with pytest.raises(TypeError, match=r"^OhemCrossEntropy\(\) missing a required .*argument: 'min_kept'$"):
        fpl_fast.OhemCrossEntropy()


def test_of_the_balance():
    tensor, message = torch.tensor(0.5), r"^{} must be a tensor, got 1.0; torch.as_tensor\({}\) makes one$"
    for name in ("cross_entropy", "weighted_loss"):
        sums = {"cross_entropy": tensor, "weighted_loss": tensor} | {name: 1.0}
        refused(fpl_fast.balance_factor, message.format(name, name), **sums)


TYPES = [
    (fpl_fast.FuzzyPositiveLoss, functional.FuzzyPositiveOptions, LOSS_RULES),
    (fpl_fast.PseudoLabelCrossEntropy, functional.PseudoLabelOptions, LOSS_RULES),
    (fpl_fast.ConsistencyLoss, consistency.ConsistencyOptions, CONSISTENCY_RULES),
    (fpl_fast.CrossEntropy, label_losses.CrossEntropyOptions, LABEL_RULES),
    (fpl_fast.OhemCrossEntropy, label_losses.OhemOptions, LABEL_RULES),
]


@pytest.mark.parametrize(("module", "types", "rules"), TYPES)
def test_every_option_of_a_module_has_a_type_and_a_rule(module, types, rules):
    options = set(inspect.signature(module).parameters)
    assert options - {"return_stats"} == set(get_type_hints(types))
    assert options <= set(rules)
    keywords = get_type_hints(functional.LossKeywords)
    assert set(inspect.signature(fuzzy_positive_loss).parameters) == {
        *keywords,
        "student_logits",
        "teacher_logits",
        "return_stats",
    }


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("threshold", 1, True), ("max_positives", 1, True), ("confidence_power", 0, False), ("balance", False, 0),
        ("weighting", "none", ["none"]), ("convex_scale", 1.0, np.ones(1)), ("engine", "eager", {}),
    ],
)  # fmt: skip
def test_options_that_are_right_do_not_hide_wrong_ones_that_equal_them(name, good, bad):
    """Options are checked once for calls that repeat them."""
    for _ in range(2):
        fuzzy_positive_loss(STUDENT, TEACHER, **{name: good})
        with pytest.raises(ValueError, match=f"{name} must be") as caught:
            fuzzy_positive_loss(STUDENT, TEACHER, **{name: bad})
        assert caught.value.__context__ is None  # one error, not one that another led to


def test_numbers_of_any_type_are_the_same_number():
    expected = fuzzy_positive_loss(
        STUDENT, TEACHER, threshold=1.0, max_positives=2, convex_scale=4.0, weighting="convex"
    )
    for whole, real in ((int, int), (np.int64, np.float64), (np.uint8, np.float32)):
        options = {"threshold": real(1), "max_positives": whole(2), "convex_scale": real(4), "weighting": "convex"}
        assert torch.equal(fuzzy_positive_loss(STUDENT, TEACHER, **options), expected)
