"""The same inputs give the same bits: again, with any number of threads, and for an image in any batch."""

import itertools

import pytest
import torch
from fuzz_checks import same_bits, threads
from tolerances import GRADIENT
from torch.testing import assert_close

from fpl_fast import (
    adaptive_threshold,
    consistency_loss,
    cross_entropy,
    fuzzy_positive_loss,
    ohem_cross_entropy,
    pseudo_labels,
)
from fpl_fast.engines.chunked import Chunking, Engine, fuzzy_positive_sums
from fpl_fast.kernels.arguments import LossInputs, LossOptions

# Logits and the size that they are upsampled to. PyTorch splits what has more than 2^15 numbers among threads, and a
# softmax always; where 2 or 3 threads part these, no vector of a processor ends.
SHAPES = [((2, 5, 9, 11), None), ((1, 4, 182, 181), None), ((2, 5, 9, 11), (33, 41)), ((1, 3, 33, 70), (131, 281))]
TINY = [((1, 3, 3, 12), None), ((2, 3, 4, 5), (7, 9))]


def draw(shape, size, dtype=torch.float32):
    """The tensors of a call, by the name of their argument."""
    student, teacher, partner = (3 * torch.randn(shape, dtype=dtype) for _ in range(3))
    pixels = (shape[0], *(size or shape[2:]))
    target = torch.randint(0, shape[1], pixels).masked_fill(torch.rand(pixels) < 0.2, 255)
    return {
        "student": student,
        "teacher": teacher,
        "target": target,
        "pixel_weight": torch.rand(pixels),
        "valid_mask": torch.rand(pixels) > 0.2,
        "partner_logits": partner,
        "mix_mask": torch.rand(pixels) > 0.5,
    }


def differentiated(function, student, *others, **keywords):
    """The results of a loss, and its gradient."""
    student = student.detach().requires_grad_()
    found = function(student, *others, **keywords)
    loss, stats = found if isinstance(found, tuple) else (found, ())
    return [loss.detach(), *stats, *torch.autograd.grad(loss.sum(), student)]


def fuzzy(*masks, **options):
    return lambda given, **common: differentiated(
        fuzzy_positive_loss, given["student"], given["teacher"], **{name: given[name] for name in masks}, **options,
        **common,
    )  # fmt: skip


def distance(**options):
    return lambda given, **common: differentiated(
        consistency_loss,
        given["student"],
        given["teacher"],
        **{name: given[name] for name in ("pixel_weight", "valid_mask")},
        **options,
        **common,
    )


def labelled(function, *masks, **options):
    return lambda given, **common: differentiated(
        function, given["student"], given["target"], **{name: given[name] for name in masks}, **options, **common
    )


def predicted(given, **common):
    return [x for x in pseudo_labels(given["teacher"], threshold=0.9, **common) if x is not None]


def chosen(given, **common):
    return [adaptive_threshold(given["teacher"], **common)]


MASKS = ("pixel_weight", "valid_mask", "partner_logits", "mix_mask")
CALLS = {
    **{f"fuzzy {weighting}": fuzzy(weighting=weighting) for weighting in ("none", "linear", "convex", "concave")},
    "fuzzy hinge": fuzzy(form="hinge", weighting="linear"),
    "fuzzy with all": fuzzy(*MASKS, balance=True, confidence_power=1.7, confidence_threshold=0.4, return_stats=True),
    "fuzzy each pixel": fuzzy(reduction="none", weighting="concave"),
    "fuzzy weighted mean": fuzzy("pixel_weight", reduction="weighted_mean"),
    "mse": distance(),
    "kl": distance(kind="kl"),
    "cross entropy": labelled(cross_entropy, "pixel_weight"),
    "ohem": labelled(ohem_cross_entropy, min_kept=100),
    "pseudo labels": predicted,
    "adaptive threshold": chosen,
}


def assert_the_same_bits(call, numbers):
    with threads(1):
        first = call()
    for number in numbers:
        with threads(number):
            for place, (one, other) in enumerate(zip(first, call(), strict=True)):
                assert same_bits(one, other), f"result {place} with {number} threads"


@pytest.mark.parametrize(("shape", "size"), SHAPES)
@pytest.mark.parametrize("name", CALLS)
def test_the_eager_engine_with_any_number_of_threads(name, shape, size):
    given = draw(shape, size)
    has_products = size is not None and name not in ("pseudo labels", "adaptive threshold")  # see the test below

    def call():
        found = CALLS[name](given, size=size, engine="eager")
        return found[:-1] if has_products else found

    assert_the_same_bits(call, (1, 2, 3))


@pytest.mark.parametrize("function", [fuzzy, distance])
def test_a_gradient_with_size_differs_by_the_rounding_of_a_product_at_most(function):
    """The adjoint of the interpolation is a product of matrices, and BLAS may add in another order for more threads."""
    given, call = draw((1, 4, 50, 50), (397, 397)), function(reduction="sum")
    with threads(1):
        *_, first = call(given, size=(397, 397), engine="eager")
    for number in (2, 3, 4):
        with threads(number):
            *_, other = call(given, size=(397, 397), engine="eager")
        assert first.abs().max() > 1  # or the absolute tolerance would say nothing
        assert_close(other, first, **GRADIENT[torch.float32])


@pytest.mark.parametrize("name", ["fuzzy convex", "mse", "cross entropy"])
def test_the_eager_engine_in_float64_with_any_number_of_threads(name):
    """Nothing rounds the sums to fewer digits, which could hide another order."""
    given = draw((1, 4, 182, 181), None, torch.float64)
    assert_the_same_bits(lambda: CALLS[name](given, engine="eager"), (1, 2, 3))


def test_one_long_sum_with_any_number_of_threads():
    """Sums of the weights of labels and of the terms of a large chunk; several, as another order often rounds alike."""
    shape = (1, 2, 182, 181)
    options = LossOptions(0.9, 1, "none", 1.0, "smooth", 0.0, 0.0)
    logits = torch.zeros(shape, dtype=torch.float64)

    def summed(terms):
        keywords = {"scale": None, "with_grad": False, "with_stats": False}
        inputs = LossInputs(logits, logits)
        engine = Engine(lambda *_, **__: (terms, None), Chunking(1 << 17))
        return [fuzzy_positive_sums(engine, inputs, options, **keywords)[0]]

    for _ in range(10):
        given, terms = draw(shape, None), torch.rand(1, 182 * 181, dtype=torch.float64)
        assert_the_same_bits(lambda given=given: CALLS["cross entropy"](given, engine="eager"), (2, 3))
        assert_the_same_bits(lambda terms=terms: summed(terms), (2, 3))


@pytest.mark.parametrize(("name", "tiny"), list(itertools.product(["fuzzy with all", "mse", "cross entropy"], TINY)))
def test_the_kernels_with_any_number_of_threads(kernel_device, name, tiny):
    given = {name: x.to(kernel_device) for name, x in draw(*tiny).items()}
    assert_the_same_bits(lambda: CALLS[name](given, size=tiny[1], engine="triton"), (1, 2))


@pytest.mark.parametrize(("shape", "size"), [SHAPES[0], SHAPES[2]])
@pytest.mark.parametrize(("name", "function"), [("fuzzy", fuzzy), ("consistency", distance)])
def test_an_image_has_its_gradient_in_any_batch(shape, size, name, function):
    call = function(reduction="sum")
    given = draw(shape, size)
    *_, whole = call(given, size=size, engine="eager")
    for i in range(shape[0]):
        *_, alone = call({name: x[i : i + 1] for name, x in given.items()}, size=size, engine="eager")
        assert same_bits(alone, whole[i : i + 1])
