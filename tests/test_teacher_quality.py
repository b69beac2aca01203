"""The quality of a teacher's pseudo-labels, against the analysis of all positives."""

import math

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from trainer_runs import method_config, tiny_run

from fpl_fast.trainer.build import build_method_networks
from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.transforms import normalize
from fpl_fast.trainer.evaluation.loss_settings import loss_settings, loss_threshold
from fpl_fast.trainer.evaluation.positives import PositivesTally
from fpl_fast.trainer.evaluation.teacher_quality import teacher_quality
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.models.normalization import normalization

FABRIC = Fabric(accelerator="cpu", devices=1)
NAMES = ["teacher_accuracy", "teacher_inclusion", "teacher_positives", "teacher_confidence"]


class Scenes(list):
    """A data set of given samples that remembers which were read."""

    ignore_index = 255

    def __init__(self, samples):
        super().__init__(samples)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def scenes(num, ignored=0.3):
    """Images of different sizes with labels, some of whose pixels are ignored."""
    samples = []
    for place in range(num):
        size = (9 + place, 14)
        label = torch.randint(0, 5, size, dtype=torch.uint8)
        label[torch.rand(size) < ignored] = 255
        samples.append(Sample(torch.randint(0, 256, (3, *size), dtype=torch.uint8), label))
    return Scenes(samples)


class Dropping(nn.Module):
    """Five classes; dropout, which would show in a teacher that is in train mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Dropout(0.5))

    def forward(self, image):
        return 3 * self.layers(image)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_positives": 3},
        {"max_positives": None, "threshold": 0.7},
        {"threshold_candidates": (0.4, 0.6, 0.8), "threshold_window": 3, "max_positives": 4},
        {"name": "gct"},  # without positives of its own: FPL's defaults
    ],
)
def test_the_numbers_are_those_of_the_analysis(settings):
    config, teacher, dataset = tiny_run(**settings), Dropping(), scenes(5)
    before = torch.get_rng_state()
    scalars = teacher_quality(teacher, dataset, config, FABRIC)
    assert torch.equal(torch.get_rng_state(), before) and teacher.training
    teacher.eval()
    loss = loss_settings(config.method)
    tally, confidence = PositivesTally(5, max_positives=loss.max_positives), []
    for sample in dataset:
        with torch.no_grad():
            logits = teacher(normalize(sample.image[None], None, *normalization(config)))
        tally.add(logits, logits, sample.label[None], threshold=loss_threshold(loss, logits))
        confidence.append(logits.softmax(1).amax(1)[sample.label[None] != 255])
    found = tally.result()
    assert list(scalars) == NAMES
    assert scalars["teacher_accuracy"] == pytest.approx(found.accuracy, rel=1e-12)
    assert scalars["teacher_inclusion"] == pytest.approx(found.inclusion, rel=1e-12)
    assert scalars["teacher_positives"] == pytest.approx(found.mean_positives, rel=1e-12)
    assert scalars["teacher_confidence"] == pytest.approx(torch.cat(confidence).double().mean().item(), rel=1e-5)
    assert scalars["teacher_accuracy"] <= scalars["teacher_inclusion"] <= 1 <= scalars["teacher_positives"]


@pytest.mark.parametrize(("num", "read"), [(3, [0, 1, 2]), (20, [0, 2, 5, 7, 10, 12, 15, 17])])
def test_few_images_are_read(num, read):
    dataset = scenes(num)
    teacher_quality(Dropping(), dataset, tiny_run(), FABRIC)
    assert dataset.read == read


def test_without_labels_there_are_no_numbers():
    scalars = teacher_quality(Dropping(), scenes(2, ignored=1.0), tiny_run(), FABRIC)
    assert list(scalars) == NAMES and all(map(math.isnan, scalars.values()))


@pytest.mark.parametrize("name", METHODS)
def test_the_teacher_of_each_method(name):
    """The average where there is one, also where the student is evaluated; otherwise the evaluated network."""
    method = build_method_networks(tiny_run(**vars(method_config(name=name))), 5)
    averaged = {"mean_teacher", "cutmix_seg", "ael", "u2pl", "unimatch_v2"}
    assert method.teacher is (method.networks[1] if name in averaged else method.networks[0])
    assert name == "mean_teacher" or method.teacher is method.eval_network
