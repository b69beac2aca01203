"""Runs that diverge: they say so, and leave a checkpoint that can be continued."""

import dataclasses
import json
import os
import signal

import pytest
import torch
from trainer_runs import STEPS, Quiet, tiny_run

from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.step import train_step

pytestmark = pytest.mark.usefixtures("nothing_is_compiled")


def test_a_diverging_run_stops_with_an_explanation(tmp_path):
    config = tiny_run()
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=1e30))
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) after step \d+: a lower optim.lr may help"):
        train(config, RunFolder(tmp_path / "run"), Quiet())


@pytest.mark.parametrize("stop", [False, True], ids=["evaluation", "stop"])
def test_a_diverged_run_is_not_saved(tmp_path, stop):
    """Neither by an evaluation nor by a stop between two log steps, of which --auto-resume would go on for ever."""
    config = tiny_run()
    config = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=1e30),
        train=dataclasses.replace(config.train, log_every=5),
        eval=dataclasses.replace(config.eval, every=100 if stop else 4),
    )
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(FloatingPointError, match="after step 4"):
        train(config, folder, Quiet(lambda step: stop and step == 4 and os.kill(os.getpid(), signal.SIGTERM)))
    assert not folder.last.exists()


@pytest.mark.parametrize(
    ("spoilt_at", "changes"),
    [(STEPS, {}), (5, {}), (5, {"checkpoint_every": 5})],
    ids=["evaluation", "stop", "checkpoint"],
)
def test_spoilt_weights_are_neither_saved_nor_evaluated(tmp_path, monkeypatch, spoilt_at, changes):
    """The loss of the step that spoils them is from before, and says nothing."""
    config = tiny_run(name="supervised")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    folder, taken = RunFolder(tmp_path / "run"), []

    def spoiling_step(fabric, module, *rest, **options):
        values = train_step(fabric, module, *rest, **options)
        taken.append(values)
        if len(taken) == spoilt_at:
            state = module.module.state_dict()
            floats = [name for name in state if state[name].is_floating_point()]
            spoilt = state[floats[torch.randint(len(floats), ())]]
            spoilt[(0,) * spoilt.ndim] = [torch.nan, torch.inf][torch.randint(2, ())]
        return values

    def stop(step):
        if step == spoilt_at < STEPS and not changes:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("fpl_fast.trainer.loop.train_step", spoiling_step)
        with pytest.raises(FloatingPointError, match=f"a weight is not finite after step {spoilt_at}, which is not"):
            train(config, folder, Quiet(stop))
    assert load_checkpoint(folder.last)["step"] == json.loads(folder.evaluation.read_text())["step"] == 4
    outcome = train(config, folder, Quiet(), resume=True)
    assert outcome.step == STEPS and outcome.miou == outcome.miou
