"""Files as a version of fpl-fast writes them, which every later one must read: ``python kept_files.py VERSION``.

Writes ``kept/VERSION.tar.xz``: a run that was stopped halfway, what its network answers, and a pack with the checksums
of its pictures. A version that changes a format adds an archive of its own; none is ever written anew.
"""

import dataclasses
import hashlib
import json
import os
import signal
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from data_trees import voc_tree
from trainer_runs import Quiet, tiny_run

from fpl_fast.trainer.data.files import FileStore
from fpl_fast.trainer.data.pack_writer import write_pack
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint, save_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

KEPT = Path(__file__).with_name("kept")


def image():
    """An input of the network, the same everywhere."""
    return torch.linspace(-2, 2, 3 * 32 * 48).view(1, 3, 32, 48)


def digest(tensor):
    """Checksum of a tensor's content."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def write_run(folder):
    """A run stopped after step 4 of 6, with coarse weights, which compress."""
    config = dataclasses.replace(tiny_run(name="mean_teacher", loss="fpl", ema_decay=0.5), recipe="synthetic/kept")
    train(config, folder, Quiet(lambda step: step == 4 and os.kill(os.getpid(), signal.SIGTERM)))
    folder.best.unlink()
    state = load_checkpoint(folder.last)
    for name, tensor in state["method"].items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            state["method"][name] = (16 * tensor).round() / 16
        elif tensor.is_floating_point():
            state["method"][name] = (16 * tensor).round().clamp(min=4) / 16
    for moments in state["optimizer"]["state"].values():
        moments["momentum_buffer"].zero_()
    save_checkpoint(folder.last, state)
    with torch.inference_mode():
        answer = load_trained(folder, checkpoint="last").network(image())
    return answer.flatten().tolist()


def write_pictures(folder):
    """A pack of three images with labels and the checksums of their pixels."""
    voc_tree(folder / "tree", seed=0)
    names = [path.relative_to(folder / "tree").as_posix() for path in sorted((folder / "tree/val").glob("*/*.*g"))]
    pictures = [(name.split("/")[1], name) for name in names]
    store = FileStore(folder / "tree")
    assert write_pack(folder / "pack", store, pictures) == []
    return {name: digest(getattr(store, kind)(name)) for kind, name in pictures}


def main():
    """Write the archive of a version."""
    archive = KEPT / f"{sys.argv[1]}.tar.xz"
    if archive.exists():
        sys.exit(f"{archive} must stay as it is: a version is written once")
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as tree:
        folder = Path(scratch)
        expected = {"answer": write_run(RunFolder(folder / "run")), "pictures": write_pictures(Path(tree))}
        (folder / "expected.json").write_text(json.dumps(expected))
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w:xz") as file:
            for name in ("config.yaml", "metrics.jsonl", "environment.json", "checkpoints/last.ckpt"):
                file.add(folder / "run" / name, f"run/{name}")
            for path in sorted(Path(tree).glob("pack*")):
                file.add(path, f"pictures/{path.name}")
            file.add(folder / "expected.json", "expected.json")


if __name__ == "__main__":
    main()
