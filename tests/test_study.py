import math

import pytest
from study_cases import GRID, write

from fpl_fast.trainer.commands.study import main
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.recipes.published import Published
from fpl_fast.trainer.study.grid import Cell, read_study
from fpl_fast.trainer.study.state import TrialState
from fpl_fast.trainer.study.statistics import CellResult, Difference, cell_results, differences
from fpl_fast.trainer.study.text import cell_text, difference_text


def test_a_grid_is_a_product_and_every_setting_arrives(tmp_path):
    study = read_study(write(tmp_path, **GRID), overrides=["--optim.momentum", "0.5"])
    assert (study.name, len(study.cells), len(study.trials)) == ("mine", 8, 16)
    last = study.trials[-1]
    assert last.cell == ("synthetic/fpl_cps", "fast", "1/4", "-")
    assert last.name == "synthetic_fpl_cps-fast-1_4-seed5"
    config = last.config
    assert (config.data.num_labelled, config.optim.lr, config.train.steps, config.train.seed) == (16, 0.1, 30, 5)
    assert (config.eval.every, config.optim.momentum, config.recipe) == (10, 0.5, "synthetic/fpl_cps")
    assert len({trial.name for trial in study.trials}) == 16


def test_names_stay_when_a_study_is_extended(tmp_path):
    before = read_study(write(tmp_path, **GRID))
    after = read_study(write(tmp_path, **GRID | {"seeds": 6, "recipes": ["synthetic/supervised", *GRID["recipes"]]}))
    of_after = {trial.name: trial for trial in after.trials}
    assert all(of_after[trial.name] == trial for trial in before.trials)


def test_grids_share_what_they_do_not_give(tmp_path):
    grids = [{}, {"recipes": ["synthetic/ael"], "seeds": 1, "settings": {"train.steps": 40}}]
    study = read_study(write(tmp_path, recipes=["synthetic/cps"], seeds=2, settings={"eval.every": 5}, grids=grids))
    assert [(t.cell.recipe, t.seed, t.config.train.steps, t.config.eval.every) for t in study.trials] == [
        ("synthetic/cps", 0, 600, 5),
        ("synthetic/cps", 1, 600, 5),
        ("synthetic/ael", 0, 40, 5),
    ]
    assert len(read_study(write(tmp_path, recipes=["synthetic/cps"], grids=grids), seeds=3).trials) == 6


@pytest.mark.parametrize(("name", "cells"), [("voc-table", 66), ("city-table", 69)])
def test_the_papers_tables_by_name(name, cells):
    study = read_study(name, overrides=["--data.root", "D"])
    assert len(study.cells) == len(study.trials) == cells
    results = cell_results(study, {trial.name: TrialState("waiting", 0, None, 0.0, ()) for trial in study.trials})
    assert all(result.published is not None and result.mean is None for result in results)
    for trial in study.trials:
        recipe = make_recipe(trial.cell.recipe, partition=trial.cell.partition)
        assert trial.config.train.steps == recipe.train.steps and trial.config.method == recipe.method
        assert trial.config.model.backbone == trial.cell.backbone
    assert all(trial.config.data.root == "D" for trial in study.trials)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": []}, r"mine\.yaml: unknown key 'recipe': did you mean 'recipes'"),
        ({"recipes": "synthetic/cps"}, r"recipes must be a list such as \[voc/cps, voc/fpl_cps\], got 'synthetic/cps'"),
        ({"recipes": ["synthetic/csp"]}, r"mine\.yaml: synthetic/csp, usual 1/8: recipe: no such recipe"),
        ({"recipes": []}, "must have at least one recipe and one seed, got none"),
        (
            {"seeds": 0},
            "seeds must be their number, 1 to 1000, or a list of integers from 0 to 2^32 - 1, got 0".replace(
                "^", r"\^"
            ),
        ),
        ({"seeds": [-1]}, r"seeds must be .* got \[-1\]"),
        ({"seeds": 10**20}, "seeds must be their number, 1 to 1000"),
        ({"backbones": "resnet50"}, r"backbones must be a list such as \[resnet50, resnet101\], got 'resnet50'"),
        ({"partitions": ["1/8"]}, "a part of the labels must have its settings.*only voc and city have parts by name"),
        ({"variants": {"a": {}, "b": {}}}, "cells must differ in a setting, got the same in synthetic/cps, a 1/8 and"),
        ({"variants": {"a\nb": {}}}, "variants must have names of one line"),
        ({"settings": {"train.seed": 3}}, "train.seed must not be a setting of a study"),
        ({"settings": {"optim.lr": 0.1, "optim": {"lr": 0.2}}}, "must give a key once, got optim.lr twice"),
        ({"seeds": [True]}, r"seeds must be .* got \[True\]"),
        ({"partitions": 3}, "partitions must be a list of names, or names with settings, got 3"),
        ({"variants": {"a": 3}}, r"variants a: settings must be keys and values such as train.steps: 300, got 3"),
        ({"settings": {"optim.lrr": 1}}, r"synthetic/cps, usual 1/8: unknown key 'optim\.lrr'"),
        ({"settings": {"steps": 1}}, "unknown key 'steps': settings are named SECTION.KEY"),
        ({"settings": {"optim.lr": "big"}}, "optim.lr must be a number, got 'big'"),
        ({"grids": [3]}, "grids must be a list of keys and values"),
        ({"grids": [{"recipe": 1}]}, "unknown key 'recipe' in grids"),
        (
            {"grids": [{}, {"settings": {"optim.lr": 0.2}}]},
            "names must tell the runs of a study apart, got synthetic_cps-usual-1_8-seed3 twice with other settings",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_study(write(tmp_path, **GRID | changes))


def test_no_such_study(tmp_path):
    with pytest.raises(
        ValueError, match="one of voc-table, city-table, quickstart, got 'voc-tabel': did you mean 'voc-table'"
    ):
        read_study("voc-tabel")
    with pytest.raises(ValueError, match="cannot be read"):
        read_study(str(tmp_path / "none.yaml"))


BASE = Cell("city/cps", "-", "1/8", "resnet50")


def test_mean_and_deviation_by_hand():
    result = CellResult(BASE, 4, {0: 70.0, 1: 71.0, 2: 74.0}, Published(73.06, None))
    assert result.mean == pytest.approx(215 / 3)
    # (1.6667^2 + 0.6667^2 + 2.3333^2) / 2 = 4.3333
    assert result.deviation == pytest.approx(math.sqrt(13 / 3))
    assert result.gap == pytest.approx(215 / 3 - 73.06)
    assert cell_text(result) == "71.67 ± 2.08 (3 of 4); paper 73.06, −1.39"
    one = CellResult(BASE, 1, {0: 70.0}, None)
    assert (one.mean, one.deviation, one.gap, cell_text(one)) == (70.0, None, None, "70.00 (1)")
    assert cell_text(CellResult(BASE, 1, {}, None)) == "–"


def test_confidence_interval_by_hand():
    difference = Difference(BASE, BASE, (1.0, 2.0, 3.0, 6.0))
    # Mean 3, deviation sqrt(14 / 3), and 3.18245 from a table of Student's t with three degrees of freedom.
    half = 3.18245 * math.sqrt(14 / 3) / 2
    assert difference.interval == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert difference_text(difference) == ("+3.00 ± 2.16", "−0.44 to +6.44", "4")
    assert difference_text(Difference(BASE, BASE, (-0.5,))) == ("−0.50", "one seed", "1")


def result(recipe, variant="-", partition="1/8", **scores):
    return CellResult(Cell(recipe, variant, partition, "-"), 3, {int(k[1:]): v for k, v in scores.items()}, None)


def test_only_seeds_that_both_have_are_compared():
    found = differences([result("city/cps", s0=70.0, s1=71.0), result("city/fpl_cps", s1=72.5, s2=99.0)])
    assert [(d.cell.recipe, d.baseline.recipe, d.values) for d in found] == [("city/fpl_cps", "city/cps", (1.5,))]


def test_baselines_have_the_same_part_and_variant():
    results = [
        result("city/supervised", s0=1.0),
        result("city/cps", s0=2.0),
        result("city/cps", partition="1/4", s0=7.0),
        result("city/fpl_cps", s0=4.0),
        result("city/fpl_cps", "cap 1", s0=5.0),
        result("city/cps", "cap 1", s0=3.5),
        result("city/fpl_ael", partition="1/2", s0=9.0),  # nothing to hold it against
    ]
    found = {(d.cell.row, d.baseline.row): d.values for d in differences(results)}
    assert found == {
        ("city/cps", "city/supervised"): (1.0,),
        ("city/fpl_cps", "city/cps"): (2.0,),
        ("city/fpl_cps", "city/supervised"): (3.0,),
        ("city/fpl_cps, cap 1", "city/cps, cap 1"): (1.5,),
        ("city/fpl_cps, cap 1", "city/supervised"): (4.0,),
        ("city/fpl_cps, cap 1", "city/fpl_cps"): (1.0,),
        ("city/cps, cap 1", "city/supervised"): (2.5,),
        ("city/cps, cap 1", "city/cps"): (1.5,),
    }


def test_a_cluster_option_that_is_no_yaml_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--cluster-option mem must be YAML: .*") as caught:
        main([str(write(tmp_path, recipes=["synthetic/cps"])), "--cluster", "slurm", "--cluster-option", "mem=[1"])
    assert "\n" not in str(caught.value)
