"""``fpl-fast train`` under torchrun, where the second process is killed in step 5 of the first attempt."""

import os
import signal
import sys

from fpl_fast.trainer import loop
from fpl_fast.trainer.cli import main

take_step = loop.train_step
steps = 0


def train_step(*args, **options):
    global steps
    steps += 1
    if (steps, os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (5, "1", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(*args, **options)


loop.train_step = train_step
sys.exit(main())
