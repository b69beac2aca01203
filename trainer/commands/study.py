"""``fpl-fast study``."""

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console
from fpl_fast.trainer.commands.settings import expand_short_names
from fpl_fast.trainer.config.plain_yaml import load_yaml

if TYPE_CHECKING:
    from fpl_fast.trainer.study.grid import Study
    from fpl_fast.trainer.study.launch import Launcher
    from fpl_fast.trainer.study.state import StudyFolder

__all__ = ["main", "train_study"]

_DESCRIPTION = """
Train every run of STUDY that is not done, and write its table. STUDY is a YAML file (docs/studies.md), voc-table,
city-table or quickstart. Options of fpl-fast train, such as --data-root D or --train.steps 300, hold for all runs. The
same command goes on after a stop, a kill, or an extension of the file.
"""


def main(arguments: list[str]) -> int:
    """Train the runs of a study, or predict what they need, or write the results so far."""
    parser = Parser("fpl-fast study", _DESCRIPTION)
    parser.add_argument("study", metavar="STUDY", help="YAML file or name")
    parser.add_argument("--out", type=folder_name, metavar="DIR", help="folder of the study; default studies/NAME")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 in place of the study's own")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at the same time, which share the GPUs if need "
                        "be; default: one for each GPU (or --devices of them), for every two cores, or all on a "
                        "cluster")  # fmt: skip
    parser.add_argument("--devices", type=int, metavar="N", default=1, help="GPUs of a run; several through torchrun, "
                        "0 for a cluster without")  # fmt: skip
    parser.add_argument("--cluster", choices=["local", "slurm"], default="local", help="where to run")
    parser.add_argument(
        "--cluster-option", metavar="KEY=VALUE", action="append", default=[],
        help="parameter of submitit, such as slurm_partition=gpu or timeout_min=600; may be repeated",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="predict hours, memory and disk from steps on noise")
    parser.add_argument("--results", action="store_true", help="write the results so far and train nothing")
    options, overrides = parser.parse_known_args(arguments)
    for name, least in (("jobs", 1), ("devices", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if options.dry_run and options.results:
        raise ValueError("--dry-run and --results exclude each other: give one of them")

    from fpl_fast.trainer.study.grid import read_study
    from fpl_fast.trainer.study.state import StudyFolder

    study = read_study(options.study, overrides=expand_short_names(overrides), seeds=options.seeds)
    folder = StudyFolder(options.out or Path("studies") / study.name)
    if options.dry_run:
        return _predict(study, folder, options)
    if options.results and not folder.lock.is_file():
        raise ValueError(f"--results must be of a study that has begun, got no study in {str(folder.path)!r}")
    if options.results:
        folder.require_own(study)
        return _conclude(study, folder, failed={})
    return _train(study, folder, options, shlex.join(["fpl-fast", "study", *arguments]))


def _train(study: "Study", folder: "StudyFolder", options: argparse.Namespace, command: str) -> int:
    from fpl_fast.trainer.study.launch import Launcher

    gpus = _gpus(options)
    jobs = _jobs(options, len(gpus), len(study.trials))
    devices = options.devices if gpus or options.cluster != "local" else 0
    cluster_options = _cluster_options(options.cluster_option)
    with folder.hold(study):
        launcher = Launcher(folder.jobs, cluster=options.cluster, devices=devices, options=cluster_options)
        return train_study(study, folder, launcher, jobs=jobs, gpus=gpus, command=command)


def train_study(
    study: "Study", folder: "StudyFolder", launcher: "Launcher", *, jobs: int, gpus: tuple[str, ...], command: str
) -> int:
    """Train the runs that are not done, live, and write and print the results.

    Args:
        study: The study.
        folder: Its folder, which is held.
        launcher: Submits the runs.
        jobs: Runs at the same time, at most.
        gpus: GPUs to share out on this machine.
        command: Command that goes on after a stop, for the message.

    Returns:
        The exit code: 1 if a run has failed, 128 + the signal after a stop.
    """
    from fpl_fast.trainer.commands.study_table import StudyMonitor
    from fpl_fast.trainer.run.interrupt import StopRequest
    from fpl_fast.trainer.study.queue import run_study

    for line in _plan(study, folder, jobs):
        out_console().print(line)
    with StopRequest() as stop, StudyMonitor(study) as monitor:
        snapshot = run_study(study, folder, launcher, jobs=jobs, gpus=gpus, stop=stop, show=monitor.show)
    code = _conclude(study, folder, failed=snapshot.failed)
    if stop.signal is not None:
        out_console().print(f"stopped; continue with: {command}")
        return 128 + stop.signal
    return code


def _plan(study: "Study", folder: "StudyFolder", jobs: int) -> list[str]:
    """Lines that tell what is left to train, and where to look, before it begins."""
    num_left = sum(folder.state(trial).phase != "done" for trial in study.trials)
    if num_left == 0:
        return [f"all {len(study.trials)} runs of {study.name} are done in {folder.path}: nothing to train"]
    together = f", {min(jobs, num_left)} at a time" if num_left > 1 else ""
    plan = f"{num_left} of {len(study.trials)} runs to train{together}; steps and times: {folder.logs / '*.txt'}"
    return [study.description, plan] if study.description else [plan]


def _gpus(options: argparse.Namespace) -> tuple[str, ...]:
    """The GPUs that runs on this machine share; none on a cluster, which has its own."""
    from fpl_fast.trainer.study.gpus import visible_gpus

    gpus = visible_gpus() if options.cluster == "local" and options.devices else ()
    if gpus and options.devices > len(gpus):
        raise ValueError(f"--devices must be at most the number of GPUs here, {len(gpus)}, got {options.devices}")
    return gpus


def _jobs(options: argparse.Namespace, num_gpus: int, num_trials: int) -> int:
    """Runs at the same time."""
    if options.jobs is not None:
        return int(options.jobs)
    if options.cluster != "local":
        return num_trials
    return num_gpus // options.devices if num_gpus else max(1, len(os.sched_getaffinity(0)) // 2)


def _cluster_options(given: Sequence[str]) -> dict[str, Any]:
    found = {}
    for option in given:
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise ValueError(f"--cluster-option must be KEY=VALUE, got {option!r}")
        try:
            found[key] = load_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--cluster-option {key} must be YAML: {' '.join(str(error).split())}") from None
    return found


def _predict(study: "Study", folder: "StudyFolder", options: argparse.Namespace) -> int:
    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.commands.study_table import estimate_table
    from fpl_fast.trainer.study.estimate import estimate

    gpus = _gpus(options)
    states = {trial.name: folder.state(trial) for trial in study.trials}
    with counting() as count:
        estimates, device = estimate(study, states, count("kinds of runs"))
    jobs = _jobs(options, len(gpus), len(study.trials))
    out_console().print(estimate_table(estimates, device, jobs))
    return 0


def _conclude(study: "Study", folder: "StudyFolder", *, failed: Mapping[str, str]) -> int:
    """Write the results and print them; 1 if a run has failed."""
    from fpl_fast.trainer.commands.study_table import scores_table
    from fpl_fast.trainer.study.queue import Snapshot
    from fpl_fast.trainer.study.results import write_results

    states = {trial.name: folder.state(trial) for trial in study.trials}
    snapshot = Snapshot(states, failed, ())
    write_results(study, folder, snapshot)
    console = out_console()
    console.print(scores_table(study, snapshot))
    for name, line in failed.items():
        console.print(f"{name} failed: {line} ({folder.logs / name}.txt)")
    console.print(f"results: {folder.path / 'study.md'}, {folder.path / 'study.html'}")
    return 1 if failed else 0
