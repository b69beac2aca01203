"""``fpl-fast train`` under torchrun, where one process is killed in the first attempt: the second, in step 5."""

import os
import signal
import sys

from fpl_fast.trainer import loop
from fpl_fast.trainer.cli import main

take_step = loop.train_step
steps = 0
STEP, RANK = (os.environ.get(name, default) for name, default in (("KILLED_STEP", "5"), ("KILLED_RANK", "1")))


def train_step(*args, **options):
    global steps
    steps += 1
    if (str(steps), os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (STEP, RANK, "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(*args, **options)


loop.train_step = train_step
sys.exit(main())
