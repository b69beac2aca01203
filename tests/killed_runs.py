"""Runs of the tiny configuration that kill themselves: ``python killed_runs.py FOLDER``, for test_killed.py.

They are forked from one process, because importing torch takes longer than all of them.
"""

import gc
import io
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer import step
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_between_two_steps(folder):
    """After step 5, one step past the checkpoint of step 4."""
    train(tiny_run(), folder, Quiet(lambda step: step == 5 and kill()))


def killed_in_a_write(folder):
    """Train until a kill in the middle of writing the checkpoint of step 6."""
    saved = torch.save

    def save(state, file):
        if state["step"] < 6:
            return saved(state, file)
        buffer = io.BytesIO()
        saved(state, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        return kill()

    torch.save = save
    train(tiny_run(), folder, Quiet())


def killed_between_two_writes(folder):
    """Train until a kill between the writes of the best and the last checkpoint after the evaluation of step 4."""
    saved, done = torch.save, []

    def save(state, file):
        if len(done) == 2:  # one before the first evaluation
            kill()
        done.append(saved(state, file))

    torch.save = save
    train(tiny_run(), folder, Quiet())


def killed_in_a_phase(folder, place):
    """In step 6 of GCT: where the networks have their gradients, or where the flaw detector has."""
    name, done = ("backward", "backward_phase")[place], []
    taken = getattr(step, name)

    def take(*args, **options):
        values = taken(*args, **options)
        done.append(values)
        if len(done) == 6:
            kill()
        return values

    setattr(step, name, take)
    train(tiny_run(**PHASES), folder, Quiet())


killed_in_the_first_phase = partial(killed_in_a_phase, place=0)
killed_in_the_second_phase = partial(killed_in_a_phase, place=1)
PHASES = {"name": "gct", "loss": "mse", "engine": "eager", "detector_scale": 2}


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    gc.freeze()  # as in distributed_runs.py
    for name in (
        "killed_between_two_steps",
        "killed_in_a_write",
        "killed_between_two_writes",
        "killed_in_the_first_phase",
        "killed_in_the_second_phase",
    ):
        process = context.Process(target=globals()[name], args=(RunFolder(Path(sys.argv[1]) / name),))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (name, process.exitcode)
