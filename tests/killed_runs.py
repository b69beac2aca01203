"""Runs of the tiny configuration that kill themselves: ``python killed_runs.py FOLDER``, for test_killed.py.

They are forked from one process, because importing torch takes longer than all of them.
"""

import io
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch
from trainer_runs import Quiet, tiny_run

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
    """Train until a kill between the writes of the best and the last checkpoint of step 4."""
    saved, done = torch.save, []

    def save(state, file):
        if done:
            kill()
        done.append(saved(state, file))

    torch.save = save
    train(tiny_run(), folder, Quiet())


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    for run in (killed_between_two_steps, killed_in_a_write, killed_between_two_writes):
        process = context.Process(target=run, args=(RunFolder(Path(sys.argv[1]) / run.__name__),))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (run.__name__, process.exitcode)
