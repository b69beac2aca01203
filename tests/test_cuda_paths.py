"""Questions of the trainer to CUDA, with stand-ins: lines that no machine without a GPU reaches otherwise."""

import random

import numpy as np
import pytest
import torch

from fpl_fast.trainer.build import make_fabric, uses_cuda
from fpl_fast.trainer.config import TrainConfig
from fpl_fast.trainer.dry_run import _available_memory
from fpl_fast.trainer.run.checkpoint import load_random_state, random_state
from fpl_fast.trainer.run.clock import peak_memory_mb, reset_peak_memory

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(("here", "wanted"), [(0, 1), (2, 3)])
def test_more_gpus_than_there_are(monkeypatch, here, wanted):
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    with pytest.raises(ValueError, match=rf"train\.devices must be at most the {here} GPUs here, got {wanted}"):
        make_fabric(TrainConfig(accelerator="cuda", devices=wanted, batch_labelled=6, batch_unlabelled=6))


def test_a_gpu_is_used_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert uses_cuda(TrainConfig()) and not uses_cuda(TrainConfig(accelerator="cpu"))


def test_memory_is_the_devices(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", asked.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3_000_000)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (5, 7))
    reset_peak_memory(CUDA)
    assert asked == [CUDA] and peak_memory_mb(CUDA) == 3 and _available_memory(CUDA) == 5


def test_a_checkpoint_holds_the_generator_of_a_gpu(monkeypatch):
    kept, loaded = torch.arange(4, dtype=torch.uint8), []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda: kept)
    monkeypatch.setattr("torch.cuda.set_rng_state", loaded.append)
    state = random_state()
    expected = (random.random(), np.random.rand(), torch.rand(1))
    load_random_state(state)
    assert loaded == [kept] and (random.random(), np.random.rand(), torch.rand(1)) == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    load_random_state(state)  # on a machine without a GPU
    assert len(loaded) == 1 and random_state()["cuda"] is None
