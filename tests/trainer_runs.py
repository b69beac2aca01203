"""A run of a few seconds, shared by the tests of the trainer."""

import torch
from torch import nn

from fpl_fast.trainer.config import (
    AugmentConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SyntheticData,
    TrainConfig,
)
from fpl_fast.trainer.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from fpl_fast.trainer.methods import METHODS
from fpl_fast.trainer.models.correlation import CorrelationHead

STEPS = 6
# Changes of ``tiny_run``: every method, CPS in two forms.
EVERY_METHOD = [
    {"name": "supervised"},
    {"cutmix": False},
    {},
    {"name": "mean_teacher", "loss": "mse"},
    {"name": "cutmix_seg", "loss": "mse"},
    {"name": "cct", "loss": "mse"},
    {"name": "gct", "loss": "mse", "detector_channels": 16, "detector_scale": 2},
    {"name": "cac", "start_share": 0.1},
    {"name": "ael"},
    {"name": "u2pl", "warmup_share": 0.1},
    {"name": "fixmatch"},
    {"name": "unimatch"},
    {"name": "corrmatch"},
    {"name": "unimatch_v2"},
]
HANGS = 1800  # seconds after which a process must be stuck, however busy the machine is


def method_config(*, name="cps", **settings):
    """Settings of a method by its name, with small parts."""
    small = {"gct": {"detector_channels": 2, "detector_scale": 4}, "cac": {"bank_cells": 32, "feature_channels": 4}}
    return METHODS[name].Config(**small.get(name, {}) | settings)


def tiny_run(**method):
    """Six steps of a tiny network; log and evaluation steps fall between and on the middle.

    The numbers of its normalisation are written, as in every run that has begun.
    """
    scales = {"scales": (0.75, 1.0, 1.5)}
    if method.get("name") == "cac":
        scales = {"scale_range": (0.75, 1.5), "geometry": "cac"}
    return RunConfig(
        data=SyntheticData(
            mean=IMAGENET_MEAN, std=IMAGENET_STD, num_labelled=3, num_unlabelled=5, num_val=3, size=(32, 48)
        ),
        augment=AugmentConfig(crop=(32, 32), **scales),
        model=ModelConfig(backbone="test_resnet", head_channels=8, low_channels=4),
        method=method_config(**method),
        optim=OptimConfig(lr=0.01),
        train=TrainConfig(steps=STEPS, batch_labelled=2, batch_unlabelled=2, workers=0, log_every=2, accelerator="cpu"),
        eval=EvalConfig(every=4, samples=2),
    )


class Quiet:
    """A Monitor that remembers what it is told, and may act on a step."""

    def __init__(self, on_step=lambda step: None):
        self.records, self.on_step = [], on_step

    def checking(self, done, total):
        pass

    def started(self, step, steps):
        self.first_step = step

    def stepped(self, step):
        self.on_step(step)

    def logged(self, step, split, scalars):
        self.records.append((step, split, scalars))

    def validating(self, done, total):
        pass


class LayeredNetwork(nn.Module):
    """A sequence ``layers``: the first ``num_low`` of them give the low features, the last one is the classifier."""

    feature_channels = (8, 8)
    fused_channels = 8

    @property
    def classifier(self):
        return self.layers[-1]

    def forward(self, image, *, factors=None, beside_clean=True):
        """Logits; with ``factors`` of both feature maps the ones of the perturbed features, behind the clean ones."""
        return LayeredNetwork.forward_with_high(self, image, factors=factors, beside_clean=beside_clean)[0]

    def forward_with_high(self, image, *, factors=None, beside_clean=True):
        low = self.layers[: self.num_low](image)
        if factors is None:
            factors, beside_clean = (1.0, 1.0), False
        elif beside_clean:
            factors = [torch.cat([torch.ones_like(factor), factor]) for factor in factors]
            low = torch.cat([low, low])
        high = self.layers[self.num_low : -1](low * factors[0])
        return self.classifier(high * factors[1]), None, high[: len(image)]

    def forward_with_decoded(self, image):
        decoded = self.layers[:-1](image)
        return self.classifier(decoded), decoded

    def forward_with_fused(self, image):
        logits, decoded = self.forward_with_decoded(image)
        return logits, None, decoded

    def classify(self, decoded):
        return self.classifier(decoded)


class PlainNetwork(LayeredNetwork):
    """Stride 4 and no batch normalisation: an image does not depend on the others of its batch."""

    num_low = 2

    def __init__(self, num_classes, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(8, num_classes, 1),
        )  # fmt: skip
        nn.init.normal_(self.layers[-1].weight)  # spread logits, so that K varies
        self.aux_head = None


class PlainCorrelation(CorrelationHead):
    """CorrMatch's head without batch normalisation and dropout."""

    def __init__(self, in_channels, channels, num_classes):
        super().__init__(in_channels, channels, num_classes)
        self.project = nn.Conv2d(in_channels, channels, 3, padding=1)


class DoubleNetwork(PlainNetwork):
    """Network in float64: sums in another order flip neither a ReLU nor a pseudo-label."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.double()

    def forward(self, image, **options):
        return super().forward(image.double(), **options)

    def forward_with_decoded(self, image):
        return super().forward_with_decoded(image.double())

    def forward_with_high(self, image, **options):
        return super().forward_with_high(image.double(), **options)


class PlainDetector(nn.Module):
    """Flaw detector of one layer, without batch normalisation, for images of any size."""

    LEAST_SIZE = 1

    def __init__(self, num_classes, channels=1, scale=1):
        super().__init__()
        self.layer = nn.Conv2d(3 + num_classes, 1, 3, padding=1)

    def forward(self, image, probability):
        return self.layer(torch.cat([image, probability], 1)).squeeze(1)
