"""The report's curves of classes and of pseudo-labels over the evaluations of a run."""

import json
import math
import re

import fresh
import numpy as np
import pytest
from test_report import CLASS_NAMES, write_run

from fpl_fast.trainer.report import read_run, write_report
from fpl_fast.trainer.report.progress import class_progress

TEACHER = {
    "teacher_accuracy": "Right pseudo-labels on validation",
    "teacher_inclusion": "Truth among the fuzzy positives on validation",
    "teacher_positives": "Mean K on validation",
    "teacher_confidence": "Confidence of the teacher on validation",
}


def add_evaluations(run, class_names, iou, *, every=10):
    """Append evaluations with the IoU of each class, (evaluations, classes), to the log of a run."""
    with (run / "metrics.jsonl").open("a") as file:
        for place, values in enumerate(iou.tolist(), start=1):
            record = {"step": place * every, "split": "val"} | dict.fromkeys(TEACHER, place / len(iou))
            scores = [None if math.isnan(value) else value for value in values]
            file.write(json.dumps(record | dict(zip((f"iou/{n}" for n in class_names), scores, strict=True))) + "\n")
    return run


def growing(num_evaluations, num_classes):
    """IoU that grows, some classes faster than others, and one class that is not there."""
    rate = fresh.rng().uniform(0.3, 4, num_classes)
    iou = 1 - np.exp(-rate * np.linspace(0.02, 1, num_evaluations)[:, None])
    iou[:, -1] = math.nan
    return iou


def cells(page, name):
    """Titles of the cells of a class, and the text of its row."""
    (row,) = [row for row in re.findall(r"<tr>.*?</tr>", page) if f"{name}</th><td class=cells>" in row]
    return re.findall(r"<title>(.*?)</title>", row), re.sub(r"<.*?>", " ", row.replace("&nbsp;", " "))


def test_a_row_of_cells_for_each_class(tmp_path):
    iou = growing(5, 7)
    iou[1, 0] = math.nan
    page = class_progress(read_run(add_evaluations(write_run(tmp_path / "run"), CLASS_NAMES, iou)))
    titles, _ = cells(page, "sky")
    assert titles == [f"sky, step {10 * (e + 1)}: {100 * iou[e, 1]:.1f} %" for e in range(5)]
    opacity = [float(x) for x in re.findall(r"accent\) / ([\d.]+)\)", page[page.index(">sky<") : page.index(">car<")])]
    assert opacity == pytest.approx(list(0.08 + 0.92 * iou[:, 1]), abs=0.006) and opacity == sorted(opacity)
    _, text = cells(page, "sky")
    assert text.split()[-4:] == f"{100 * iou[-1, 1]:.1f} % {100 * iou[-1, 1]:.1f} %".split()  # best and last
    titles, _ = cells(page, "road")
    assert len(titles) == 4 and not any("step 20:" in title for title in titles)  # a gap
    titles, text = cells(page, "fence")
    assert titles == [] and text.split()[-2:] == ["–", "–"] and "nan" not in page


@pytest.mark.parametrize("num_evaluations", [2, 39, 40, 41, 500])
def test_many_evaluations_are_thinned_out_but_for_the_first_and_the_last(tmp_path, num_evaluations):
    run = add_evaluations(write_run(tmp_path / "run"), CLASS_NAMES, growing(num_evaluations, 7))
    titles, _ = cells(class_progress(read_run(run)), "road")
    assert len(titles) == min(num_evaluations, 40)
    assert titles[0].startswith("road, step 10:") and titles[-1].startswith(f"road, step {num_evaluations * 10:,}:")


@pytest.mark.parametrize("num_evaluations", [0, 1])
def test_fewer_than_two_evaluations_show_nothing(tmp_path, num_evaluations):
    """Also runs of earlier versions, whose log has no classes."""
    run = add_evaluations(write_run(tmp_path / "run"), CLASS_NAMES, growing(num_evaluations, 7))
    assert class_progress(read_run(run)) == ""
    assert "Classes over training" not in write_report(run).read_text()


def test_classes_have_no_curves_and_the_teacher_has(tmp_path):
    run = add_evaluations(write_run(tmp_path / "run"), ["<script>", *CLASS_NAMES[1:]], growing(3, 7))
    page = write_report(run).read_text()
    for title in TEACHER.values():
        assert page.count(f'<svg role="img" aria-label="{title}: ') == 1
    assert "<h2>Classes over training</h2>" in page and "&lt;script&gt;" in page and "<script" not in page
    assert page.count("<div class=card><h3>") == 8 + len(TEACHER)
