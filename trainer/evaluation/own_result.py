"""Decision whether an evaluation is a run's own result, and the place of all others."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fpl_fast.trainer.config import FileData, RunConfig
from fpl_fast.trainer.config.io import config_to_dict, flatten
from fpl_fast.trainer.data.datasets import read_split
from fpl_fast.trainer.evaluation.evaluate import EvaluationResult
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.writing.json_text import json_text

__all__ = ["differences", "place_evaluation"]

# Settings that change neither the pixels that are counted nor their predictions.
_WITHOUT_EFFECT = (
    "recipe", "augment.", "optim.", "train.", "eval.every", "eval.samples", "data.check", "data.packed",
    "data.skip_damaged", "model.pretrained", "model.weights_file",
)  # fmt: skip
_WITH_EFFECT = ("train.precision",)


def differences(
    folder: RunFolder, config: RunConfig, split: str, step: int, result: EvaluationResult
) -> dict[str, Any]:
    """Find the differences between an evaluation and the run's own: none if data, weights and protocol are the run's.

    Data are compared by their settings, the folder they lie in, the SHA-256 of the list of images, and the SHA-256 of
    the labels or, where an earlier version has evaluated the run, the number of pixels that they give each class;
    weights, by their step.

    Args:
        folder: The run.
        config: Configuration of the evaluation.
        split: The part of the data set, as ``fpl-fast eval`` names it.
        step: Step of the weights.
        result: Metrics of the evaluation.

    Returns:
        The settings that differ from the run's with their values, and further ``split``, ``step``, ``root``,
        ``list`` (SHA-256) and ``labels`` (SHA-256, or pixels by class), each only where it differs.
    """
    own, now = (flatten(config_to_dict(c)) for c in (folder.load_config(), config))
    found: dict[str, Any] = {
        key: now.get(key)
        for key in sorted(own.keys() | now.keys())
        if own.get(key) != now.get(key) and (key in _WITH_EFFECT or not key.startswith(_WITHOUT_EFFECT))
    }
    if not config.eval.has_window:
        found.pop("eval.window", None)
    if split != "val":
        found["split"] = split
    if isinstance(config.data, FileData):
        part = "labelled" if split == "train" else "val"
        recorded = _read(folder.splits).get(part, {})
        root, digest = str(Path(config.data.root).resolve()), read_split(config.data, split).sha256
        if recorded.get("root", root) != root:
            found["root"] = root
        if recorded.get("sha256", digest) != digest:
            found["list"] = digest
    training = _read(folder.evaluation)
    if training.get("step", step) != step:
        found["step"] = step
    if not found and (labels := _other_labels(training, result)) is not None:
        found["labels"] = labels
    return found


def _other_labels(training: Mapping[str, Any], result: EvaluationResult) -> str | list[int] | None:
    """Describe the labels of an evaluation where they differ from the labels of the run's own."""
    digest, pixels = result.labels_sha256, result.confusion.sum(1).tolist()
    if digest is not None and "labels_sha256" in training:
        return None if training["labels_sha256"] == digest else digest
    return pixels if "confusion" in training and list(map(sum, training["confusion"])) != pixels else None


def place_evaluation(folder: RunFolder, config: RunConfig, split: str, step: int, found: Mapping[str, Any]) -> Path:
    """Choose the file of an evaluation: the run's own without ``differences``, otherwise ``RUN/evaluations/NAME``.

    NAME holds split, protocol, window and step, and ends in a digest of the other differences: equal evaluations have
    the same name, different ones different names.
    """
    if not found:
        return folder.evaluation
    window = f"-{config.eval.window[0]}x{config.eval.window[1]}" if config.eval.has_window else ""
    name = f"{Path(split).stem}-{config.eval.protocol}{window}-step{step}"
    said = ("step", "eval.protocol", "eval.window", *(["split"] if split in ("val", "train") else []))
    rest = {key: value for key, value in found.items() if key not in said}
    if rest:
        name += f"-{hashlib.sha256(json_text(rest).encode()).hexdigest()[:8]}"
    return folder.path / "evaluations" / name / "evaluation.json"


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON file of the run; an empty dict where there is none yet."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
