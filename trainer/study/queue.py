"""Queue of a study: trains its runs to the end, and tries those that fail once more."""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import submitit

from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.run.interrupt import StopRequest
from fpl_fast.trainer.study.gpus import GpuPool
from fpl_fast.trainer.study.grid import Study, Trial
from fpl_fast.trainer.study.launch import Launcher, TrialProcess
from fpl_fast.trainer.study.state import StudyFolder, TrialState

__all__ = ["Snapshot", "run_study"]

_ATTEMPTS = 2
_POLL_S = 1.0


class Snapshot(NamedTuple):
    """State of a study at a moment."""

    states: Mapping[str, TrialState]
    """By name of the run."""
    failed: Mapping[str, str]
    """Last line of each run that failed twice."""
    events: tuple[str, ...]
    """Events since the previous snapshot."""


def run_study(
    study: Study,
    folder: StudyFolder,
    launcher: Launcher,
    *,
    jobs: int,
    gpus: tuple[str, ...],
    stop: StopRequest,
    show: Callable[[Snapshot], None],
) -> Snapshot:
    """Train all runs of a study that are not done.

    Args:
        study: The study.
        folder: Its folder.
        launcher: Submits the runs.
        jobs: Runs at the same time, at most.
        gpus: GPUs to share out on this machine; empty on a cluster, which has its own, and without GPUs. Runs share
            them where there are more runs at the same time than GPUs.
        stop: Request to end: runs on this machine are asked to save first.
        show: Called about once a second.

    Returns:
        The last state.
    """
    return _Queue(study, folder, launcher, jobs, gpus).run(stop, show)


class _Queue:
    def __init__(self, study: Study, folder: StudyFolder, launcher: Launcher, jobs: int, gpus: tuple[str, ...]) -> None:
        self.study, self.folder, self.launcher, self.jobs = study, folder, launcher, jobs
        self.gpus, self.devices = GpuPool(gpus), launcher.devices if gpus else 0
        self.running: dict[str, tuple[submitit.Job[int], tuple[str, ...]]] = {}
        self.attempts: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.events: list[str] = []
        self.states = {trial.name: folder.state(trial) for trial in study.trials}

    def run(self, stop: StopRequest, show: Callable[[Snapshot], None]) -> Snapshot:
        """Submit and follow the runs until all are done or have failed, or a stop is asked for."""
        while True:
            stopping = stop.signal is not None
            self._collect(stopping)
            if stopping:
                self._ask_to_save()
            else:
                self._fill()
            snapshot = Snapshot(dict(self.states), dict(self.failed), tuple(self.events))
            self.events = []
            show(snapshot)
            if not self.running and (stopping or not self._open()):
                return snapshot
            time.sleep(_POLL_S)

    def _is_open(self, name: str) -> bool:
        """Whether a run is neither done nor has failed."""
        return self.states[name].phase != "done" and name not in self.failed

    def _open(self) -> list[Trial]:
        """Runs that are neither done nor have failed."""
        return [trial for trial in self.study.trials if self._is_open(trial.name)]

    def _collect(self, stopping: bool) -> None:
        """Read the state of open runs, and take those that have ended from the list."""
        for trial in self.study.trials:
            name = trial.name
            if name not in self.running and not self._is_open(name):
                continue
            ended = name in self.running and self.running[name][0].done()
            self.states[name] = state = self.folder.state(trial)
            # A run whose job was killed around it may still be saving.
            if ended and state.phase != "running":
                job, gpus = self.running.pop(name)
                self.gpus.give_back(gpus)
                self._judge(trial, state, stopping, _ended_well(job))

    def _judge(self, trial: Trial, state: TrialState, stopping: bool, ended_well: bool) -> None:
        name, line = trial.name, self.folder.last_line(trial)
        if ended_well:  # and still is not done
            evaluation = self.folder.run(trial).evaluation
            line = f"{evaluation} must hold the result of step {trial.config.train.steps}, but does not: delete the run"
        if state.phase == "done":
            assert state.miou is not None
            self.events.append(f"{name}: mIoU {100 * state.miou:.2f} %")
        elif stopping:
            self.events.append(f"{name}: stopped after step {state.step} or later")  # not every step is logged
        elif self.attempts[name] < _ATTEMPTS:
            self.events.append(f"{name}: tried again after: {line}")
        else:
            self.failed[name] = line
            self.events.append(f"{name}: failed: {self.failed[name]}")

    def _fill(self) -> None:
        """Submit runs as long as there is room. A run that another process still trains is waited for."""
        for trial in sorted(self._open(), key=self._order):
            if len(self.running) >= self.jobs:
                return
            if trial.name in self.running or self.states[trial.name].phase == "running":
                continue
            gpus = self.gpus.take(self.devices)
            self.attempts[trial.name] += 1
            self.running[trial.name] = (self._submit(trial, gpus), gpus)
            self.events.append(f"{trial.name}: started")

    def _order(self, trial: Trial) -> tuple[int, int]:
        """Failed runs last, and the first seed of every cell before any second one: pairs are complete early."""
        seeds = [other.seed for other in self.study.trials if other.cell == trial.cell]
        return self.attempts[trial.name], seeds.index(trial.seed)

    def _submit(self, trial: Trial, gpus: tuple[str, ...]) -> submitit.Job[int]:
        config = self.folder.config(trial)
        save_config(trial.config, config)
        command = self.launcher.command(config, self.folder.run(trial).path)
        return self.launcher.submit(TrialProcess(command, self.folder.log(trial), self._environment(gpus)))

    def _environment(self, gpus: tuple[str, ...]) -> dict[str, str]:
        """Share GPUs and cores among runs on this machine, the cores unless the user has shared them out."""
        if self.launcher.is_remote:
            return {}
        # submitit's own way always takes the first GPUs: it has no public parameter that says which.
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // self.jobs))
        return environment

    def _ask_to_save(self) -> None:
        """End runs on this machine; those of a cluster go on, and are found again by the same command."""
        for name, (job, _) in list(self.running.items()):
            if self.launcher.is_remote:
                del self.running[name]
            elif not job.done():  # again and again: a job that is just starting may miss the first time
                self.launcher.ask_to_save(job)


def _ended_well(job: submitit.Job[int]) -> bool:
    """Whether the process of a job ended with code 0."""
    try:
        return job.result() == 0
    except Exception:  # submitit's own, or whatever ended the job
        return False
