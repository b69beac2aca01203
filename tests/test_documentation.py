"""README and docs: Python runs, commands parse, targets and modules exist, the notebook runs, the site builds."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fpl_fast.trainer import cli
from fpl_fast.trainer.commands import bench, data, quickstart, study, train, warmup
from fpl_fast.trainer.study.grid import read_study

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
NAMES = [page.name for page in PAGES]

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="about texts, the same everywhere"),
    pytest.mark.usefixtures("nothing_is_compiled"),
]


def blocks(page, language):
    """The blocks of a page, without their indentation."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


# The blocks of extending.md are a method, which tests/test_extending.py trains.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "extending.md"], ids=lambda page: page.name)
def test_python_runs(page, monkeypatch, tmp_path):
    """Block after block, as a reader would type them, in a folder with a photo."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (96, 80), "green").save("photo.jpg")
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


def commands(page):
    """The command lines of a page's shell blocks; of alternatives the first, of what may be left out all."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s#.*|^#.*|; wait$|\[\.\.\.\]|\s&$", "", line.strip())
            line = re.sub(r"(?<=\w)\|[\w|]+", "", re.sub(r"\[(--[^\]]*)\]", r"\1", line))
            yield from filter(None, (word.strip() for word in line.split(";")))


RUNS = [(page.name, line) for page in PAGES for line in commands(page) if "fpl-fast " in line or "trainer.cli " in line]
# Complaints about data, runs and files that a text only names.
WRONG = r"unknown|unrecognized|invalid choice|no such recipe|expected one argument|required"
ABSENT = r"DATA|CAMVID|runs/|\.json|JSON|STUDY|FILE|must be a folder|missing|no such file"


@pytest.mark.parametrize(("page", "line"), RUNS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(RUNS)])
def test_commands_parse(page, line, monkeypatch, tmp_path, capsys):
    """Every option exists and every value is allowed; nothing is trained, measured or drawn."""
    monkeypatch.chdir(tmp_path)
    done = []
    for module, names in (
        (train, ("run_training", "_show_dry_run")),
        (data, ("_check", "_pack")),
        (study, ("_train", "_predict")),
        (bench, ("_audit", "_train")),
        (quickstart, ("_run",)),
        (warmup, ("_warm_up",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: done.append(True) or 0)
    arguments = shlex.split(re.split(r"fpl-fast |trainer\.cli ", line, maxsplit=1)[1].replace("$i", "0"))
    arguments = ["synthetic/fpl_cps_cutmix" if word == "RECIPE" else word for word in arguments]
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code in (0, None) or (code == 2 and re.search(ABSENT, said) and not re.search(WRONG, said)), said


def test_the_example_of_a_study_is_one(tmp_path):
    (example,) = blocks(ROOT / "docs" / "studies.md", "yaml")
    (tmp_path / "study.yaml").write_text(example, encoding="utf-8")
    caps = {
        trial.cell.variant: trial.config.method.max_positives
        for trial in read_study(str(tmp_path / "study.yaml")).trials
        if trial.cell.recipe == "folder/fpl_cps_cutmix"
    }
    assert (caps["cap 1"], caps["no cap"]) == (1, None)


def test_targets_and_modules_exist():
    """``make TARGET``, ``python -m MODULE``, scripts and files that a command names."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for page in PAGES for line in commands(page)]
    targets = [word for line in lines if line.startswith("make ") for word in line.split()[1:] if "=" not in word]
    assert {"quickstart", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", makefile, flags=re.M), target
    for module in re.findall(r"-m (fpl_fast[\w.]+)", "\n".join(lines)):
        assert importlib.util.find_spec(module), module


def test_promises_name_tests_that_exist():
    promises = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", promises)
    assert len(named) > 40
    for file, name in named:
        assert f"def {name or 'test_'}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)


def test_the_notebook_runs():
    """From top to bottom, in a kernel of its own, and is committed without output."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "docs" / "loss.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()


def test_the_site_builds(tmp_path):
    """Every page is in its place, every link, anchor and reference leads somewhere, all pictures are drawn."""
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25 and not any("http" in src for page in pages for src in scripts(page))


def scripts(page):
    """Sources that a page loads."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="([^"]+)"', text)
