"""Suites of cases: a short one for everyday use, and the full grid that performance claims rest on."""

from dataclasses import replace
from typing import Literal, NamedTuple

import torch

from fpl_fast.bench.cases import OPS, Case, Op

__all__ = ["PROBLEMS", "Row", "Suite", "selection"]

Suite = Literal["headline", "full"]
# Named like the files test_*.py that measure them.
PROBLEMS = ("fuzzy_positive", "upsampling", "cross_entropy", "scale")


class Row(NamedTuple):
    """One case of a suite."""

    case: Case
    ops: tuple[Op, ...] = ("both",)
    """The parts of a step to time."""
    compiled_peers: bool = False
    """Whether to time also peers that compile for every case, which takes longer than everything else together."""


def selection(problem: str, suite: Suite, device_type: str) -> list[Row]:
    """List the cases of a problem, the most informative first: when time runs out, the last ones are left out.

    Args:
        problem: One of ``PROBLEMS``.
        suite: "headline" or "full".
        device_type: "cpu" gives two float32 crops, since an engine compiles for each type and number of classes; other
            types give eight bfloat16 crops.
    """
    cpu = device_type == "cpu"
    headline, further = {
        "fuzzy_positive": _fuzzy_positive,
        "upsampling": _upsampling,
        "cross_entropy": _cross_entropy,
        "scale": _scale,
    }[problem](cpu)
    return headline if suite == "headline" else [*headline, *further]


def base_case(*, cpu: bool) -> Case:
    """Base case; every other case varies one property of it."""
    return Case() if cpu else Case(shape=(8, 19, 512, 512), dtype=torch.bfloat16)


def _fuzzy_positive(cpu: bool) -> tuple[list[Row], list[Row]]:
    base = base_case(cpu=cpu)
    uncapped, confident = replace(base, max_positives=None), replace(base, teacher="confident")
    images = base.shape[0]
    if cpu:
        headline = [Row(base, OPS, compiled_peers=True), Row(uncapped), Row(confident)]
        types = [replace(base, dtype=torch.bfloat16), replace(base, layout="nhwc")]
    else:
        float32 = replace(base, dtype=torch.float32)
        headline = [
            Row(base, OPS, compiled_peers=True),
            *(Row(case, OPS) for case in (float32, uncapped, replace(base, layout="nhwc"), _classes(base, 150))),
        ]
        types = [
            confident,
            replace(confident, max_positives=None),
            replace(base, dtype=torch.float16),
            replace(float32, layout="nhwc"),
        ]
    further = [
        *types,
        # Pixel counts that no power of two divides, and the crop sizes of the papers.
        *(replace(base, shape=(images, 19, side, side)) for side in (800, 769, 513)),
        *(_classes(base, classes) for classes in (2, 21, 60)),
        *([_classes(base, 150)] if cpu else []),
        replace(_classes(base, 150), max_positives=None),
    ]
    return headline, [Row(case, OPS) for case in further]


def _upsampling(cpu: bool) -> tuple[list[Row], list[Row]]:
    if cpu:
        base = Case(shape=(2, 19, 128, 128), size=(512, 512))
        further = [replace(base, shape=(2, 19, 97, 97), size=(769, 769)), replace(base, max_positives=1)]
        return [Row(base)], [Row(case) for case in further]
    base = Case(shape=(16, 19, 200, 200), size=(800, 800), dtype=torch.bfloat16)
    further = [
        replace(base, dtype=torch.float32),
        replace(base, max_positives=1),
        replace(base, max_positives=None),
        replace(base, layout="nhwc"),
        replace(base, shape=(16, 21, 128, 128), size=(512, 512)),
        replace(base, shape=(8, 19, 97, 97), size=(769, 769)),  # output stride 8, corners aligned
    ]
    return [Row(base, OPS, compiled_peers=True)], [Row(case, OPS) for case in further]


def _cross_entropy(cpu: bool) -> tuple[list[Row], list[Row]]:
    base = replace(base_case(cpu=cpu), max_positives=1)
    labels = replace(base, labels=True)
    n, c, h, w = base.shape
    headline = [
        Row(labels, compiled_peers=not cpu),
        Row(base),
        Row(replace(labels, shape=(n, c, h // 4, w // 4), size=(h, w))),
    ]
    further = [
        replace(labels, layout="nhwc"),
        replace(labels, dtype=torch.bfloat16 if cpu else torch.float32),
        *(_classes(labels, classes) for classes in (21, 150)),
    ]
    return headline, [Row(case, OPS) for case in further]


def _scale(cpu: bool) -> tuple[list[Row], list[Row]]:
    """Cases of growing size with four classes, so that 1e9 pixels fit; these have more than 2**31 logits."""
    dtype = torch.float32 if cpu else torch.bfloat16
    shapes = [(1, 4, 250, 400), *((images, 4, 1000, 1000) for images in (1, 10, 100, 1000))]
    rows = [Row(Case(shape=shape, dtype=dtype)) for shape in shapes]
    return (rows[:3], rows[3:4]) if cpu else (rows, [])


def _classes(case: Case, num_classes: int) -> Case:
    n, _, h, w = case.shape
    return replace(case, shape=(n, num_classes, h, w))
