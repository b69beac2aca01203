"""Runs on one, two and four gloo processes: ``python distributed_runs.py FOLDER``, for test_distributed.py.

All are forked from one process, because importing torch takes longer than all of them, with the environment that
torchrun gives.
"""

import dataclasses
import gc
import multiprocessing
import os
import signal
import socket
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from trainer_runs import DoubleNetwork, PlainCorrelation, PlainDetector, PlainNetwork, Quiet, tiny_run

from fpl_fast.trainer import build
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.methods import corrmatch, gct, u2pl
from fpl_fast.trainer.run.folder import RunFolder

EXACT = {
    "supervised": {"name": "supervised"},
    "plain": {"loss": "ce", "ignore_padding": True},
    "fpl": {"loss": "fpl", "balance": False, "cutmix": False},
    "fixmatch": {"name": "fixmatch", "loss": "ce", "confidence_threshold": 0.15},
    "gct": {"name": "gct", "loss": "mse", "ignore_padding": True},
    "undropped": {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.15, "dropout_share": 0.0},
    "regionless": {
        "name": "corrmatch",
        "loss": "ce",
        "gated": True,
        "confidence_threshold": 0.15,
        "threshold_momentum": 1.0,
        "num_regions": 0,
        "feature_dropout": 0.0,
    },
}
"""Equal on processes and in micro-batches."""

SCALED = {
    "balanced": {"loss": "fpl", "weighting": "concave", "ignore_padding": True},
    "mean_teacher": {"name": "mean_teacher", "loss": "mse", "ignore_padding": True},
    "fpl_mean_teacher": {"name": "mean_teacher", "loss": "fpl", "ignore_padding": True},
    "cutmix_seg": {"name": "cutmix_seg", "loss": "ce", "confidence_threshold": 0.15, "ignore_padding": True},
    "fpl_cutmix_seg": {"name": "cutmix_seg", "loss": "fpl", "weighting": "concave", "confidence_threshold": 0.15},
    "cct": {"name": "cct", "loss": "mse", "sup_loss": "annealed", "adversarial_decoders": 1, "ignore_padding": True},
    "fpl_cct": {"name": "cct", "loss": "fpl", "weighting": "concave", "confidence_threshold": 0.15},
    "fpl_gct": {"name": "gct", "loss": "fpl", "weighting": "concave", "ignore_padding": True},
    "cac": {"name": "cac", "confidence_threshold": 0.15, "bank_cells": 96, "bank_steps": 2},
    "u2pl": {"name": "u2pl", "loss": "ce", "ignore_padding": True, "anchors": 64, "keys_per_step": 16, "bank_size": 40},
    "fpl_u2pl": {"name": "u2pl", "loss": "fpl", "weighting": "concave", "follow_share": 0.4, "contrast_threshold": 0.0},
    "ael": {
        "name": "ael",
        "loss": "ce",
        "confidence_threshold": 0.25,
        "donor_lead": 2,
        "bank_momentum": 0.5,
        "ignore_padding": True,
    },
    "fpl_fixmatch": {"name": "fixmatch", "loss": "fpl", "weighting": "concave"},
    "unimatch": {"name": "unimatch", "loss": "ce", "confidence_threshold": 0.15},
    "fpl_unimatch": {"name": "unimatch", "loss": "fpl", "ignore_padding": False},
    "corrmatch": {"name": "corrmatch", "loss": "ce", "gated": True, "confidence_threshold": 0.15, "num_regions": 16},
    "fpl_corrmatch": {"name": "corrmatch", "loss": "fpl", "confidence_threshold": 0.15, "threshold_momentum": 0.9},
    "unimatch_v2": {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.15},
    "fpl_unimatch_v2": {"name": "unimatch_v2", "loss": "fpl", "weighting": "concave", "ignore_padding": False},
    "fpl_ael": {"name": "ael", "loss": "fpl", "sup_loss": "ohem", "ohem_min_kept": 40, "donor_lead": 2},
}
"""Methods that are equal on any number of processes; in micro-batches, each has its own factors of the loss.

Four processes show what two would, with shares that are not halves; that both numbers work, the methods above show.
"""


def config(batch=8, accumulate=1, **method):
    run = tiny_run(**method)
    changed = dataclasses.replace(
        run.train, batch_labelled=batch, batch_unlabelled=batch, accumulate=accumulate, loggers=("csv",)
    )
    return dataclasses.replace(run, train=changed)


def exact(parent, methods, world_size, accumulate):
    """Four steps of a network without batch normalisation, then an evaluation, by one method after the other."""
    build.make_network = lambda _, num_classes: DoubleNetwork(num_classes)
    gct.FlawDetector = PlainDetector
    corrmatch.CorrelationHead = PlainCorrelation
    u2pl.RepresentationHead = lambda in_channels, channels: torch.nn.Conv2d(in_channels, channels, 1)
    for name, method in methods.items():
        run = config(accumulate=accumulate, **method)
        run = dataclasses.replace(run, train=dataclasses.replace(run.train, steps=4))
        train(run, RunFolder(parent / f"{name}_{world_size}_{accumulate}"), Quiet())


def random(folder, stop_at=None):
    """Train with dropout and batch normalisation, perhaps until asked to stop, and write the generator's next draws."""
    build.make_network = lambda _, num_classes: torch.nn.Sequential(PlainNetwork(num_classes, 0.5), torch.nn.Identity())
    resume = folder.last.is_file()
    monitor = Quiet(lambda step: step == stop_at and os.kill(os.getpid(), signal.SIGTERM))
    train(config(batch=4), folder, monitor, resume=resume)
    torch.save(torch.rand(4), folder.path / f"draws_{os.environ['RANK']}.pt")


@contextmanager
def recorded(path):
    """Redirect the output of each process to a file of its own."""
    with open(f"{path}.{os.environ['RANK']}", "w") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        yield


def real(folder, run):
    """A network with batch normalisation, through DDP as it is."""
    with recorded(folder.path):
        train(run, folder, Quiet())


def refused(parent):
    """A folder in use, which the first process alone looks at."""
    with recorded(parent / "refused"):
        sys.exit(main(["train", str(parent / "real" / "config.yaml"), "--out", str(parent / "real")]))


def adaptive():
    """AEL with its own head, in micro-batches."""
    run = config(accumulate=2, name="ael")
    return dataclasses.replace(run, model=dataclasses.replace(run.model, head="ael"))


def start(rank, world_size, port, run):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "tests",
    }
    run()


def launch(world_size, run, *, code=0):
    """Wait for ``world_size`` processes that run the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=start, args=(rank, world_size, port, run)) for rank in range(world_size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == code, (run, process.exitcode)


if __name__ == "__main__":
    parent = Path(sys.argv[1])
    gc.freeze()  # a child that collects garbage would go through all modules, and copy their pages
    for world_size in (1, 4):
        launch(world_size, partial(exact, parent, EXACT | SCALED, world_size, 1))
    for accumulate in (1, 2):
        launch(2, partial(exact, parent, EXACT, 2, accumulate))
    launch(2, partial(random, RunFolder(parent / "random")))
    launch(2, partial(random, RunFolder(parent / "stopped"), stop_at=4))
    launch(2, partial(random, RunFolder(parent / "stopped")))
    launch(2, partial(real, RunFolder(parent / "real"), config()))
    launch(2, partial(real, RunFolder(parent / "real_ael"), adaptive()))
    launch(2, partial(real, RunFolder(parent / "real_gct"), config(accumulate=2, name="gct", loss="mse")))
    launch(2, partial(refused, parent), code=2)
