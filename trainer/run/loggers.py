"""Loggers beside metrics.jsonl and TensorBoard, by Lightning: a CSV file and Weights & Biases.

Lightning's packages are imported where they are needed: most runs have no such logger.
"""

import csv
import importlib
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import config_to_dict
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.writing.json_text import read_object
from fpl_fast.trainer.writing.replacing import naming

__all__ = ["RunLogger", "open_loggers", "require_installed"]


class RunLogger(Protocol):
    """A place that records of a run go to. One that is opened again is given the records that it has, once more."""

    def log(self, step: int, split: str, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        """Take one record: scalars by ``SPLIT/NAME``, and pictures, (H, W, 3) uint8, by their names."""
        ...

    def close(self, *, failed: bool) -> None:
        """Flush and close; ``failed`` after an error."""
        ...


def require_installed(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        ValueError: One is not.
    """
    if "wandb" not in names:
        return
    try:
        importlib.metadata.version("wandb")  # a folder of that name, as wandb leaves them, can be imported as well
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            "train.loggers must name installed packages, got 'wandb', which is not installed: pip install wandb"
        ) from None


def open_loggers(folder: RunFolder, config: RunConfig) -> list[RunLogger]:
    """Open the loggers of a run in its folder, new ones or those of its earlier part.

    Raises:
        ValueError: Weights & Biases cannot be reached, or there is a CSV file of another origin.
    """
    opened: list[RunLogger] = []
    if "wandb" in config.train.loggers:
        opened.append(_Wandb(folder, config))
    if "csv" in config.train.loggers:
        opened.append(_Csv(folder.csv))
    return opened


class _Csv:
    """Lightning's CSV file, ``FOLDER/metrics.csv``: a row for each record, written anew when the run goes on."""

    def __init__(self, folder: Path) -> None:
        from lightning.fabric.loggers.csv_logs import CSVLogger

        self._path = path = folder / "metrics.csv"
        if path.is_file():
            _require_ours(path)
            path.unlink()  # all records that stay come again
        self._logger = CSVLogger(folder.parent, name=None, version=folder.name, flush_logs_every_n_steps=1)

    def log(self, step: int, split: str, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        with naming(self._path):
            self._logger.log_metrics(dict(scalars), step)

    def close(self, *, failed: bool) -> None:
        with naming(self._path):
            self._logger.finalize("failed" if failed else "success")


def _require_ours(path: Path) -> None:
    """Check that a file is a table of scalars as we name them, before it is replaced."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        header = next(csv.reader(file), ["step"])  # a kill can leave an empty file
    if not all(name == "step" or name.startswith(("train/", "val/")) for name in header):
        raise ValueError(f"{path}: must be a table that fpl-fast wrote, got another file: move it elsewhere")


class _Wandb:
    """A run of Weights & Biases that goes on with ours, online or offline.

    ``wandb/fpl-fast.json`` remembers its id, its rows and the last step of each split: records that come again after a
    kill are not logged twice, and the rows of a continuation have higher numbers, by which ``wandb sync`` joins them.
    """

    def __init__(self, folder: RunFolder, config: RunConfig) -> None:
        from lightning.pytorch.loggers import WandbLogger

        self._state_file = folder.wandb / "fpl-fast.json"
        known = read_object(self._state_file) if self._state_file.is_file() else {}
        self._steps: dict[str, int] = known.get("steps", {})
        self._rows: int = known.get("rows", 0)
        self._wandb: Any = importlib.import_module("wandb")  # without types where it is not installed
        folder.wandb.mkdir(exist_ok=True)
        logger = WandbLogger(
            name=os.environ.get("WANDB_NAME", folder.path.name),
            project=os.environ.get("WANDB_PROJECT", "fpl-fast"),
            save_dir=folder.path,
            id=known.get("id"),
            settings={"console": "off"},  # the progress bar redraws its lines
        )
        try:
            self._run = logger.experiment
        except self._wandb.errors.Error as error:
            raise ValueError(
                f"train.loggers: wandb must be able to start, got {' '.join(str(error).split()).rstrip('.')}: run "
                f"wandb login, or set WANDB_MODE=offline, and go on with fpl-fast train --resume {folder.path}"
            ) from None
        logger.log_hyperparams(config_to_dict(config))

    def log(self, step: int, split: str, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        if step <= self._steps.get(split, -1):
            return
        row: dict[str, Any] = {**scalars, "trainer/global_step": step}  # Lightning's axis
        row |= {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log(row, step=self._rows, commit=True)
        self._rows, self._steps[split] = self._rows + 1, step
        RunFolder.write_json(self._state_file, {"id": self._run.id, "rows": self._rows, "steps": self._steps})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
