"""Runs and packs of earlier versions, read by this one: tests/kept holds an archive of each format."""

import json
import tarfile

import pytest
import torch
from kept_files import KEPT, digest, image
from tolerances import NETWORK
from torch.testing import assert_close
from trainer_runs import STEPS, Quiet

from fpl_fast.trainer.data.pack import PackStore
from fpl_fast.trainer.evaluation.trained import load_trained
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder

ARCHIVES = sorted(KEPT.glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def kept(request, tmp_path):
    """An archive, unpacked, and what was expected when it was written."""
    with tarfile.open(request.param) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path, json.loads((tmp_path / "expected.json").read_text())


def test_there_is_one_of_the_first_version():
    assert "0.1.0.tar.xz" in [path.name for path in ARCHIVES]


@pytest.mark.usefixtures("nothing_is_compiled")
def test_a_run_answers_as_it_did_and_goes_on(kept):
    folder, expected = RunFolder(kept[0] / "run"), kept[1]["answer"]
    with torch.inference_mode():
        logits = load_trained(folder, checkpoint="last").network(image())
    assert logits.isfinite().all() and logits.std() > 0.1
    assert_close(logits.flatten(), torch.tensor(expected), **NETWORK)
    monitor = Quiet()
    outcome = train(folder.load_config(), folder, monitor, resume=True)
    assert (monitor.first_step, outcome.step, outcome.stopped_by) == (4, STEPS, None)
    assert load_checkpoint(folder.last)["step"] == STEPS
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == sorted(steps) and {2, 4, STEPS} <= set(steps)


def test_a_pack_holds_the_pictures_that_it_held(kept, tmp_path):
    folder, pictures = kept[0] / "pictures", kept[1]["pictures"]
    store = PackStore(folder / "pack", tmp_path)
    assert len(pictures) == 6
    for name, expected in pictures.items():
        kind = name.split("/")[1]
        assert digest(getattr(store, kind)(name)) == expected
