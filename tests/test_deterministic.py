"""Runs on a GPU that have the same bits again."""

import dataclasses
import os

import pytest
import torch
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.deterministic import deterministic_algorithms
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder


def run(config, folder):
    """The weights of a run."""
    train(config, RunFolder(folder), Quiet())
    return load_checkpoint(RunFolder(folder).last)["method"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cps", "mean_teacher", "cct", "gct", "cac", "ael", "u2pl", "unimatch", "corrmatch"])
def test_a_run_has_the_same_bits_again_on_a_gpu(tmp_path, name) -> None:
    config = tiny_run(name=name)
    settings = {"accelerator": "cuda", "precision": "bf16-mixed", "deterministic": True}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **settings))
    first, second = (run(config, tmp_path / part) for part in ("first", "second"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.usefixtures("nothing_is_compiled")
@pytest.mark.parametrize("wanted", [False, True])
def test_algorithms_are_chosen_for_the_run_alone(tmp_path, monkeypatch, wanted) -> None:
    """In a run the choice is deterministic and no algorithm is tried; afterwards all is as it was."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []
    forward = torch.nn.Conv2d.forward

    def spying(self, image):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark and self.training))
        return forward(self, image)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spying)
    config = tiny_run(name="supervised")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, deterministic=wanted))
    run(config, tmp_path / "run")
    assert {deterministic for deterministic, _ in seen} == {wanted}
    assert any(tried for _, tried in seen) == (not wanted)
    assert not torch.are_deterministic_algorithms_enabled()
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == wanted


def test_what_was_set_before_is_set_again() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with deterministic_algorithms():
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
