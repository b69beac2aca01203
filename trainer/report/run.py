"""Reads a run folder back: configuration, metrics, evaluation, pictures."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import yaml

from fpl_fast.trainer.config.plain_yaml import load_yaml
from fpl_fast.trainer.writing.json_text import begin_of_line, read_object

__all__ = ["CLASS_PREFIX", "ComparisonRow", "Evaluation", "Run", "Sample", "comparison_rows", "read_run"]

CLASS_PREFIX = "iou/"
"""Beginning of the names under which the IoU of the classes is logged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The last evaluation of a run; scores are in [0, 1], NaN for a class without pixels."""

    protocol: str
    split: str
    step: int
    miou: float
    pixel_accuracy: float
    class_names: tuple[str, ...]
    iou: np.ndarray
    """Per class, (C,) float64."""
    confusion: np.ndarray
    """Pixels by (truth, prediction), (C, C) int64."""
    name: str
    """Name of the run folder; "evaluations/NAME" where it is not the run's own result."""
    differs: Mapping[str, Any]
    """Settings that differ from the run's; empty for its own result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One validation picture."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    label: np.ndarray
    """(H, W) uint8; values outside the palette are ignored pixels."""
    prediction: np.ndarray
    """(H, W) uint8."""
    num_positives: np.ndarray | None
    """(H, W) uint8 map of K; None for a run without it."""
    name: str | None = None
    """Name of the image; None where it was not recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run folder in memory; fields that the run has not written yet are empty or None."""

    path: Path
    config: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, str]
    evaluation: Evaluation | None
    other_evaluations: tuple[Evaluation, ...]
    """Evaluations on other data, of other weights or by other protocols, in order of their names."""
    samples: tuple[Sample, ...]
    palette: np.ndarray | None
    """Colour of each class, (C, 3) uint8 RGB."""
    analysis: Mapping[str, Any] | None
    """Numbers that ``fpl-fast analyze`` has written of the positives."""
    num_images: Mapping[str, int]
    """Number of images in each list that the run has read: "labelled", "unlabelled", "val"."""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def last_step(self) -> int | None:
        """Step of the newest metrics."""
        return max((row["step"] for row in self.metrics), default=None)

    @property
    def elapsed_s(self) -> float | None:
        """Seconds of training, as logged with the metrics."""
        return max((row["elapsed_s"] for row in self.metrics if _is_number(row.get("elapsed_s"))), default=None)

    @property
    def best_miou(self) -> tuple[float, int] | None:
        """Highest logged mIoU, in [0, 1], and its step."""
        steps, values = self.series("miou")
        return max(zip(values, steps, strict=True), default=None)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Read the steps and finite values of one scalar, in order of the steps."""
        points = sorted((row["step"], row[key]) for row in self.metrics if _is_number(row.get(key)))
        return [step for step, _ in points], [value for _, value in points]

    def scalar_names(self) -> list[str]:
        """List every scalar that the run has logged, in order of appearance."""
        return list(dict.fromkeys(key for row in self.metrics for key, value in row.items() if _is_number(value)))


class ComparisonRow(NamedTuple):
    """One line of a table that compares runs; scores are in [0, 1], None where not known."""

    name: str
    step: int | None
    miou: float | None
    delta: float | None
    """mIoU minus the mIoU of the first run; None where their classes differ."""
    pixel_accuracy: float | None
    elapsed_s: float | None


def comparison_rows(runs: Iterable[Run | Path | str]) -> list[ComparisonRow]:
    """Compare the last evaluations of runs with the first run.

    Args:
        runs: run folders, or runs already read.

    Raises:
        ValueError: if a folder is not a run.

    Example:
        >>> for row in comparison_rows(["runs/supervised", "runs/fpl_cps_cutmix"]):  # doctest: +SKIP
        ...     row.name, row.miou
    """
    loaded = [run if isinstance(run, Run) else read_run(run) for run in runs]
    rows = []
    for run in loaded:
        evaluation, first = run.evaluation, loaded[0].evaluation
        compared = evaluation and first and run is not loaded[0] and evaluation.class_names == first.class_names
        rows.append(
            ComparisonRow(
                name=run.name,
                step=evaluation.step if evaluation else run.last_step,
                miou=evaluation.miou if evaluation else None,
                delta=evaluation.miou - first.miou if evaluation and first and compared else None,
                pixel_accuracy=evaluation.pixel_accuracy if evaluation else None,
                elapsed_s=run.elapsed_s,
            )
        )
    return rows


def read_run(path: Path | str) -> Run:
    """Read a run folder.

    Args:
        path: folder with at least ``config.yaml``; ``metrics.jsonl``, ``evaluation.json``, ``environment.json``,
            ``samples.npz`` and ``analysis`` are read where present.

    Raises:
        ValueError: if the folder is not a run, or a file in it cannot be understood.
    """
    path = Path(path).resolve()
    if not (path / "config.yaml").is_file():
        raise ValueError(f"run must be a folder with a config.yaml, as training writes it, got {str(path)!r}")
    try:
        config = load_yaml((path / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path / 'config.yaml'} must be valid YAML, got {_one_line(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path / 'config.yaml'} must hold a mapping, got {type(config).__name__}")
    for section in ("data", "augment", "model", "method", "train"):
        settings = config.get(section)
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f"{path / 'config.yaml'} must hold keys and values in {section}, got {settings!r}")
    samples, palette = _read_samples(path / "samples.npz")
    return Run(
        path=path,
        config=config,
        metrics=_read_metrics(path / "metrics.jsonl"),
        environment=_read_environment(path / "environment.json"),
        evaluation=_read_evaluation(path / "evaluation.json"),
        other_evaluations=tuple(
            other
            for file in sorted(path.glob("evaluations/*/evaluation.json"))
            if (other := _read_evaluation(file)) is not None
        ),
        samples=samples,
        palette=palette,
        analysis=_read_analysis(path / "analysis" / "analysis.json"),
        num_images=_read_num_images(path / "lists" / "lists.json", config.get("data")),
    )


def _read_metrics(path: Path) -> tuple[dict[str, Any], ...]:
    """Read one object a line; a last line cut short by a kill is dropped, as the run may still be writing it."""
    if not path.is_file():
        return ()
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise ValueError(f"{path} line {number} must be a JSON object, got {begin_of_line(line)}") from error
        if not (isinstance(row, dict) and type(row.get("step")) is int):
            got = begin_of_line(line)
            raise ValueError(f"{path} line {number} must be a JSON object with an integer step, got {got}")
        rows.append(row)
    return tuple(rows)


def _read_environment(path: Path) -> dict[str, str]:
    content = _read_json(path) or {}
    wrong = [value for value in content.values() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{path} must hold texts alone, got {wrong[0]!r}")
    return content


def _read_evaluation(path: Path) -> Evaluation | None:
    content = _read_json(path)
    if content is None:
        return None
    try:
        class_names = tuple(str(name) for name in content["class_names"])
        # None, written for a class without pixels, becomes NaN.
        iou = np.array(content["iou"], dtype=np.float64)
        confusion = np.array(content["confusion"], dtype=np.int64)
        evaluation = Evaluation(
            protocol=str(content["protocol"]),
            split=str(content["split"]),
            step=int(content["step"]),
            miou=_score(content["miou"]),
            pixel_accuracy=_score(content["pixel_accuracy"]),
            class_names=class_names,
            iou=iou,
            confusion=confusion,
            name=path.parent.name,
            differs=dict(content.get("differs", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold an evaluation, got {type(error).__name__}: {_one_line(error)}") from error
    num_classes = len(class_names)
    if iou.shape != (num_classes,) or confusion.shape != (num_classes, num_classes):
        raise ValueError(
            f"{path} must hold one iou and one row and column of confusion for each of {num_classes} class_names, "
            f"got shapes {iou.shape} and {confusion.shape}"
        )
    return evaluation


def _read_analysis(path: Path) -> dict[str, Any] | None:
    content = _read_json(path)
    keys = {"images", "split", "step", "protocol", "threshold", "mean_positives", "vanilla", "fuzzy", "cases",
            "pictures", "calibration_error"}  # fmt: skip
    columns = {"case", "share", "vanilla", "fuzzy"}
    if content is None or (content.keys() >= keys and columns <= _keys(content["cases"]) and _is_shown(content)):
        return content
    raise ValueError(f"{path} must hold an analysis, got other contents: fpl-fast analyze writes it again")


def _keys(value: object) -> set[str]:
    return set(value) if isinstance(value, Mapping) else set()


def _is_shown(analysis: Mapping[str, Any]) -> bool:
    """Whether the report can format what an analysis holds."""
    numbers = (analysis[key] for key in ("images", "step", "mean_positives", "calibration_error"))
    scores = (analysis["vanilla"], analysis["fuzzy"])
    columns = analysis["cases"].values()
    return (
        all(isinstance(column, list) for column in columns)
        and len(set(map(len, columns))) == 1
        and isinstance(analysis["pictures"], list)
        and all(map(_is_number, numbers))
        and all(score is None or _is_number(score) for score in scores)
    )


def _read_num_images(path: Path, data: object) -> dict[str, int]:
    """Count the images of each part, from the lists of files or the settings of synthetic scenes."""
    parts = ("labelled", "unlabelled", "val")
    content = _read_json(path)
    if content is None:
        settings = data if isinstance(data, Mapping) else {}
        return {part: settings[f"num_{part}"] for part in parts if isinstance(settings.get(f"num_{part}"), int)}
    try:
        return {part: int(content[part]["images"]) for part in parts if part in content}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold the number of images of each list, got {_one_line(error)}") from error


def _read_samples(path: Path) -> tuple[tuple[Sample, ...], np.ndarray | None]:
    if not path.is_file():
        return (), None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise ValueError(f"{path} must be an NPZ file of arrays, got {_one_line(error)}") from error
    count = sum(key.startswith("image_") for key in arrays)
    names = arrays.get("names", np.full(count, None))  # which runs of earlier versions do not have
    try:
        samples = tuple(
            Sample(
                image=arrays[f"image_{index}"],
                label=arrays[f"label_{index}"],
                prediction=arrays[f"prediction_{index}"],
                num_positives=arrays.get(f"num_positives_{index}"),
                name=None if name is None else str(name),
            )
            for index, name in zip(range(count), names, strict=True)
        )
        return samples, arrays["palette"]
    except KeyError as error:
        raise ValueError(f"{path} must hold label, prediction and palette with every image, got no {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} must name each of its {count} images, got {len(names)} names") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.is_file() else None


def _score(value: float | None) -> float:
    """Read a score; null, written where no pixel is labelled, becomes NaN."""
    return math.nan if value is None else float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
