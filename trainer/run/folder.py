"""The folder of a run: its files, and the rules for beginning a run in it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fpl_fast.environment import describe_environment
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import load_config, save_config
from fpl_fast.trainer.data.lists import Split
from fpl_fast.trainer.run.records import read_metrics
from fpl_fast.trainer.writing.json_text import json_text, read_object
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["RunFolder", "free_path"]


def free_path(path: Path, *, is_free: Callable[[Path], bool] = lambda path: not path.exists()) -> Path:
    """Return ``path`` if it is free, otherwise ``path`` with the first free number behind it."""
    candidate, number = path, 2
    while not is_free(candidate):
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


class RunFolder:
    """Files of a run.

    ``config.yaml`` (everything the run depends on), ``environment.json`` (device, versions, commit),
    ``.fpl-fast.lock`` (lock.py), ``metrics.jsonl``, ``evaluation.json`` with ``confusion.csv``, ``samples.npz``,
    ``report.html``, and the folders ``checkpoints``, ``tensorboard``, ``csv`` and ``wandb`` (loggers.py),
    ``evaluations`` (of other images or weights, by other protocols: evaluation/own_result.py) and, for data sets in
    files, ``lists``: the images of each part and, in ``lists.json``, the list that names them, the folder that they are
    in, and the SHA-256 of their list, without and with the files of their labels.
    """

    def __init__(self, path: "RunFolder | Path | str") -> None:
        self.path: Path = path.path if isinstance(path, RunFolder) else Path(path)
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluation = self.path / "evaluation.json"
        self.samples = self.path / "samples.npz"
        self.tensorboard = self.path / "tensorboard"
        self.csv = self.path / "csv"
        self.wandb = self.path / "wandb"
        self.lists = self.path / "lists"
        self.splits = self.lists / "lists.json"
        self.last = self.path / "checkpoints" / "last.ckpt"
        self.best = self.path / "checkpoints" / "best.ckpt"
        self.lock = self.path / ".fpl-fast.lock"

    def create(self, config: RunConfig) -> None:
        """Create the folder and the first files of a run; call ``require_free`` before."""
        self.path.mkdir(parents=True, exist_ok=True)
        save_config(config, self.config)
        self.last.parent.mkdir(exist_ok=True)
        self.write_json(self.environment, describe_environment())

    def write_splits(self, splits: Mapping[str, Split], root: str | Path = "") -> None:
        """Record the images that the run reads below ``root``: a list file of each part, with its digest and origin."""
        if not splits:
            return
        self.lists.mkdir(exist_ok=True)
        for part, split in splits.items():
            with replacing(self.lists / f"{part}.txt") as file:
                file.write(split.to_text().encode())
        self.write_json(
            self.splits,
            {
                part: {
                    "images": len(split.pairs),
                    "sha256": split.sha256,
                    **({} if part == "unlabelled" else {"pairs_sha256": split.pairs_sha256}),
                    "origin": split.origin,
                    "root": str(Path(root).resolve()),
                }
                for part, split in splits.items()
            },
        )

    def check_splits(self, splits: Mapping[str, Split]) -> None:
        """Check that a run continues with the images that it began with, and with the files of their labels.

        Runs of earlier versions recorded the images alone.

        Raises:
            ValueError: A part has changed, or the record of the parts is damaged.
        """
        recorded = read_object(self.splits) if splits else {}
        for part, split in splits.items():
            if not (isinstance(recorded.get(part), dict) and "sha256" in recorded[part]):
                raise ValueError(f"{self.splits} must hold the list of data.{part} that the run began with, got none")
            if split.sha256 != recorded[part]["sha256"]:
                raise ValueError(
                    f"{self.lists / part}.txt: the run must go on with the images that it began with, "
                    f"got others from {split.origin}"
                )
            if recorded[part].get("pairs_sha256", split.pairs_sha256) != split.pairs_sha256:
                raise ValueError(
                    f"{self.splits}: the run must go on with the label files that it began with, "
                    f"got others for data.{part} from {split.origin}: put them back, or begin another run"
                )

    def require_free(self) -> None:
        """Check that a run can begin here.

        Raises:
            ValueError: The folder is not empty, or is not a folder.
        """
        if self.path.exists() and not (self.path.is_dir() and all(map(self._came_before, self.path.iterdir()))):
            raise ValueError(f"--out must be a new or an empty folder, got {str(self.path)!r} (--resume continues it)")

    def _came_before(self, entry: Path) -> bool:
        """Whether an entry was left by a run that was killed before it wrote config.yaml."""
        return entry == self.lock or entry.name == f".{self.config.name}.tmp"

    def newest_checkpoint(self) -> Path | None:
        """Checkpoint to continue from: the last one, or the best one where the last is gone or not yet written."""
        return next((path for path in (self.last, self.best) if path.is_file()), None)

    def require_nothing_to_lose(self, config: RunConfig) -> None:
        """Check that a run without a checkpoint may begin anew, because it never had one.

        Raises:
            ValueError: The run had a checkpoint.
        """
        first = min(config.train.checkpoint_every, config.eval.every)
        steps = [record["step"] for record in read_metrics(self.metrics)]
        if self.evaluation.is_file() or max(steps, default=0) > first:
            raise ValueError(
                f"{self.last}: must be there to go on, but is missing, and the run had got to step "
                f"{max(steps, default=first)}: restore it, or begin again with another --out"
            )

    def load_config(self) -> RunConfig:
        """Read the configuration of a run.

        Raises:
            ValueError: The folder is not a run.
        """
        if not self.config.is_file():
            raise ValueError(
                f"run must be a folder with a config.yaml, as fpl-fast train --out makes it, got {str(self.path)!r}"
            )
        return load_config(self.config)

    @staticmethod
    def write_json(path: Path, content: dict[str, Any]) -> None:
        """Write a JSON file in one replacement, so that a reader never sees half of it."""
        with replacing(path) as file:
            file.write(json_text(content, indent=1).encode())
