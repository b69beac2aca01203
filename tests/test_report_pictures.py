"""Pictures of the report: errors, scores of single pictures, names, and compared runs beside each other."""

import base64
import io
import math
import re

import fresh
import numpy as np
import pytest
from PIL import Image
from test_report import CLASS_NAMES, PALETTE, write_run

from fpl_fast.trainer.report import read_run, write_report
from fpl_fast.trainer.report.pictures import pictures, sample_miou


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "fpl", seed=1, sizes=((33, 51), (40, 28)))


def with_arrays(path, **changes):
    """Change arrays of a run's pictures."""
    with np.load(path / "samples.npz") as stored:
        arrays = dict(stored) | changes
    np.savez_compressed(path / "samples.npz", **arrays)
    return path


def figures(page):
    """Captions and pixels of the pictures, in order."""
    for kind, data, caption in re.findall(
        r"src='data:image/(\w+);base64,([^']+)' alt='[^']*'><figcaption>(.*?)</figcaption>", page
    ):
        yield caption, kind, np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_errors_are_where_truth_and_prediction_differ(run):
    page = write_report(run).read_text()
    legend = re.search(r"<p class=note>Errors:</p>(.*?)</ul>", page)[1]
    colors = [tuple(bytes.fromhex(color)) for color in re.findall(r"background:#(\w{6})", legend)]
    assert len(set(colors)) == 3
    errors = [pixels for caption, _, pixels in figures(page) if caption == "errors"]
    for sample, shown in zip(read_run(run).samples, errors, strict=True):
        kind = np.where(sample.label == 255, 2, sample.label != sample.prediction)
        assert np.array_equal(shown, np.array(colors, dtype=np.uint8)[kind])


def test_the_prediction_lies_over_the_image(run):
    shown = [(kind, pixels) for caption, kind, pixels in figures(write_report(run).read_text()) if "over" in caption]
    for sample, (kind, pixels) in zip(read_run(run).samples, shown, strict=True):
        mixed = 0.45 * sample.image + 0.55 * PALETTE[sample.prediction]
        assert kind == "jpeg" and np.abs(pixels.mean((0, 1)) - mixed.mean((0, 1))).max() < 2


def test_the_score_of_a_picture_counts_its_own_classes():
    label = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    assert sample_miou(label, np.array([[0, 1, 1, 1]], dtype=np.uint8), 4) == 0.5  # 1 / 2 and 1 / 2, and no other class
    assert sample_miou(label, np.array([[0, 0, 2, 3]], dtype=np.uint8), 4) == pytest.approx(1 / 3)  # 1, 0 and 0
    assert math.isnan(sample_miou(np.full((2, 2), 255, dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8), 4))
    rng = fresh.rng()
    label, prediction = rng.integers(0, 9, (2, 13, 17), dtype=np.uint8)  # classes 7 and 8 of the label are ignored
    prediction %= 7
    known = label < 7
    expected = [
        ((label == c) & (prediction == c))[known].sum() / union
        for c in range(7)
        if (union := ((label == c) | (prediction == c))[known].sum())
    ]
    assert sample_miou(label, prediction, 7) == pytest.approx(np.mean(expected))


def test_the_score_stands_at_the_prediction(run):
    captions = [caption for caption, *_ in figures(write_report(run).read_text()) if caption.startswith("prediction,")]
    for sample, caption in zip(read_run(run).samples, captions, strict=True):
        score = 100 * sample_miou(sample.label, sample.prediction, len(CLASS_NAMES))
        assert caption == f"prediction, mIoU {score:.1f}&nbsp;%"


def test_names_of_pictures(run):
    assert "<h3>aachen" not in write_report(run).read_text()  # of a run that did not record them
    with_arrays(run, names=np.array(["aachen_0", "<b>'"]))
    page = write_report(run).read_text()
    assert "<h3>aachen_0</h3>" in page and "<h3>&lt;b&gt;&#x27;</h3>" in page
    with_arrays(run, names=np.array(["aachen_0"]))
    with pytest.raises(ValueError, match=r"samples\.npz must name each of its 2 images, got 1 names$"):
        write_report(run)


def test_compared_runs_stand_beside_where_they_have_the_image(run, tmp_path):
    other = write_run(tmp_path / "supervised & 'co'", seed=2, sizes=((33, 51), (40, 28)))
    alone = write_report(run, compare=[other]).read_text()
    assert "prediction of" not in alone  # other images
    second = read_run(run).samples[1]
    with_arrays(other, image_0=second.image, prediction_0=np.zeros_like(second.prediction))
    shown = list(figures(write_report(run, compare=[other]).read_text()))
    (place,) = (place for place, (caption, *_) in enumerate(shown) if caption.startswith("prediction of"))
    caption, _, pixels = shown[place]
    assert place == len(shown) - 1  # the second picture, behind all others
    score = 100 * sample_miou(second.label, np.zeros_like(second.prediction), len(CLASS_NAMES))
    assert caption == f"prediction of supervised &amp; &#x27;co&#x27;, mIoU {score:.1f}&nbsp;%"
    assert (pixels == PALETTE[0]).all()


def test_no_pictures(tmp_path):
    assert "No pictures yet" in pictures(read_run(write_run(tmp_path / "run")))
