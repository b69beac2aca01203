import re
from pathlib import Path

import pytest

from fpl_fast.trainer.recipes.schedule import num_labelled, num_steps


@pytest.mark.parametrize(
    ("data", "setting", "steps"),
    [
        # as the public code of CPS counts them; 1/32 by the rule of equal totals
        ("voc", "cps", {"1/16": 39_680, "1/8": 39_338, "1/4": 39_680, "1/2": 39_660}),
        ("city", "cps", {"1/32": 44_640, "1/16": 44_544, "1/8": 44_525, "1/4": 44_640, "1/2": 44_640}),
        # as the public code of AEL counts them
        ("voc", "ael", {"1/16": 49_600, "1/8": 46_320, "1/4": 39_680}),
        ("city", "ael", {"1/32": 36_000, "1/16": 34_800, "1/8": 32_600, "1/4": 27_800, "1/2": 18_600}),
    ],
)
def test_steps_are_the_published_ones(data, setting, steps):
    assert {partition: num_steps(data, setting, partition) for partition in steps} == steps


def test_parts_without_a_documented_length_keep_the_total():
    for data in ("voc", "city"):
        total = num_steps(data, "cps", "1/2")
        assert abs(num_steps(data, "cps", "1/32") - total) < 0.02 * total


def test_labelled_images_are_those_of_the_lists():
    assert [num_labelled("voc", f"1/{d}") for d in (16, 8, 4, 2)] == [662, 1323, 2646, 5291]
    assert [num_labelled("city", f"1/{d}") for d in (32, 16, 8, 4, 2)] == [93, 186, 372, 744, 1488]


PARTS = {"VOC": ("1/16", "1/8", "1/4"), "Cityscapes": ("1/32", "1/16", "1/8", "1/4", "1/2")}
DOCUMENTED = re.findall(
    r"^\| (VOC|Cityscapes), (.+?) \| .+? \| .+? \| ([\d ]+) – ([\d ]+) \|",
    Path(__file__).parents[1].joinpath("docs", "a100.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("data, methods, least, most", DOCUMENTED)
def test_documented_steps(data, methods, least, most):
    name, setting = {"VOC": "voc", "Cityscapes": "city"}[data], "ael" if "AEL" in methods else "cps"
    steps = [num_steps(name, setting, partition) for partition in PARTS[data]]
    assert [int(text.replace(" ", "")) for text in (least, most)] == [min(steps), max(steps)]


def test_all_cells_are_documented():
    assert len(DOCUMENTED) == 8
