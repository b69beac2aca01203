"""Commands that read a run: eval, report, predict, and what none of them writes over."""

import csv
import json
from pathlib import Path

import fresh
import numpy as np
import pytest
from cli_cases import error_of, finished_run
from PIL import Image
from trainer_runs import tiny_run

from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config.io import save_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    return finished_run(tmp_path_factory.mktemp("cli"))


def test_eval_repeats_the_evaluation(run, capsys):
    before = json.loads((run / "evaluation.json").read_text())
    assert main(["eval", str(run), "--checkpoint", "last"]) == 0
    after = json.loads((run / "evaluation.json").read_text())
    assert after == before
    assert "road" in capsys.readouterr().out


def test_eval_of_other_data_or_weights_leaves_the_result_alone(run, capsys):
    own = {name: (run / name).read_bytes() for name in ("evaluation.json", "confusion.csv", "samples.npz")}
    earlier = set((run / "evaluations").glob("*"))  # of other tests
    for arguments, key in ((["--data.seed", "5"], "data.seed"), (["--data.num_val", "2"], "data.num_val")):
        assert main(["eval", str(run), "--checkpoint", "last", *arguments]) == 0
        assert f"not the run's own result, which differs in {key}" in capsys.readouterr().out
    content = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(content | {"step": 2}))  # as if best and last had parted
    stored = (run / "evaluation.json").read_bytes()
    assert main(["eval", str(run), "--checkpoint", "last"]) == 0
    assert (run / "evaluation.json").read_bytes() == stored
    (run / "evaluation.json").write_bytes(own["evaluation.json"])
    made = {path.name.rpartition("-")[0] for path in set((run / "evaluations").glob("*")) - earlier}
    assert made == {"val-whole-step6", "val-whole"}
    assert {name: (run / name).read_bytes() for name in own} == own


def test_eval_of_other_images_by_another_protocol(run, tmp_path, capsys):
    before = (run / "evaluation.json").read_text()
    arguments = ["--split", "train", "--protocol", "ael", "--eval.window", "[20,20]", "--export", str(tmp_path / "out")]
    assert main(["eval", str(run), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "pixel accuracy" in shown
    assert str(tmp_path / "out") in shown
    assert (run / "evaluation.json").read_text() == before
    (place,) = (run / "evaluations").glob("train-ael-20x20-step[46]")  # the better step is a matter of rounding
    made = json.loads((place / "evaluation.json").read_text())
    assert (made["split"], made["protocol"]) == ("train", "ael 20 x 20")
    with (place / "confusion.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["", *made["class_names"]]
    assert [[int(count) for count in row[1:]] for row in rows[1:]] == made["confusion"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["000003.png", "000004.png", "000005.png"]
    with Image.open(tmp_path / "out" / "000004.png") as prediction:
        assert prediction.size == (48, 32)
    assert "differs in eval.protocol, eval.window, split" in " ".join(shown.split())
    assert "split must be val or train" in error_of(capsys, "eval", str(run), "--split", "list.txt")
    assert "--export needs whole images" in error_of(
        capsys, "eval", str(run), "--protocol", "ael_crop", "--export", str(tmp_path)
    )
    assert "unknown option --data.root" in error_of(capsys, "eval", str(run), "--data-root", "x")


def test_report_compares(run, capsys):
    assert main(["report", str(run), "--compare", str(run)]) == 0
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_predict_images_and_folders(run, tmp_path, capsys):
    sizes = {"a.jpg": (50, 34), "b.c.png": (33, 47), "deep/d.jpg": (40, 32)}  # sizes that no stride divides
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    for name, size in sizes.items():
        pixels = fresh.rng().integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    assert main(["predict", str(run), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    assert "3 predictions in" in capsys.readouterr().out
    for name, size in sizes.items():
        place = str(tmp_path / "out" / name[: name.rindex(".")])
        with Image.open(f"{place}.png") as prediction, Image.open(f"{place}_overlay.jpg") as overlay:
            assert prediction.size == overlay.size == size
            assert prediction.mode == "P"
            assert np.array(prediction).max() < 11
            assert prediction.getpalette()[:3] == [70, 130, 180]  # sky
    assert "--label-ids must come with a run on city" in error_of(
        capsys, "predict", str(run), str(tmp_path / "in"), "--label-ids"
    )
    (tmp_path / "c.jpg").write_text("no image")
    for folder, what in ((run, "the run's own folder"), (tmp_path / "in", "a folder that is read")):
        before = sorted(folder.rglob("*"))
        said = error_of(capsys, "predict", str(run), str(tmp_path / "in"), "--out", str(folder))
        assert f"--out must not be {what}, got '{folder}': choose one" in said
        assert sorted(folder.rglob("*")) == before
    assert "c.jpg: the image must be readable" in error_of(capsys, "predict", str(run), str(tmp_path / "c.jpg"))


def test_no_command_writes_over_what_it_did_not_write(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pixels = fresh.rng().integers(0, 256, (32, 48, 3), dtype=np.uint8)
    for name in ("a.png", "b.jpg"):
        (tmp_path / "phot").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "phot" / name)
    before = {path: path.read_bytes() for path in (tmp_path / "phot").iterdir()}
    for images, out in ((["phot"], "phot"), (["phot/a.png"], "phot/../phot"), (["phot/b.jpg", "phot/a.png"], "phot")):
        error = error_of(capsys, "predict", str(run), *images, "--out", out)
        what = "be a folder that is read" if images == ["phot"] else "write over a file that is read"
        assert f"--out must not {what}" in error
        assert {path: path.read_bytes() for path in (tmp_path / "phot").iterdir()} == before
    assert main(["predict", str(run), "phot/a.png", "--out", "one"]) == 0
    assert capsys.readouterr().out == "1 prediction in one\n"
    for _ in range(2):  # a folder of predictions may be used again, even where it is searched
        assert main(["predict", str(run), "phot", "--out", "phot/predicted"]) == 0
        assert "2 predictions in" in capsys.readouterr().out
    assert (tmp_path / "phot" / "b.jpg").read_bytes() == before[tmp_path / "phot" / "b.jpg"]
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "000001.png").write_text("years of work")
    assert "--export must not write over what fpl-fast did not write" in error_of(
        capsys, "eval", str(run), "--export", "exported"
    )
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["000001.png"]


def test_reports_do_not_write_over_other_pages(tmp_path, capsys):
    save_config(tiny_run(), tmp_path / "config.yaml")
    (tmp_path / "report.html").write_text("<title>Thesis</title>")
    assert "must be a report that fpl-fast wrote" in error_of(capsys, "report", str(tmp_path))
    results = min((Path(__file__).parents[1] / "bench" / "results").glob("*headline.json"))
    for name in (f"{results.stem}.md", f"{results.stem}-memory.png"):
        out = tmp_path / name.replace(".", "-")
        out.mkdir()
        (out / name).write_text("years of work")
        error = error_of(capsys, "bench", "report", str(results), "--out", str(out))
        assert "--out must not write over what fpl-fast did not write" in error
        assert [path.name for path in out.iterdir()] == [name]
    for _ in range(2):
        assert main(["bench", "report", str(results), "--out", str(tmp_path / "bench")]) == 0
