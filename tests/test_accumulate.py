import itertools
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric
from method_cases import strengthen
from trainer_runs import DoubleNetwork, PlainCorrelation, PlainDetector, method_config

from fpl_fast.trainer.accumulate import backward
from fpl_fast.trainer.methods import Batch, View, build_method, corrmatch, gct

C, IMAGES, SIZE = 6, 4, (14, 18)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # the losses are float32, summed in another order


def make_view(*, labelled=False):
    """Images whose shares of valid and of labelled pixels differ widely; the first has no label at all."""
    valid = torch.rand(IMAGES, *SIZE) < torch.rand(IMAGES, 1, 1)
    label = torch.randint(0, C, (IMAGES, *SIZE)).masked_fill(~valid, 255)
    label[0] = 255
    return View(torch.randn(IMAGES, 3, *SIZE), valid, label if labelled else None)


def make_batch(method):
    num_views = method.num_unlabelled_views
    mask = torch.rand(IMAGES, *SIZE) < 0.4 if num_views == 2 else None
    batch = Batch(make_view(labelled=True), tuple(make_view() for _ in range(num_views)), mask)
    return strengthen(batch, getattr(method.config, "num_strong_views", 0), torch.default_generator)


def run(method, batch, num_micro_batches):
    """Values and gradients of one step."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    method.zero_grad()
    module = fabric.setup_module(method)
    values = backward(fabric, module, batch, 0.0, num_micro_batches=num_micro_batches)
    return values, [p.grad.clone() for p in method.parameters() if p.requires_grad]


# Auxiliary decoders whose perturbations follow from the prediction alone: each micro-batch draws its own numbers.
UNDRAWN = {f"{kind}_decoders": 0 for kind in ("dropout", "cutout", "salient", "noise")}
# A threshold that stays, and neither regions nor dropped channels, which each micro-batch draws anew.
FIXED = {"threshold_momentum": 1.0, "num_regions": 0, "feature_dropout": 0.0}
EXACT = [
    {"name": "supervised"},
    {"name": "supervised", "sup_loss": "ohem", "ohem_min_kept": 40},
    {"loss": "ce"},
    {"loss": "ce", "cutmix": False},
    {"loss": "ce", "ignore_padding": True},
    {"loss": "fpl", "balance": False, "weighting": "concave", "unsup_weight": 1.5},
    {"loss": "fpl", "balance": False, "cutmix": False, "ignore_padding": True},
    {"name": "mean_teacher", "loss": "mse", "ignore_padding": True},
    {"name": "cct", "loss": "mse", "ignore_padding": True} | UNDRAWN,
    {"name": "cct", "loss": "fpl", "balance": False, "ignore_padding": True} | UNDRAWN,
    {"name": "gct", "loss": "mse", "ignore_padding": True, "ramp_share": 0.0},
    {"name": "gct", "loss": "fpl", "balance": False, "weighting": "concave"},
    {"name": "cutmix_seg", "loss": "fpl", "balance": False, "ignore_padding": True},
    {"name": "cutmix_seg", "loss": "mse", "ignore_padding": True, "divide_by_all": True},
    {"name": "fixmatch", "loss": "ce", "confidence_threshold": 0.3},
    {"name": "fixmatch", "loss": "fpl", "balance": False, "weighting": "concave", "ignore_padding": False},
    {"name": "unimatch", "loss": "ce", "confidence_threshold": 0.3, "feature_dropout": 0.0},
    {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.3, "dropout_share": 0.0, "flip_group": 1},
    {"name": "unimatch_v2", "loss": "fpl", "balance": False, "dropout_share": 0.0, "flip_group": 1},
    {"name": "corrmatch", "loss": "ce", "gated": True, "confidence_threshold": 0.3} | FIXED,
    {"name": "corrmatch", "loss": "fpl", "balance": False, "confidence_threshold": 0.3} | FIXED,
]


PAIRS = [
    {"name": "supervised", "sup_loss": "ohem", "ohem_min_kept": 80, "ohem_group": 2},
    {"name": "unimatch_v2", "loss": "ce", "confidence_threshold": 0.3, "dropout_share": 0.0},
]


@pytest.mark.parametrize(
    ("changes", "num_micro_batches"), [*itertools.product(EXACT, [1, 2, 4]), *itertools.product(PAIRS, [1, 2])]
)
def test_micro_batches_equal_the_whole_batch(monkeypatch, changes, num_micro_batches):
    monkeypatch.setattr(gct, "FlawDetector", PlainDetector)
    monkeypatch.setattr(corrmatch, "CorrelationHead", PlainCorrelation)
    method = build_method(method_config(**changes), partial(DoubleNetwork, C))
    batch = make_batch(method)
    terms = method(batch, 0.0).terms
    sum(terms.values()).backward()
    expected = [p.grad.clone() for p in method.parameters() if p.requires_grad]

    values, gradients = run(method, batch, num_micro_batches)
    for name, term in terms.items():
        torch.testing.assert_close(values[name], term.detach(), **CLOSE)
    torch.testing.assert_close(values["loss"], sum(terms.values()).detach(), **CLOSE)
    torch.testing.assert_close(gradients, expected, **CLOSE)


def test_balance_is_of_each_micro_batch_and_keeps_the_loss():
    """The factor of a micro-batch needs the networks' outputs, as a GPU's in the public code; the value does not."""
    method = build_method(method_config(loss="fpl", weighting="concave"), partial(DoubleNetwork, C))
    batch = make_batch(method)
    (whole, _), (parts, _) = (run(method, batch, num) for num in (1, 4))
    torch.testing.assert_close(parts["loss_unsup"], whole["loss_unsup"], **CLOSE)
    torch.testing.assert_close(parts["loss"], whole["loss"], **CLOSE)


def test_no_labelled_pixel_anywhere_is_zero():
    method = build_method(method_config(name="supervised"), partial(DoubleNetwork, C))
    batch = make_batch(method)
    nothing = batch._replace(labelled=batch.labelled._replace(label=torch.full_like(batch.labelled.label, 255)))
    values, gradients = run(method, nothing, 2)
    assert values["loss"] == 0
    assert all((gradient == 0).all() for gradient in gradients)


def test_split():
    method = build_method(method_config(), partial(DoubleNetwork, C))
    batch = make_batch(method)
    parts = batch.split(2)
    assert torch.equal(torch.cat([part.labelled.label for part in parts]), batch.labelled.label)
    assert torch.equal(torch.cat([part.unlabelled[1].image for part in parts]), batch.unlabelled[1].image)
    assert torch.equal(parts[1].mix_mask, batch.mix_mask[2:])
    assert batch._replace(mix_mask=None).split(4)[3].mix_mask is None
    assert len({part.seed for part in parts}) == 2
