import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from fpl_fast.trainer.data.cityscapes import CITYSCAPES
from fpl_fast.trainer.data.sample import index_palette, outside_color
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.report import comparison_rows, read_run, write_report
from fpl_fast.trainer.report.figures import count_colors
from fpl_fast.trainer.report.summary import num_networks
from fpl_fast.trainer.report.text import duration

CLASS_NAMES = ["road", "sky", "car", "person", "pole", "sign", "fence"]
PALETTE = np.array(
    [(128, 64, 128), (70, 130, 180), (0, 0, 142), (220, 20, 60), (153, 153, 153), (220, 220, 0), (190, 153, 153)],
    dtype=np.uint8,
)


def write_run(
    path: Path, *, seed: int = 0, skill: float = 0.7, num_steps: int = 600, sizes: tuple[tuple[int, int], ...] = ()
) -> Path:
    """Fabricate a finished run folder; class 6 has no pixels, as happens with few validation pictures."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "recipe": "synthetic/fpl_cps_cutmix",
                "model": {"backbone": "resnet18"},
                "augment": {"crop": [96, 160]},
                "train": {"batch_labelled": 4},
            }
        )
    )
    environment = {"device": "CPU", "cpu": "Example (2 logical cores)", "torch": "2.15.0", "commit": "0123456789"}
    (path / "environment.json").write_text(json.dumps(environment))
    rows = []
    for step in range(10, num_steps + 1, 10):
        decay = np.exp(-step / 200)
        rows.append(
            {
                "step": step,
                "split": "train",
                "loss": 1 + 2 * decay + 0.2 * rng.standard_normal(),
                "loss_sup": 0.4 + 1.5 * decay + 0.1 * rng.standard_normal(),
                "loss_unsup": 0.6 + 0.5 * decay + 0.1 * rng.standard_normal(),
                "mean_positives": 1.2 + 1.5 * decay,
                "lr": 0.01 * (1 - step / (num_steps + 1)) ** 0.9,
                "images_per_second": 14 + rng.standard_normal(),
                "peak_memory_mb": 812.0,
                "elapsed_s": 0.3 * step,
            }
        )
        if step % 100 == 0:
            rows.append({"step": step, "split": "val", "miou": skill * (1 - decay)})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    num_classes = len(CLASS_NAMES)
    totals = np.array([400_000, 250_000, 60_000, 9_000, 4_000, 900, 0])
    shares = (1 - skill) * rng.dirichlet(np.full(num_classes, 0.5), size=num_classes) + skill * np.eye(num_classes)
    confusion = np.round(shares * totals[:, None]).astype(int)
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    iou = [float(hit / both) if total else None for hit, both, total in zip(hits, union, totals, strict=True)]
    evaluation = {
        "protocol": "whole",
        "split": "val",
        "step": num_steps,
        "miou": float(np.mean([one for one in iou if one is not None])),
        "pixel_accuracy": float(hits.sum() / confusion.sum()),
        "class_names": CLASS_NAMES,
        "iou": iou,
        "confusion": confusion.tolist(),
    }
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    arrays = {"palette": PALETTE}
    for index, size in enumerate(sizes):
        label = rng.integers(0, num_classes, size, dtype=np.uint8)
        label[: size[0] // 4] = 255
        arrays |= {
            f"image_{index}": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            f"label_{index}": label,
            f"prediction_{index}": rng.integers(0, num_classes, size, dtype=np.uint8),
            f"num_positives_{index}": rng.integers(1, 4, size, dtype=np.uint8),
        }
    if sizes:
        np.savez_compressed(path / "samples.npz", **arrays)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    # Pictures of different sizes, odd ones among them: evaluation keeps the size of the data.
    return write_run(tmp_path / "fpl_cps_cutmix", seed=1, sizes=((33, 51), (40, 28)))


def test_page_has_every_part_and_asks_for_nothing(run: Path) -> None:
    path = write_report(run)
    page = path.read_text()
    assert path == run / "report.html"
    for heading in ("Curves", "Classes", "Confusions", "Pictures", "Run it again"):
        assert f"<h2>{heading}</h2>" in page
    assert "synthetic/fpl_cps_cutmix · resnet18 · crops of 96 × 160 · 4 labelled images a step" in page
    assert "0123456789" in page and "class=missing" not in page
    addresses = re.findall(r"(?:src|href)=['\"]([^'\"]{0,8})", page)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"<script|@import|url\((?!#)", page)
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/png") == 8  # overlays; errors and maps of K
    # One plot a scalar: seven logged with the training, one with the validation, none for the time stamp.
    assert page.count('<svg role="img" aria-label="') == 8


def test_scores_are_those_of_the_evaluation(run: Path) -> None:
    page = write_report(run).read_text()
    evaluation = json.loads((run / "evaluation.json").read_text())
    for iou in evaluation["iou"][:-1]:
        assert f"{100 * iou:.1f}&nbsp;%" in page
    row = re.search(r"<tr><th scope=row>[^/]*</i>fence</th>.*?</tr>", page).group()
    assert "<td class=number>–</td>" in row and ">nan" not in page
    confusion = np.array(evaluation["confusion"])
    share = confusion[3, 3] / confusion[3].sum()
    assert f"person → person: {100 * share:.1f} %" in page


def test_compared_run_gives_differences(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "supervised", seed=2, skill=0.5)
    page = write_report(run, compare=[other]).read_text()
    before, after = (json.loads((path / "evaluation.json").read_text()) for path in (other, run))
    expected = f"{100 * (after['miou'] - before['miou']):+.1f}".replace("-", "−")
    assert "<h2>Comparison</h2>" in page and expected in page
    rows = comparison_rows([other, run])
    assert [row.name for row in rows] == ["supervised", "fpl_cps_cutmix"]
    assert rows[0].delta is None and rows[1].delta == pytest.approx(after["miou"] - before["miou"])
    assert rows[1].elapsed_s == pytest.approx(180)


def test_classes_of_another_data_set_are_not_compared(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "supervised", seed=2)
    evaluation = json.loads((other / "evaluation.json").read_text())
    evaluation["class_names"] = [name.upper() for name in CLASS_NAMES]
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    assert "compare with" not in write_report(run, compare=[other]).read_text()
    assert [row.delta for row in comparison_rows([other, run])] == [None, None]


def test_every_run_has_a_colour_of_the_style_sheet(run: Path, tmp_path: Path) -> None:
    others = [write_run(tmp_path / f"other{number}", seed=number, sizes=((8, 8),)) for number in range(7)]
    page = write_report(run, compare=others).read_text()
    used, defined = (set(re.findall(pattern, page)) for pattern in (r"var\((--series-\d+)\)", r"(--series-\d+):"))
    assert used == defined


@pytest.mark.parametrize(
    "content",
    [
        {"cases": 1},
        {"cases": dict.fromkeys(("case", "share", "vanilla", "fuzzy"), 1)},
        {"cases": {"case": ["truth"], "share": [], "vanilla": [], "fuzzy": []}},
        {"pictures": None},
        {"mean_positives": "2"},
        {"vanilla": "2"},
    ],
)
def test_another_analysis_is_named(run: Path, content: dict[str, object]) -> None:
    columns: dict[str, list[float]] = {"case": [], "share": [], "vanilla": [], "fuzzy": []}
    sound = {"images": 1, "split": "val", "step": 2, "protocol": "whole", "threshold": 0.9, "mean_positives": 1.5}
    sound |= {"vanilla": None, "fuzzy": 0.5, "cases": columns, "pictures": [], "calibration_error": 0.1}
    (run / "analysis").mkdir(exist_ok=True)
    (run / "analysis" / "analysis.json").write_text(json.dumps(sound))
    assert "Positives and the truth" in write_report(run).read_text()
    (run / "analysis" / "analysis.json").write_text(json.dumps(sound | content))
    with pytest.raises(ValueError, match=r"analysis\.json must hold an analysis"):
        write_report(run)


def test_a_crop_of_one_number_is_shown(run: Path) -> None:
    (run / "config.yaml").write_text("augment: {crop: 512}\n")
    assert "crops of 512" in write_report(run).read_text()


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<img src=x onerror=alert(1)>", sizes=((8, 8),))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["class_names"][0] = "</td><script>alert(1)</script>"
    evaluation["protocol"] = "<b>whole</b>"
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "config.yaml").write_text(yaml.safe_dump({"note": "</pre><script>alert(2)</script>"}))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 1, "split": "train", "<script>3": 1.0}) + "\n")
    (run / "environment.json").write_text(json.dumps({"device": "<script>4"}))
    page = write_report(run).read_text()
    assert "<script" not in page and "<img src=x" not in page and "<b>whole" not in page


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("metrics.jsonl", "No metrics yet"),
        ("evaluation.json", "No evaluation yet"),
        ("samples.npz", "No pictures yet"),
        ("environment.json", "were not recorded"),
    ],
)
def test_missing_part_is_said(run: Path, absent: str, said: str) -> None:
    (run / absent).unlink()
    assert said in write_report(run).read_text()


def test_only_a_config_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    page = write_report(tmp_path).read_text()
    assert page.count("class=missing") == 6
    assert comparison_rows([tmp_path])[0].miou is None


def test_metrics_of_a_killed_run(run: Path) -> None:
    """The last line is cut short; losses that diverged are left out of the curves."""
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 610, "split": "train", "loss": NaN, "lr": 0.001}\n{"step": 620, "spl')
    steps, values = read_run(run).series("loss")
    assert steps == list(range(10, 601, 10)) and np.isfinite(values).all()
    assert read_run(run).last_step == 610
    write_report(run)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", "a: [1", "config.yaml must be valid YAML"),
        ("config.yaml", "- 1", "config.yaml must hold a mapping, got list"),
        ("config.yaml", "[" * 3000, "config.yaml must be valid YAML"),
        ("config.yaml", "data: 3", "config.yaml must hold keys and values in data, got 3"),
        ("environment.json", '{"torch": 2.9}', "environment.json must hold texts alone, got 2.9"),
        ("environment.json", "\udcff", "environment.json must be valid JSON"),
        ("environment.json", "[" * 60_000, "environment.json must be valid JSON"),
        ("metrics.jsonl", "\udcff", "metrics.jsonl line 1 must be a JSON object"),
        ("metrics.jsonl", "null\n", "metrics.jsonl line 1 must be a JSON object"),
        ("metrics.jsonl", "not json\n{}\n", "metrics.jsonl line 1 must be a JSON object, got 'not json'"),
        ("metrics.jsonl", '{"loss": 1}\n', "line 1 must be a JSON object with an integer step"),
        ("evaluation.json", "{}", "evaluation.json must hold an evaluation, got KeyError"),
        ("evaluation.json", "[]", "evaluation.json must hold a JSON object, got list"),
        ("samples.npz", "PK", "samples.npz must be an NPZ file"),
    ],
)
def test_broken_file_is_named(run: Path, file: str, content: str, message: str) -> None:
    (run / file).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_the_report(run: Path) -> None:
    (run / "report.html").mkdir()
    with pytest.raises(ValueError, match=r"report\.html: must be free for the report, got a folder: move it elsewhere"):
        write_report(run)


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a folder with a config\.yaml"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize("largest", [1, 4, 18])  # 18: the largest K of 19 classes, more than there are fixed colours
def test_count_colors_differ(largest: int) -> None:
    colors = count_colors(largest)
    assert colors.shape == (largest, 3) and len(np.unique(colors, axis=0)) == largest


@pytest.mark.parametrize("palette", [index_palette(21), index_palette(256), CITYSCAPES.palette, PALETTE])
def test_ignored_pixels_have_no_class_s_colour(palette) -> None:
    """VOC's rule gives class 7 a grey, class 0 and Cityscapes' unlabelled pixels black."""
    palette = np.array(palette, dtype=np.uint8)
    assert np.abs(palette.astype(int) - outside_color(palette)).sum(1).min() > 60


def test_losses_of_two_networks_are_drawn_per_network(run: Path, tmp_path: Path) -> None:
    """Losses per network can be compared with the losses of a single network."""
    both = []
    for path, name in ((run, "cps"), (write_run(tmp_path / "supervised", seed=1), "supervised")):
        config = yaml.safe_load((path / "config.yaml").read_text())
        (path / "config.yaml").write_text(yaml.safe_dump(config | {"method": {"name": name}}))
        both.append(path)
    _, values = read_run(run).series("loss_sup")
    shown = re.search(
        r'aria-label="Supervised loss per network: ([^"]*)"', write_report(*both[:1], both[1:]).read_text()
    )
    assert f"fpl_cps_cutmix {values[-1] / 2:.4g} at" in shown[1] and f"supervised {values[-1]:.4g} at" in shown[1]


@pytest.mark.parametrize("name", METHODS)
def test_networks_are_counted_as_the_methods_have_them(name: str, run: Path) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"method": {"name": name}}))
    assert num_networks(read_run(run)) == METHODS[name].num_networks


@pytest.mark.parametrize(("seconds", "shown"), [(9, "9 s"), (69, "1 min 09 s"), (45_296, "12 h 34 min")])
def test_durations_break_between_units_alone(seconds: float, shown: str) -> None:
    text = duration(seconds)
    assert text.replace("&nbsp;", " ") == shown and text.count(" ") == shown.count(" ") // 2


def test_other_evaluations_stand_apart(run: Path) -> None:
    assert "Other evaluations" not in write_report(run).read_text()
    own = json.loads((run / "evaluation.json").read_text())
    other = own | {"miou": 0.0123, "pixel_accuracy": None, "differs": {"data.val": "<b>.txt", "root": "/elsewhere"}}
    (run / "evaluations" / "val-whole-step6").mkdir(parents=True)
    (run / "evaluations" / "val-whole-step6" / "evaluation.json").write_text(json.dumps(other))
    page = write_report(run).read_text()
    row = re.search(r"<th scope=row>val-whole-step6</th>.*?</tr>", page)[0]
    assert "1.2&nbsp;%" in row and "data.val &lt;b&gt;.txt, other folder" in row and "–" in row
    assert f"<b>{100 * own['miou']:.1f}&nbsp;%</b><span>mIoU at step" in page  # the head is the run's own


def test_start_up_is_told_apart(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": 600, "split": "train", "startup_s": 61.0}) + "\n")
        metrics.write(json.dumps({"step": 600, "split": "train", "startup_s": 9.0}) + "\n")
    assert "<b>1&nbsp;min 10&nbsp;s</b><span>start-up, compiling</span>" in write_report(run).read_text()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_page_that_cannot_be_written_leaves_the_previous_one_alone(tmp_path, monkeypatch, name):
    run = write_run(tmp_path / "run")
    write_report(run)
    before = {path: path.read_bytes() for path in run.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{name}", full)
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(run)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
