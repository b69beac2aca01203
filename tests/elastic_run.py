"""``fpl-fast train`` under torchrun, where one process is killed in the first attempt: the second, in step 5."""

import os
import signal
import sys

from fpl_fast.trainer import loop
from fpl_fast.trainer.cli import main


def train(*arguments):
    """Run the command in one of the processes, and end it."""
    take_step = loop.train_step
    step, rank = (os.environ.get(name, default) for name, default in (("KILLED_STEP", "5"), ("KILLED_RANK", "1")))
    steps = 0

    def train_step(*args, **options):
        nonlocal steps
        steps += 1
        if (str(steps), os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (step, rank, "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(*args, **options)

    loop.train_step = train_step
    sys.exit(main(arguments))


if __name__ == "__main__":
    train(*sys.argv[1:])
