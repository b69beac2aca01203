"""CAC against spec/methods.md section 3.5 with its corrections, image by image, with cut and flipped maps."""

import copy

import pytest
import torch
from method_cases import CLOSE, C, TinyNetwork, assert_same_step, make_method, placed
from torch.nn import functional as F
from trainer_runs import method_config

from fpl_fast.trainer.config import AugmentConfig, TrainConfig
from fpl_fast.trainer.methods import Batch, View, build_method

SIZE, NUM = (40, 48), 3
GRID = (SIZE[0] // 8, SIZE[1] // 8)


class Network(TinyNetwork):
    """Without batch normalisation, so that the literal version may see its images one by one."""

    def __init__(self):
        super().__init__()
        self.layers[1] = self.layers[4] = torch.nn.Identity()


def make(**changes):
    changes = {"confidence_threshold": 0.3, "feature_channels": 4, "bank_cells": 90, "bank_steps": 2} | changes
    return make_method(name="cac", engine="eager", network=Network, **changes).train()


def make_batch(seed=0, num=NUM):
    generator = torch.Generator().manual_seed(seed)

    def view(labelled):
        valid = torch.ones(num, *SIZE, dtype=torch.bool)
        valid[0, -3:] = valid[1, :, -9:] = False
        label = torch.randint(C, (num, *SIZE), generator=generator).masked_fill(~valid, 255)
        return View(torch.randn(num, 3, *SIZE, generator=generator), valid, label if labelled else None)

    pair = tuple(placed(view(False), generator) for _ in range(2))
    return Batch(view(True), pair, seed=seed)


def literal(method, batch, bank):
    """The terms of a step; appends its cells to ``bank``, a list of (keys, labels) of each step."""
    config, (network,) = method.config, method.networks

    def cells(view, n):
        decoded = network.layers[:-1](view.image[n : n + 1])
        pooled = F.avg_pool2d(decoded, 2)
        feature = method.projector(pooled)[0]
        feature = feature / feature.norm(dim=0, keepdim=True)
        confidence, label = network.layers[-1](pooled)[0].softmax(0).max(0)
        whole = view.valid[n].float().unfold(0, 8, 8).unfold(1, 8, 8).flatten(2).amin(2) > 0
        return feature, confidence.detach(), label, whole

    made = [[cells(view, n) for n in range(NUM)] for view in batch.unlabelled]
    generator, keys, labels = torch.Generator().manual_seed(batch.seed), [], []
    for view in made:
        feature = torch.cat([f.flatten(1).T for f, *_ in view]).detach()
        label = torch.cat([c.flatten() for _, _, c, _ in view])
        if len(label) > config.bank_cells:
            chosen = torch.rand(len(label), generator=generator).argsort()[: config.bank_cells]
            feature, label = feature[chosen], label[chosen]
        keys.append(feature)
        labels.append(label)
    bank.append((torch.cat(keys), torch.cat(labels)))
    del bank[: -config.bank_steps]
    keys, labels = (torch.cat(part) for part in zip(*bank, strict=True))

    losses, common = [[], []], 0
    for n in range(NUM):
        upright = []
        for view, all_cells in zip(batch.unlabelled, made, strict=True):
            maps = all_cells[n]
            upright.append([m.flip(-1) for m in maps] if view.place.flipped[n] else maps)
        shift = ((batch.unlabelled[1].place.offset - batch.unlabelled[0].place.offset)[n] // 8).tolist()
        parts = []
        for maps, sign in zip(upright, (1, -1), strict=True):
            where = [slice(max(0, sign * d), length + min(0, sign * d)) for d, length in zip(shift, GRID, strict=True)]
            parts.append([m[..., where[0], where[1]] for m in maps])
        (f1, q1, l1, in1), (f2, q2, l2, in2) = parts
        common += (in1 & in2).sum()
        for place, (a, b, qa, qb, la) in enumerate([(f1, f2, q1, q2, l1), (f2, f1, q2, q1, l2)]):
            chosen = in1 & in2 & (qb > config.confidence_threshold) & (qa < qb)
            for own, other, label in zip(a[:, chosen].T, b[:, chosen].T.detach(), la[chosen], strict=True):
                positive = (own @ other / config.temperature).exp()
                negative = (keys[labels != label] @ own / config.temperature).exp().sum()
                losses[place].append(-(positive / (positive + negative) + 1e-8).log())
    means = [torch.stack(part).mean() for part in losses]
    up = F.interpolate(network(batch.labelled.image), SIZE, mode="bilinear", align_corners=True)
    terms = {
        "loss_sup": F.cross_entropy(up, batch.labelled.label, ignore_index=255),
        "loss_unsup": config.unsup_weight * sum(means),
    }
    return terms, sum(map(len, losses)) / common


@pytest.mark.parametrize(
    "changes", [{}, {"bank_cells": 40}, {"bank_steps": 1, "temperature": 0.5}, {"bank_steps": 3, "unsup_weight": 0.3}]
)
def test_equals_the_literal_version(changes):
    method, bank = make(**changes), []
    theirs = copy.deepcopy(method)
    for seed in range(4):  # steps, of which the bank holds the last ones
        batch = make_batch(seed)
        method.zero_grad(), theirs.zero_grad()
        losses = method(batch, 0.0)
        expected, attracted = literal(theirs, batch, bank)
        assert_same_step(method, losses, theirs, expected)
        torch.testing.assert_close(losses.telemetry["attracted"], attracted.float(), **CLOSE)
        assert 0 < attracted < 1
    assert (method.bank.labels >= 0).sum() == sum(len(labels) for _, labels in bank)


def test_labelled_images_train_alone_at_first():
    method, batch = make(start_share=0.5), make_batch()
    early, late = method(batch, 0.4), method(batch, 0.5)
    assert early.terms.keys() == late.terms.keys() and early.telemetry.keys() == late.telemetry.keys()
    assert early.terms["loss_unsup"] == 0 < late.terms["loss_unsup"]
    sum(early.terms.values()).backward()
    assert all((p.grad == 0).all() for p in method.projector.parameters())
    assert all(p.grad is not None for p in method.parameters())  # DDP waits for each of them


def test_which_weights_learn_from_pairs():
    """The classifier learns from labels alone: it says what attracts what, without a gradient."""
    method = make()
    method(make_batch(), 0.0).terms["loss_unsup"].backward()
    learnt = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.count_nonzero() > 0}
    assert learnt == {name for name, _ in method.named_parameters()} - {
        "networks.0.layers.6.weight",
        "networks.0.layers.6.bias",
    }


@pytest.mark.parametrize("case", ["apart", "padding", "unsure", "equal"])
def test_nothing_in_common_is_zero(case):
    method, batch = make(confidence_threshold=1.0 if case == "unsure" else 0.3), make_batch()
    first, second = batch.unlabelled
    if case == "apart":
        far = first.place.offset + torch.tensor(SIZE)
        second = second._replace(place=second.place._replace(offset=far))
    elif case == "padding":
        second = second._replace(valid=torch.zeros_like(second.valid))
    elif case == "equal":
        second = first  # neither is surer
    losses = method(batch._replace(unlabelled=(first, second)), 0.0)
    assert losses.terms["loss_unsup"] == 0 and losses.telemetry["attracted"] == 0
    losses.terms["loss_unsup"].backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in method.parameters())


def test_one_predicted_class_leaves_no_negatives():
    method = make()
    with torch.no_grad():
        method.networks[0].classifier.bias[2] += 1000
    assert method(make_batch(), 0.0).terms["loss_unsup"].abs() < 1e-6


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_mixed_precision(precision):
    method = make()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = method(make_batch(), 0.0)
    sum(losses.terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())
    assert losses.terms["loss_unsup"].dtype == torch.float32 and losses.terms["loss_unsup"] > 0


def test_wrong_settings_are_one_line():
    message = r"augment.crop must be multiples of 8, in which pairs of crops are apart, got \(64, 60\)"
    with pytest.raises(ValueError, match=message):
        method_config(name="cac").check_run(TrainConfig(), AugmentConfig(crop=(64, 60)))
    for name, value in (
        ("unsup_weight", -0.1), ("temperature", 0.0), ("confidence_threshold", 1.1), ("start_share", -0.1),
        ("feature_channels", 0), ("bank_steps", 0), ("bank_cells", 0), ("pair_overlap", (0.0, 1.0)),
        ("pair_scales", (1.2, 2.0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"method.{name} must be"):
            method_config(name="cac", **{name: value})


def test_networks_of_patches_are_refused():
    class Patches(Network):
        size_multiple = 14

    with pytest.raises(ValueError, match=r"model.head must be one with logits at stride 4 for the method cac"):
        build_method(method_config(name="cac"), Patches)
