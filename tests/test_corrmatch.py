"""CorrMatch against spec/methods.md section 3.10, pass by pass, image by image and region by region."""

import copy
import math

import pytest
import torch
from method_cases import CLOSE, AuxNetwork, C, assert_same_step, literal_fpl, make_batch_for, make_method, upsample
from torch.nn import functional as F
from torch.testing import assert_close
from trainer_runs import PlainCorrelation

from fpl_fast import consistency_loss
from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods import corrmatch
from fpl_fast.trainer.methods.corrmatch import CorrMatchConfig


@pytest.fixture(autouse=True)
def no_dropout(monkeypatch):
    """The literal version cannot draw the same channels."""
    monkeypatch.setattr(corrmatch, "CorrelationHead", PlainCorrelation)


def make(**changes):
    return make_method(name="corrmatch", engine="eager", **changes).train()


def pixels(z):
    return z.movedim(1, -1)


def literal(method, batch):
    """The terms of a step and the threshold that they used."""
    config, (network,), head = method.config, method.networks, method.correlation
    x, (u, partner), (mask,) = batch.labelled, batch.unlabelled, batch.strong_masks
    num, m = len(x.image), mask.unsqueeze(1).float()
    network.eval()
    with torch.no_grad():
        pasted = upsample(network(partner.image))
    network.train()

    generator = torch.Generator().manual_seed(batch.seed)
    dropped = [torch.rand(n, 8, 1, 1, generator=generator) for _ in range(2) for n in (num, len(u.image))]
    low_factor, high_factor = (torch.cat(pair).ge(0.5).float() * 2 for pair in (dropped[:2], dropped[2:]))
    draws = torch.rand(config.num_regions, generator=generator)
    low = network.layers[:3](torch.cat([x.image, u.image]))
    high, perturbed = network.layers[3:6](torch.cat([low, low * low_factor])).chunk(2)
    clean, perturbed = network.layers[6](torch.cat([high, perturbed * high_factor])).chunk(2)

    def spread(high, logits):
        h, w = high.shape[-2:]
        projected = head.project(high)
        first, second = head.first(projected).flatten(2), head.second(projected).flatten(2)
        small = F.interpolate(upsample(logits.detach()), (h, w), mode="bilinear", align_corners=True).flatten(2)
        maps = [
            torch.stack([(first[n, :, i] @ second[n] / math.sqrt(C)).softmax(0) for i in range(h * w)])
            for n in range(len(high))
        ]
        out = torch.stack([sum(small[n, :, i, None] * maps[n][i] for i in range(h * w)) for n in range(len(high))])
        return out.unflatten(2, (h, w)), torch.stack(maps).detach().unflatten(2, (h, w))

    spread_both, maps = spread(high, clean)
    mixed = u.strong[0] * (1 - m) + partner.strong[0] * m
    valid, valid_mixed = u.valid, torch.where(mask, partner.valid, u.valid)
    if not config.ignore_padding:
        valid = valid_mixed = torch.ones_like(u.valid)
    high_strong = network.layers[:6](mixed)
    strong = network.layers[6](high_strong)
    spread_strong, _ = spread(high_strong, strong)

    weak = upsample(clean[num:]).detach()
    confidence, label = weak.softmax(1).max(1)
    highest = [confidence[(label == c) & valid_mixed].max() for c in range(C) if ((label == c) & valid_mixed).any()]
    theta = config.threshold_momentum * method.threshold
    theta = theta + (1 - config.threshold_momentum) * sum(highest) / len(highest)
    target = weak * (1 - m) + pasted * m
    mixed_confidence, mixed_label = target.softmax(1).max(1)
    sure, weak_sure = (mixed_confidence >= theta) & valid_mixed, (confidence >= theta) & valid
    changed, before = torch.zeros_like(sure), mixed_label.clone()
    for n in range(len(u.image)):
        for draw in draws:
            row = maps[num + n, int(draw * (maps.shape[1] - 1))]
            similarity = upsample(row[None, None])[0, 0]
            region = (similarity - similarity.min()) / (similarity.max() - similarity.min()) > 0.5
            region = region & valid_mixed[n] & ~mask[n]
            inside = region & sure[n]
            if inside.sum() == 0 or inside.sum() / region.sum() < theta:
                continue
            classes, counts = mixed_label[n][inside].unique(return_counts=True)
            if counts.max() / counts.sum() > theta:
                mixed_label[n][region] = classes[counts == counts.max()].min()
                changed[n] |= region

    def hard(z, label, counted, valid):
        return (F.cross_entropy(upsample(z), label, reduction="none") * counted).sum() / valid.sum()

    def soft(z, t, counted, valid):
        plain = F.cross_entropy(z, t.argmax(1), reduction="none")
        if config.loss == "ce":
            return (plain * counted).sum() / valid.sum()
        terms, weights = literal_fpl(pixels(z)[valid], pixels(t)[valid], config.threshold, config.weighting)
        balance = (plain[valid].sum() / (terms * weights).sum()).detach()
        return balance * (terms * weights * counted[valid]).sum() / valid.sum()

    gate, gate_weak = (sure, weak_sure) if config.gated else (valid_mixed, valid)
    kl = sure if config.published_kl else sure & ~mask
    divergence = F.kl_div(upsample(strong).log_softmax(1), weak.softmax(1), reduction="none").sum(1)
    weight = config.unsup_weight / 2
    terms = {
        "loss_sup": 0.25 * F.cross_entropy(upsample(clean[:num]), x.label, ignore_index=255),
        "loss_sup_spread": 0.25 * F.cross_entropy(upsample(spread_both[:num]), x.label, ignore_index=255),
        "loss_unsup": weight
        * 0.25
        * (
            soft(upsample(strong), target, gate & ~changed, valid_mixed)
            + hard(strong, mixed_label, changed, valid_mixed)
        ),
        "loss_kl": weight * 0.25 * (divergence * kl).sum() / valid_mixed.sum(),
        "loss_features": weight * 0.25 * soft(upsample(perturbed[num:]), weak, gate_weak, valid),
        "loss_spread": weight * 0.125 * hard(spread_strong, mixed_label, sure | changed, valid_mixed),
        "loss_spread_weak": weight * 0.125 * hard(spread_both[num:], label, weak_sure, valid),
    }
    return terms, theta, changed, (before != mixed_label).sum()


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "ce", "gated": True, "confidence_threshold": 0.3},
        {"loss": "ce", "gated": True, "confidence_threshold": 0.3, "ignore_padding": False, "published_kl": True},
        {"loss": "ce", "gated": True, "confidence_threshold": 0.0, "threshold_momentum": 1.0},
        {"loss": "fpl", "confidence_threshold": 0.3, "weighting": "concave"},
        {"loss": "fpl", "gated": True, "confidence_threshold": 0.3, "threshold_momentum": 1.0, "ignore_padding": False},
    ],
)
def test_equals_the_literal_version(changes):
    method = make(**{"threshold_momentum": 0.9, "num_regions": 16, "unsup_weight": 1.5} | changes)
    theirs, batch = copy.deepcopy(method), make_batch_for(method, seed=3)
    losses = method(batch, 0.0)
    expected, theta, changed, num_moved = literal(theirs, batch)
    assert_same_step(method, losses, theirs, expected)
    theirs.threshold.copy_(theta)
    for ours, other in zip(method.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)  # the pass in evaluation mode moves no statistics
    telemetry = losses.telemetry
    torch.testing.assert_close(telemetry["relabelled"], changed.float().mean())
    assert 0 < telemetry["relabelled"] < 1
    assert num_moved > 0
    assert telemetry["confidence_threshold"] == method.threshold
    assert (method.threshold != changes["confidence_threshold"]) == (method.config.threshold_momentum < 1)
    assert 0 < telemetry["selected"] <= 1
    assert (telemetry["mean_positives"] > 1) == (changes["loss"] == "fpl")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
def test_every_term_reaches_the_weights_that_it_should(loss, autocast):
    method = make(loss=loss, confidence_threshold=0.0)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = method(make_batch_for(method), 0.0)
    reached = {}
    for name, term in losses.terms.items():
        gradients = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients), name
        names = [key for (key, _), g in zip(method.named_parameters(), gradients, strict=True)
                 if g is not None and g.count_nonzero() > 0]  # fmt: skip
        reached[name] = {key.partition(".")[0] for key in names}
        # spread logits carry no gradient, so that the classifier learns from the others alone
        assert any("layers.6" in key for key in names) == ("spread" not in name)
        assert any("layers.0" in key for key in names)
    spread = {"networks", "correlation"}
    assert reached == {name: spread if "spread" in name else {"networks"} for name in losses.terms}
    assert not any(value.requires_grad for value in losses.telemetry.values())
    optimised = {id(p) for group in method.param_groups(OptimConfig()) for p in group["params"]}
    assert optimised == {id(p) for p in method.parameters()}


def test_pseudo_labels_carry_no_gradient():
    method = make(loss="fpl", feature_weight=0.0)
    batch = make_batch_for(method)
    weak = [view._replace(image=view.image.clone().requires_grad_()) for view in batch.unlabelled]
    losses = method(batch._replace(unlabelled=tuple(weak)), 0.0).terms
    total = losses["loss_unsup"] + losses["loss_kl"] + losses["loss_spread"]
    assert torch.autograd.grad(total, [view.image for view in weak], allow_unused=True) == (None, None)


def test_a_gate_that_nothing_passes_and_images_without_a_valid_pixel_are_zero():
    closed = make(loss="ce", gated=True, confidence_threshold=1.0, threshold_momentum=1.0)
    method = make(loss="fpl", weighting="concave")
    batch = make_batch_for(method)
    views = tuple(view._replace(valid=torch.zeros_like(view.valid)) for view in batch.unlabelled)
    nothing = batch._replace(unlabelled=views)
    for losses in (closed(batch, 0.0), method(nothing, 0.0)):
        unsup = sum(term for name, term in losses.terms.items() if "sup" not in name or name == "loss_unsup")
        assert unsup == 0
        unsup.backward()
        assert losses.telemetry["relabelled"] == 0
    for one in (closed, method):
        assert all(p.grad is None or (p.grad == 0).all() for p in one.parameters())
    assert method.threshold == torch.tensor(0.85)  # no pixel, no move
    assert all(count == 0 for name, count in method.denominators(nothing).items() if "_sup" not in name)


def test_a_pixel_that_does_not_count_reaches_nothing_of_the_divergence():
    """Whatever its logits hold; the others have the value and the gradient that a weight of 0 for it gives."""
    method, shape = make(loss="ce"), (2, C, 6, 7)
    logits, weak = (3 * torch.randn(shape) for _ in range(2))
    valid = torch.rand(2, 6, 7) < 0.8
    counted = valid & (torch.rand(2, 6, 7) < 0.6)
    counted[..., :4] = False  # a column more than is spoilt, as interpolation reaches the next one
    logits.requires_grad_()
    expected = consistency_loss(logits, weak, kind="kl", valid_mask=valid, pixel_weight=counted.float())
    (gradient,) = torch.autograd.grad(expected, logits)
    spoilt = logits.detach().masked_fill(torch.arange(7) < 3, float("nan")).requires_grad_()
    loss = method._divergence(spoilt, weak, counted, valid)
    assert_close(loss, expected, **CLOSE)
    assert_close(torch.autograd.grad(loss, spoilt)[0], gradient, **CLOSE)


def test_pixels_are_counted_term_by_term():
    method = make(loss="ce", gated=True)
    batch = make_batch_for(method)
    u, partner = batch.unlabelled
    u = u._replace(valid=torch.rand(u.valid.shape) < 0.7)
    batch = batch._replace(unlabelled=(u, partner))
    mixed = torch.where(batch.strong_masks[0], partner.valid, u.valid).sum()
    labelled = (batch.labelled.label != 255).sum()
    assert method.denominators(batch) == {
        "loss_sup": labelled,
        "loss_sup_spread": labelled,
        "loss_unsup": mixed,
        "loss_kl": mixed,
        "loss_spread": mixed,
        "loss_features": u.valid.sum(),
        "loss_spread_weak": u.valid.sum(),
    }
    assert method.denominators(batch).keys() == method(batch, 0.0).terms.keys()
    assert make(ignore_padding=False).denominators(batch).keys() == {"loss_sup", "loss_sup_spread"}


def test_an_auxiliary_head_learns_on_labelled_images_alone():
    class Network(AuxNetwork):
        def forward_with_high(self, image, **options):
            logits, _, high = super().forward_with_high(image, **options)
            aux = None if self.aux_head is None else self.aux_head(self.layers[:3](image))
            return logits, aux, high

    method = make(loss="ce", network=Network, aux_weight=0.3)
    method.networks[0].dropout.p = 0.0
    plain = copy.deepcopy(method)
    plain.networks[0].aux_head = None
    batch = make_batch_for(method)
    ours, without = (m(batch, 0.0).terms["loss_sup"] for m in (method, plain))
    together = torch.cat([batch.labelled.image, batch.unlabelled[0].image])
    aux = method.networks[0].aux_head(method.networks[0].layers[:3](together))[: len(batch.labelled.image)]
    expected = F.cross_entropy(upsample(aux), batch.labelled.label, ignore_index=255)
    torch.testing.assert_close(ours, without + 0.25 * 0.3 * expected, **CLOSE)


def test_draws_follow_the_seed_of_the_step():
    method = make(loss="ce", gated=True, confidence_threshold=0.3)
    batch = make_batch_for(method)
    first, again, other = (copy.deepcopy(method)(batch._replace(seed=seed), 0.0).terms for seed in (0, 0, 1))
    for name in ("loss_features", "loss_unsup"):  # dropped channels, and regions
        assert first[name] == again[name] != other[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold_momentum": 1.5}, r"method.threshold_momentum must be in \[0, 1\], got 1.5"),
        ({"correlation_share": -0.5}, r"method.correlation_share must be in \[0, 1\], got -0.5"),
        ({"kl_weight": -1.0}, "method.kl_weight must be >= 0, got -1.0"),
        ({"feature_dropout": 1.0}, r"method.feature_dropout must be in \[0, 1\), got 1.0"),
        ({"num_regions": -1}, "method.num_regions must be >= 0, got -1"),
        (
            {"confidence_threshold": 0.95, "gated": True, "threshold_momentum": 1.0},
            "method.confidence_threshold must be below method.threshold 0.9 with",
        ),
        ({"gated": True}, "method.gated must be false with method.loss fpl and a threshold that moves .* got True"),
    ],
)
def test_broken_rules(changes, message):
    with pytest.raises(ValueError, match=message):
        CorrMatchConfig(**changes)


def test_a_threshold_that_gates_no_fuzzy_loss_may_be_high():
    assert CorrMatchConfig(confidence_threshold=0.95, threshold_candidates=(0.5, 0.8)).gate == 0
