"""A process ends with its loader processes, whoever keeps them: an error that is kept holds their iterator."""

import subprocess
import sys
from pathlib import Path

import pytest
from trainer_runs import HANGS

BEGIN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import dataclasses, torch
"""

EVALUATION = """
from test_evaluate import IDENTITY, NUM_CLASSES, Broken, ReadsClass, evaluate, random_samples
try:
    evaluate(ReadsClass(), Broken(random_samples([(3, 4)] * 2)), num_classes=NUM_CLASSES, num_workers=2, **IDENTITY)
except ValueError as error:
    kept = error
"""

TRAINING = """
from pathlib import Path
from trainer_runs import Quiet, tiny_run
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.folder import RunFolder

def fail(step):
    raise ValueError("of the caller")

config = tiny_run()
config = dataclasses.replace(config, train=dataclasses.replace(config.train, workers=1))
try:
    train(config, RunFolder(Path(sys.argv[1]) / "run"), Quiet(fail))
except ValueError as error:
    kept = error
"""

END = """
import multiprocessing
print(len(multiprocessing.active_children()), kept)
"""


@pytest.mark.parametrize(
    ("work", "message"), [(EVALUATION, "b.png: the image must be readable, got nonsense"), (TRAINING, "of the caller")]
)
def test_an_error_that_is_kept_does_not_keep_the_process(tmp_path, work, message):
    command = [sys.executable, "-c", BEGIN + work + END, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stderr) == (0, "")
    left, kept = done.stdout.strip().split(" ", 1)
    assert kept == message
    assert int(left) > 0  # otherwise this test tests nothing
