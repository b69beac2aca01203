"""``fpl-fast analyze``."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console
from fpl_fast.trainer.commands.settings import expand_short_names
from fpl_fast.trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from fpl_fast.trainer.data.sample import Palette
    from fpl_fast.trainer.evaluation.analyze import ScoreMaps
    from fpl_fast.trainer.evaluation.positives import PositivesAnalysis
    from fpl_fast.trainer.writing.outputs import Outputs

__all__ = ["main"]

_DESCRIPTION = """
Compare a run's positives with the truth: how often the pseudo-label is right, and how often the truth is among the K
fuzzy positives, for several thresholds and by class; the positive gradient score R of the cross entropy and of the
fuzzy positive loss (R > 0: the true class is raised) in the three cases of the paper, over all pixels, and as maps; the
calibration of the teacher. Validation images are what unlabelled images are, with a truth that no loss has seen.
Writes analysis.json, tables as CSV, and pictures.
"""
_MOST_MAPS = 12
_TABLES = ("thresholds", "cases", "classes", "calibration")


def main(arguments: list[str]) -> int:
    """Analyse the positives of a run, print the summary and keep the rest."""
    parser = Parser("fpl-fast analyze", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="last", help="which weights")
    parser.add_argument("--split", default="val", help="val, or a list file of labelled images")
    parser.add_argument("--images", type=int, default=100, help="images to take, spread over the split")
    parser.add_argument("--maps", type=int, default=4, help="images whose maps are drawn, at most 12")
    parser.add_argument(
        "--out", type=folder_name, metavar="DIR", help="folder to write to; without it RUN/analysis, for the report"
    )
    options, changes = parser.parse_known_args(expand_short_names(arguments))
    _check(options.images, options.maps, options.split)
    if options.out is None:
        _require_own(options.split, changes)

    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.commands.tables import analysis_table
    from fpl_fast.trainer.data.datasets import build_split
    from fpl_fast.trainer.evaluation.analyze import analyze_positives
    from fpl_fast.trainer.evaluation.loss_settings import loss_settings, spread
    from fpl_fast.trainer.evaluation.trained import load_trained
    from fpl_fast.trainer.writing.outputs import Outputs

    folder = RunFolder(options.run)
    out = Path(options.out) if options.out else folder.path / "analysis"
    pictures = ["statistics.png", "maps.png"] if options.maps else ["statistics.png"]
    files = [Path(name) for name in ("analysis.json", *(f"{name}.csv" for name in _TABLES), *pictures)]
    outputs = Outputs(out, files, option="--out")
    run = load_trained(folder, checkpoint=options.checkpoint, changes=changes)
    out.mkdir(parents=True, exist_ok=True)  # before the analysis, which takes minutes
    dataset = build_split(run.config.data, options.split)
    indices = spread(options.images, len(dataset))
    with counting() as progress:
        show = progress("images")
        analysis, maps = analyze_positives(run, dataset, indices, num_maps=options.maps, progress=show)

    settings = loss_settings(run.config.method)
    threshold = str(list(settings.threshold_candidates) or settings.threshold)
    described = {
        "step": run.step,
        "checkpoint": options.checkpoint,
        "split": options.split,
        "images": len(indices),
        "protocol": run.config.eval.described,
        "changes": changes,
        "pictures": pictures,
        "threshold": list(settings.threshold_candidates) or settings.threshold,
        "max_positives": settings.max_positives,
        "classes": list(run.classes.names),
    }
    _write(outputs, analysis, maps, described, threshold=threshold, palette=run.classes.palette)
    out_console().print(analysis_table(analysis, threshold))
    out_console().print(f"{out}: {', '.join(map(str, files))}")
    return 0


def _check(images: int, maps: int, split: str) -> None:
    if images < 1:
        raise ValueError(f"--images must be at least 1, got {images}")
    if not 0 <= maps <= _MOST_MAPS:
        raise ValueError(f"--maps must be from 0 to {_MOST_MAPS}, got {maps}")
    if split == "train":
        raise ValueError("--split must be val or a list file, got train, whose truth the run has learnt from")


def _require_own(split: str, changes: Sequence[str]) -> None:
    """Require what the report shows as the run's own analysis."""
    names = [one.partition("=")[0] for one in changes if one.startswith("--")]
    others = [name for name in names if name != "--data.root" and not name.startswith("--train.")]
    if split != "val":
        others.insert(0, "--split")
    if others:
        raise ValueError(
            f"--out must be given with {others[0]}: RUN/analysis is for the run's own images, settings and protocol"
        )


def _write(
    outputs: "Outputs",
    analysis: "PositivesAnalysis",
    maps: Sequence["ScoreMaps"],
    described: Mapping[str, Any],
    *,
    threshold: str,
    palette: "Palette",
) -> None:
    """Write the numbers, the tables and the pictures."""
    import numpy as np

    from fpl_fast.trainer.report.positives import CASES, maps_png, statistics_png
    from fpl_fast.trainer.writing.json_text import json_text

    first = {"cases": {"case": CASES}, "classes": {"class": described["classes"]}}
    scalars = {name: value for name, value in analysis._asdict().items() if isinstance(value, int | float)}
    vanilla, fuzzy = analysis.raised
    content = {**described, **scalars, "raised_by_vanilla": vanilla, "raised_by_fuzzy": fuzzy}
    content["calibration_error"] = analysis.calibration.error
    content["histogram"] = dict(zip(("vanilla", "fuzzy"), analysis.histogram.tolist(), strict=True))
    files = {"statistics.png": statistics_png(analysis, threshold)}
    if maps:
        files["maps.png"] = maps_png(maps, np.array(palette, dtype=np.uint8))
    for name in _TABLES:
        columns = {key: column.tolist() for key, column in getattr(analysis, name)._asdict().items()}
        content[name] = first.get(name, {}) | columns
        files[f"{name}.csv"] = _csv(content[name])
    files["analysis.json"] = json_text(content, indent=1).encode()
    for name, data in files.items():  # all are made before the first is written
        outputs.write(Path(name), data)


def _csv(columns: Mapping[str, Iterable[Any]]) -> bytes:
    """Encode columns as a table."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()
