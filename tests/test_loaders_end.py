"""Loader processes end with what reads them, even if an error keeps it; at the latest they end with their process."""

from pathlib import Path

import pytest
from fork_server import python

BEGIN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import dataclasses, multiprocessing, torch
from pathlib import Path
from trainer_runs import Quiet, tiny_run
config = tiny_run()
config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=1))
kept = None
"""

EVALUATION = """
from test_evaluate import IDENTITY, NUM_CLASSES, Broken, ReadsClass, evaluate, random_samples
try:
    evaluate(ReadsClass(), Broken(random_samples([(3, 4)] * 2)), num_classes=NUM_CLASSES, num_workers=2, **IDENTITY)
except ValueError as error:
    kept = error
"""

TRAINING = """
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder

def fail(step):
    assert multiprocessing.active_children()
    raise ValueError("of the caller")

try:
    train(config, RunFolder(Path(sys.argv[1]) / "run"), Quiet(fail))
except ValueError as error:
    kept = error
"""

UNFINISHED = """
from fpl_fast.trainer.data.datasets import build_train_datasets
from fpl_fast.trainer.data.inputs import read_batches
datasets = build_train_datasets(config.data, unlabelled=True)
kept = read_batches(config, datasets, num_unlabelled_views=2, device=torch.device("cpu"))
next(kept)
"""

END = """
print(len(multiprocessing.active_children()), kept)
"""


def run(work, tmp_path):
    """The number of loader processes that a script leaves, and what it keeps; the process must end."""
    done = python("-c", BEGIN + work + END, str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    left, kept = done.stdout.strip().split(" ", 1)
    return int(left), kept


@pytest.mark.parametrize(
    ("work", "message"), [(EVALUATION, "b.png: the image must be readable, got nonsense"), (TRAINING, "of the caller")]
)
def test_an_error_that_is_kept_keeps_no_loader(tmp_path, work, message):
    assert run(work, tmp_path) == (0, message)


def test_a_process_ends_with_batches_that_nobody_read(tmp_path):
    left, kept = run(UNFINISHED, tmp_path)
    assert left == 3 and "generator" in kept
