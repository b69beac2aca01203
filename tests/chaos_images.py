"""Damaged images in the middle of a run, which it stops at, or skips and counts (see chaos_kinds.py)."""

import os
import shutil
import signal
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from chaos_run import STEPS, TinyRun, chaos_config
from data_trees import voc_tree
from test_loop import metrics

from fpl_fast.trainer.config import VocData
from fpl_fast.trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from chaos import Campaign, Draw


class ImageRuns:
    """The tiny run on images in files, whole ones and partly damaged ones.

    Args:
        campaign: Whose folder it is made in.
    """

    def __init__(self, campaign: "Campaign") -> None:
        self._campaign = campaign

    def _make(self, name: str, tree: Path, *, skip: bool) -> TinyRun:
        data = VocData(root=str(tree), partition="1/4", skip_damaged=skip)
        tiny = TinyRun(self._campaign.parent / name, chaos_config(data=data), self._campaign.defect)
        tiny.train_straight()
        return tiny

    @cached_property
    def tree(self) -> Path:
        """The images."""
        tree = self._campaign.parent / "tree"
        voc_tree(tree, partitions=(4,), seed=0)
        return tree

    @cached_property
    def whole(self) -> TinyRun:
        """Runs on whole images."""
        return self._make("whole", self.tree, skip=False)

    @cached_property
    def skipping(self) -> TinyRun:
        """Runs that skip damaged images, which every third one is."""
        tree = self._campaign.parent / "damaged_tree"
        shutil.copytree(self.tree, tree)
        damage(images(tree)[::3], np.random.default_rng(0))
        return self._make("skipping", tree, skip=True)


def images(tree: Path) -> list[Path]:
    """Training images of a tree."""
    return sorted((tree / "train_aug" / "image").iterdir())


def damage(paths: list[Path], rng: np.random.Generator) -> None:
    """Cut files short, or overwrite their end with noise."""
    for path in paths:
        content = path.read_bytes()
        whole = content[: rng.integers(len(content) // 2)]
        path.write_bytes(whole if rng.random() < 0.5 else whole + rng.bytes(len(content) - len(whole)))


def damaged_images_stop(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """Images are damaged after some steps: the run saves what is done and names one, and goes on with them mended."""
    tiny, step = campaign.images.whole, int(draw.rng.integers(1, STEPS))
    yield f"after step {step}"
    tree = folder.path.with_name(f"{folder.path.name}_tree")
    shutil.copytree(campaign.images.tree, tree)
    options = ("--data.root", str(tree))
    ended = tiny.start(folder, on_step=lambda done: done == step and damage(images(tree), draw.rng), options=options)
    ended = ended.wait()
    ended.require_one_line(f"{tree}/train_aug/image/")
    ended.require_one_line("the image must be readable, got")
    assert tiny.require_kept(folder, ended.reached) == ended.reached == step
    shutil.rmtree(tree)
    shutil.copytree(campaign.images.tree, tree)
    tiny.require_continues(folder, ended, options=options)
    shutil.rmtree(tree)


def damaged_images_skipped(campaign: "Campaign", folder: RunFolder, draw: "Draw") -> Iterator[str]:
    """Every third image is damaged and skipped, in a run that is killed after some steps, with or without loaders."""
    tiny, step, workers = campaign.images.skipping, int(draw.rng.integers(1, STEPS)), str(draw.rng.integers(3))
    yield f"killed after step {step}, {workers} workers"
    ended = tiny.start(
        folder,
        on_step=lambda done: done == step and os.kill(os.getpid(), signal.SIGKILL),
        options=("--train.workers", workers),
    ).wait()
    assert ended.code == -signal.SIGKILL, ended
    assert "takes its place" in ended.said, ended.said
    tiny.require_continues(folder, ended)
    assert all(record["replaced_images"] > 0 for record in metrics(folder) if record["split"] == "train")
