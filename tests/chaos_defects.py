"""Rounds of chaos.py with a sound and with a damaged product: ``python chaos_defects.py FOLDER``, for test_chaos.py."""

import json
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import torch
from chaos import Campaign
from chaos_files import Point, Recorder, Signals, every_operation

from fpl_fast.trainer import loop
from fpl_fast.trainer.run import checkpoint, state
from fpl_fast.trainer.run.checkpoint import load_checkpoint, save_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

IN_AN_EVALUATION = Point("open", ".evaluation.json.tmp", 1)  # the second, of step 4: step 3 has been saved


def nothing():
    """The product as it is."""


def write_in_place():
    @contextmanager
    def writing(path):
        with path.open("wb") as file:
            yield file

    checkpoint.replacing = writing


def forget_the_interval():
    save = loop._Trainer._save

    def save_evaluations(self, *, best):
        if self.state.step % self.config.eval.every == 0:
            save(self, best=best)

    loop._Trainer._save = save_evaluations


def forget_the_generators():
    state.load_random_state = lambda states: None


ROUNDS = {
    "nothing": IN_AN_EVALUATION,
    "write_in_place": Point("write", "checkpoints/last.ckpt", 3),
    "forget_the_interval": IN_AN_EVALUATION,
    "forget_the_generators": IN_AN_EVALUATION,
}
"""Points at which the process is killed, by the defect of the product."""


def play(campaign, defect, point):
    """Play a round; returns what was wrong, None if nothing."""
    campaign.tiny.defect, folder = defect, RunFolder(campaign.tiny.parent / defect.__name__)
    ended = campaign.tiny.start(folder, Signals(folder.path, {point: signal.SIGKILL}).install).wait()
    if ended.code != -signal.SIGKILL:
        return f"not killed: {ended}"
    try:
        campaign.tiny.require_continues(folder, ended)
    except Exception:
        return traceback.format_exc()
    return None


def in_a_process(work):
    """Do work in a process of its own, and return the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def save_killed(folder, defect):
    """Save a checkpoint over another, killed at each operation in turn; returns the step kept of each, -1 for none."""
    path, record = folder / "last.ckpt", folder.with_suffix(".operations")
    before, after = ({"step": step, "weights": [torch.rand(4_000) for _ in range(4)]} for step in (1, 2))
    folder.mkdir()

    def save(disturbance):
        defect()
        disturbance.install()
        save_checkpoint(path, after)

    in_a_process(lambda: save(Recorder(folder, record)))
    steps = []
    for point in every_operation(record):
        save_checkpoint(path, before)
        killed = in_a_process(lambda point=point: save(Signals(folder, {point: signal.SIGKILL})))
        assert killed == signal.SIGKILL, (point, killed)
        try:
            steps.append(load_checkpoint(path)["step"])
        except ValueError:
            steps.append(-1)
    return steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    parent = Path(sys.argv[1])
    campaign = Campaign(parent)
    found = {name: play(campaign, globals()[name], point) for name, point in ROUNDS.items()}
    saves = {defect.__name__: save_killed(parent / f"save_{defect.__name__}", defect)
             for defect in (nothing, write_in_place)}  # fmt: skip
    json.dump({"found": found, "saves": saves}, sys.stdout)
