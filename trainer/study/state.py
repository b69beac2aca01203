"""State of a study's runs, read from their folders: nothing else is remembered, so nothing can disagree."""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.run.lock import RunLock
from fpl_fast.trainer.run.records import read_metrics
from fpl_fast.trainer.run.same_run import require_same_run
from fpl_fast.trainer.study.grid import Study, Trial
from fpl_fast.trainer.writing.json_text import json_text, read_object
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["StudyFolder", "TrialState"]


class TrialState(NamedTuple):
    """State of a run of a study."""

    phase: Literal["waiting", "running", "done"]
    step: int
    """Last step that was logged."""
    miou: float | None
    """After the last step, in [0, 1]; None before."""
    seconds: float
    """Duration of training, as logged."""
    curve: tuple[tuple[int, float], ...]
    """Step and mIoU of every evaluation."""


class StudyFolder:
    """Files of a study.

    ``runs/NAME``, a run folder for each trial, ``configs/NAME.yaml``, from which it is trained, ``logs/NAME.txt``, the
    output of its process, ``jobs``, the files of the launcher, ``study.lock``, ``study.json``, which names the study,
    and the results: ``runs.csv``, ``cells.csv``, ``study.md``, ``study.html``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.runs = self.path / "runs"
        self.configs = self.path / "configs"
        self.logs = self.path / "logs"
        self.jobs = self.path / "jobs"
        self.lock = self.path / "study.lock"
        self.record = self.path / "study.json"

    def run(self, trial: Trial) -> RunFolder:
        """Folder of a run."""
        return RunFolder(self.runs / trial.name)

    def config(self, trial: Trial) -> Path:
        """File of a run's configuration."""
        return self.configs / f"{trial.name}.yaml"

    def log(self, trial: Trial) -> Path:
        """File of a run's output."""
        return self.logs / f"{trial.name}.txt"

    @contextlib.contextmanager
    def hold(self, study: Study) -> Iterator[None]:
        """Create the folder, or take one that the study began in, and keep other processes from training there.

        Raises:
            ValueError: The folder holds something else, another study, or a run with other settings than this study
                gives it, or another process holds it.
        """
        self._require_study()
        self.path.mkdir(parents=True, exist_ok=True)
        with RunLock(self.lock):  # the first file: whenever the command is stopped, the folder is one of a study
            self.require_own(study)
            with replacing(self.record) as file:
                file.write(json_text({"study": study.name}).encode())
            for path in (self.runs, self.configs, self.logs, self.jobs):
                path.mkdir(exist_ok=True)
            yield

    def has_open_runs(self, study: Study) -> bool:
        """Whether the study can begin here, or can go on because not all of its runs are done."""
        try:
            self._require_study()
            self.require_own(study)
        except ValueError:
            return False
        return any(self.state(trial).phase != "done" for trial in study.trials)

    def _require_study(self) -> None:
        """Check that the folder is one of a study, empty, or not there yet."""
        if self.path.exists() and not self.lock.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"--out must be a new or an empty folder, or one of a study, got {str(self.path)!r}")

    def require_own(self, study: Study) -> None:
        """Check that the runs in the folder, if any, are of this study or of an earlier form of it.

        That is, the name is the same (folders of earlier versions have none), at least one run is, and so are the
        settings of the runs that both have.

        Raises:
            ValueError: They are of another study, or have other settings.
        """
        found = {path.stem for path in self.configs.glob("*.yaml")}  # written before a run is submitted
        if not found:
            return
        name = read_object(self.record).get("study") if self.record.is_file() else study.name
        if name != study.name or found.isdisjoint(trial.name for trial in study.trials):
            raise ValueError(
                f"--out must be a folder of this study, {study.name}, got {str(self.path)!r} with the runs of another"
                f"{'' if name == study.name else f', {name}'}, such as {min(found)}: give another --out"
            )
        for trial in study.trials:
            folder = self.run(trial)
            if folder.config.is_file():
                require_same_run(folder.load_config(), trial.config, source=f"{folder.path}")

    def state(self, trial: Trial) -> TrialState:
        """Read the state of a run."""
        folder = self.run(trial)
        records = _records(folder.metrics)
        curve = tuple((r["step"], r["miou"]) for r in records if r.get("split") == "val" and _is_share(r.get("miou")))
        step = max((record["step"] for record in records), default=0)
        seconds = max((r["elapsed_s"] for r in records if isinstance(r.get("elapsed_s"), float)), default=0.0)
        miou = _final_miou(folder.evaluation, trial.config.train.steps)
        if miou is not None:
            return TrialState("done", step, miou, seconds, curve)
        return TrialState("running" if _is_held(folder.lock) else "waiting", step, None, seconds, curve)

    def last_line(self, trial: Trial) -> str:
        """Last line of a run's output."""
        try:
            lines = self.log(trial).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return "no output"
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _records(metrics: Path) -> list[dict[str, Any]]:
    """Read the records of a run; damaged ones, which a report would name, must not hide the other runs of a study."""
    try:
        return read_metrics(metrics)
    except (OSError, ValueError):
        return []


def _is_share(value: Any) -> bool:
    """Whether a value is a number in [0, 1]."""
    return isinstance(value, int | float) and 0 <= value <= 1


def _final_miou(evaluation: Path, steps: int) -> float | None:
    """Score after the last step, NaN where no pixel was labelled; None before, and where the file is damaged."""
    try:
        content = json.loads(evaluation.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("step") != steps or "miou" not in content:
        return None
    miou = content["miou"]
    if miou is None:
        return float("nan")
    return float(miou) if _is_share(miou) else None


def _is_held(lock: Path) -> bool:
    """Whether a process trains in the folder of this lock."""
    try:
        with lock.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
