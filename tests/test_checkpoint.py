import os
import random
import resource
from contextlib import contextmanager

import fresh
import numpy as np
import pytest
import torch

from fpl_fast.trainer.run import checkpoint
from fpl_fast.trainer.run.checkpoint import load_checkpoint, load_random_state, random_state, save_checkpoint


def test_round_trip(tmp_path):
    state = {"step": 7, "weights": {"a": torch.randn(3, 5)}, "random": random_state(), "nothing": None, "name": "x"}
    save_checkpoint(tmp_path / "last.ckpt", state)
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    assert loaded["step"] == 7
    assert loaded["nothing"] is None
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_generators_continue(tmp_path):
    def draw():
        return random.random(), np.random.standard_normal(), torch.randn(3).tolist()

    np.random.standard_normal()  # leaves half a pair behind, which the state must carry
    save_checkpoint(tmp_path / "c", {"random": random_state()})
    expected = draw()
    draw()
    load_random_state(load_checkpoint(tmp_path / "c")["random"])
    assert draw() == expected


@pytest.mark.parametrize("where", ["write", "replace"])
def test_failure_keeps_the_previous_file(tmp_path, monkeypatch, where):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"step": 1})

    def fail(*_):
        raise OSError("no space left on device")

    if where == "write":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("DataLoader worker (pid 7) is killed")])
@pytest.mark.parametrize("where", ["write", "state", "torch"])
@pytest.mark.parametrize("handling", [False, True])
def test_what_ends_a_save_is_not_hidden(tmp_path, monkeypatch, error, where, handling):
    """Signals raise wherever Python happens to be, perhaps while the run is saved because of another error."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"step": 1})

    def met(*_):
        raise error

    class Met:
        __reduce__ = met

    class File:
        def write(self, content):
            self.count = getattr(self, "count", 0) + 1
            return met() if self.count == 3 else len(content)

        def flush(self):
            pass

    @contextmanager
    def replacing(_):
        yield File()

    if where == "write":
        monkeypatch.setattr(checkpoint, "replacing", replacing)
    if where == "torch":
        monkeypatch.setattr(torch, "save", met)
    with pytest.raises(type(error)) as raised:
        try:
            if handling:
                raise LookupError
            save_checkpoint(path, {"step": 2, "state": Met() if where == "state" else torch.randn(5_000)})
        except LookupError:
            save_checkpoint(path, {"step": 2, "state": Met() if where == "state" else torch.randn(5_000)})
    assert raised.value is error
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": torch.randn(5)})
    content = path.read_bytes()
    bits = fresh.rng().integers(0, 8, len(content))
    for place, bit in enumerate(bits.tolist()):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"last\.ckpt: must be a whole checkpoint file"):
            load_checkpoint(path)


def test_the_remedy_is_the_other_checkpoint(tmp_path):
    for name, other in (("last.ckpt", "best.ckpt"), ("best.ckpt", "last.ckpt")):
        (tmp_path / name).write_bytes(b"damaged")
        (tmp_path / other).unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"or foreign: restore it from a copy, or train anew with another --out$"):
            load_checkpoint(tmp_path / name)
        save_checkpoint(tmp_path / other, {"step": 3})
        with pytest.raises(ValueError, match=f": copy {other}, the run's other checkpoint, over it$"):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("kilobytes", [0, 4, 300])
def test_a_full_disk_is_one_line(tmp_path, kilobytes):
    """Wherever it fills up: the file system's own error, and the previous checkpoint is untouched."""
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"^.*last\.ckpt: could not be written \(File too large\): make room"
        ) as error:
            save_checkpoint(path, {"step": 2, "weights": torch.randn(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file(tmp_path, share):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"weights": torch.randn(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"last\.ckpt: must be a whole checkpoint"):
        load_checkpoint(path)


def test_foreign_files(tmp_path):
    path = tmp_path / "c.ckpt"
    with pytest.raises(ValueError, match="no such file"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="foreign"):
        load_checkpoint(path)
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match="whole checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"format": "another"})
    with pytest.raises(ValueError, match="foreign"):
        load_checkpoint(path)
    save_checkpoint(path, {"version": 99})
    with pytest.raises(ValueError, match="version 2, got 99"):
        load_checkpoint(path)


def test_loading_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    save_checkpoint(tmp_path / "c.ckpt", {"x": Payload()})
    with pytest.raises(ValueError, match=r"holds more than tensors and could run code \(\w+\.mkdir\)$") as error:
        load_checkpoint(tmp_path / "c.ckpt")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_checkpoints_without_a_checksum_are_read(tmp_path):
    """Version 1 had none, and nothing that was still to come."""
    torch.save({"format": "fpl-fast checkpoint", "version": 1, "step": 7}, tmp_path / "last.ckpt")
    assert load_checkpoint(tmp_path / "last.ckpt") == {
        "format": "fpl-fast checkpoint", "version": 1, "step": 7, "pending": False,
    }  # fmt: skip
