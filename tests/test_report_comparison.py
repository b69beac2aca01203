"""Compared runs in the report: spread over seeds or a caution, settings that differ, numbers of images."""

import json
import re

import pytest
import yaml
from test_report import write_run

from fpl_fast.trainer.report import write_report


def changed(path, **settings):
    """Change settings of a run, given as section__key."""
    config = yaml.safe_load((path / "config.yaml").read_text())
    for key, value in settings.items():
        section, _, name = key.partition("__")
        config.setdefault(section, {})[name] = value
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def scored(path, miou):
    evaluation = json.loads((path / "evaluation.json").read_text())
    (path / "evaluation.json").write_text(json.dumps(evaluation | {"miou": miou}))
    return path


def test_one_seed_of_each_is_said(tmp_path):
    run, other = (write_run(tmp_path / name, seed=i) for i, name in enumerate(("fpl", "supervised")))
    changed(other, method__name="supervised")
    assert "One seed of each" in write_report(run, compare=[other]).read_text()
    assert "One seed of each" not in write_report(run).read_text()


def test_runs_that_differ_in_the_seed_alone_are_averaged(tmp_path):
    scores = {"a0": 0.30, "a1": 0.34, "a2": 0.35, "b0": 0.5}
    paths = {name: scored(write_run(tmp_path / name), miou) for name, miou in scores.items()}
    for name, path in paths.items():
        changed(path, train__seed=int(name[1]), method__name=name[0])
    page = write_report(paths["a2"], compare=[paths[name] for name in ("a0", "b0", "a1")]).read_text()
    lines = re.findall(r"<li>([\d.]+(?: ± [\d.]+)?&nbsp;% \(\d\)): ([^<]*)</li>", page)
    # 30, 34 and 35: mean 33, deviations -3, 1 and 2, standard deviation sqrt(14 / 2)
    assert lines == [("33.0 ± 2.6&nbsp;% (3)", "a0, a1, a2"), ("50.0&nbsp;% (1)", "b0")]
    assert "One seed of each" not in page


def test_differing_settings(tmp_path):
    run, other = (write_run(tmp_path / name) for name in ("fpl", "supervised"))
    assert "Differing settings" not in write_report(run, compare=[other]).read_text()
    changed(other, method__name="<supervised>", train__seed=3)
    changed(run, method__name="cps")
    page = write_report(run, compare=[other]).read_text()
    (table,) = re.findall(r"<table class=settings>(.*?)</table>", page)
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert rows == [
        ["Setting", "fpl", "supervised"],
        ["method.name", "cps", "&lt;supervised&gt;"],
        ["train.seed", "–", "3"],
    ]
    assert "Differing settings" not in write_report(run).read_text()


@pytest.mark.parametrize("by_lists", [True, False])
def test_numbers_of_images(tmp_path, by_lists):
    run = write_run(tmp_path / "run")
    if by_lists:
        (run / "lists").mkdir()
        lists = {"labelled": {"images": 183}, "unlabelled": {"images": 2792}, "val": {"images": 500}}
        (run / "lists" / "lists.json").write_text(json.dumps(lists))
    else:
        changed(run, data__num_labelled=183, data__num_unlabelled=2792, data__num_val=500)
    assert (
        "4 labelled images a step · 183 labelled images · 2,792 unlabelled images</p>" in write_report(run).read_text()
    )


def test_damaged_lists(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "lists").mkdir()
    (run / "lists" / "lists.json").write_text('{"labelled": 3}')
    with pytest.raises(ValueError, match=r"lists\.json must hold the number of images of each list, got"):
        write_report(run)
