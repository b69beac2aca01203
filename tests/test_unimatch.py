"""FixMatch and UniMatch against spec/methods.md sections 3.7 and 3.8, pass by pass."""

import copy

import pytest
import torch
from method_cases import CLOSE, AuxNetwork, C, assert_same_step, literal_fpl, make_batch_for, make_method, upsample
from torch.nn import functional as F

from fpl_fast.trainer.methods.unimatch import UniMatchConfig

NAMES = ["fixmatch", "unimatch"]


def make(name, **changes):
    return make_method(name=name, engine="eager", **changes).train()


def literal_pixels(z, t, valid, config):
    """The sum over confident pixels inside images, over the number of pixels inside; with its balance for "fpl"."""
    p = t.softmax(1)
    confidence, label = p.max(1)
    counted = valid if config.ignore_padding else torch.ones_like(valid)
    sure = ((confidence >= config.confidence_threshold) & counted)[counted]
    z, t, label = z.movedim(1, -1)[counted], t.movedim(1, -1)[counted], label[counted]
    plain = F.cross_entropy(z, label, reduction="none")
    if config.loss == "ce":
        return (plain * sure).sum() / counted.sum()
    pixels, weights = literal_fpl(z, t, config.threshold, config.weighting)
    balance = (plain.sum() / (pixels * weights).sum()).detach()
    return balance * (pixels * weights * sure).sum() / counted.sum()


def literal(method, batch):
    """The terms of a step."""
    config, (network,) = method.config, method.networks
    x, (u, partner) = batch.labelled, batch.unlabelled
    network.eval()
    with torch.no_grad():
        pasted = upsample(network(partner.image))
    network.train()
    together = torch.cat([x.image, u.image])
    if config.name == "unimatch":
        generator = torch.Generator().manual_seed(batch.seed)
        masks = [torch.rand(n, 8, 1, 1, generator=generator) for _ in range(2) for n in (len(x.image), len(u.image))]
        low_factor, high_factor = (torch.cat(pair).ge(0.5).float() * 2 for pair in (masks[:2], masks[2:]))
        low = network.layers[:3](together)
        clean, dropped = network.layers[3:6](torch.cat([low, low * low_factor])).chunk(2)
        z, perturbed = network.layers[6](torch.cat([clean, dropped * high_factor])).chunk(2)
    else:
        z = network(together)
    t = upsample(z[len(x.image) :]).detach()
    terms = {"loss_sup": F.cross_entropy(upsample(z[: len(x.image)]), x.label, ignore_index=255) / 2}

    images, targets, valids = [], [], []
    for strong, other, mask in zip(u.strong, partner.strong, batch.strong_masks, strict=True):
        m = mask.unsqueeze(1).float()
        images.append(strong * (1 - m) + other * m)
        targets.append(t * (1 - m) + pasted * m)
        valids.append(torch.where(mask, partner.valid, u.valid))
    weight = config.unsup_weight / 2 * (0.25 if config.name == "unimatch" else 1)
    logits = upsample(network(torch.cat(images))).chunk(len(images))
    for name, *parts in zip(("loss_unsup", "loss_unsup_2"), logits, targets, valids, strict=False):
        terms[name] = weight * literal_pixels(*parts, config)
    if config.name == "unimatch":
        perturbed = upsample(perturbed[len(x.image) :])
        terms["loss_features"] = config.unsup_weight / 2 * 0.5 * literal_pixels(perturbed, t, u.valid, config)
    return terms


@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize(("loss", "gate"), [("ce", 0.0), ("ce", 0.6), ("fpl", 0.0), ("fpl", 0.5)])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_literal_version(name, loss, gate, ignore_padding):
    weighting = "concave" if loss == "fpl" else "none"
    method = make(name, loss=loss, confidence_threshold=gate, ignore_padding=ignore_padding, weighting=weighting,
                  unsup_weight=1.5)  # fmt: skip
    theirs, batch = copy.deepcopy(method), make_batch_for(method, seed=3)
    losses = method(batch, 0.0)
    expected = literal(theirs, batch)
    assert_same_step(method, losses, theirs, expected)
    for ours, other in zip(method.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, other, **CLOSE)  # the pass in evaluation mode moves no statistics
    selected = losses.telemetry["selected"]
    assert selected == 1 if gate == 0 else 0 < selected < 1
    assert losses.telemetry["confidence"] > 0
    assert (losses.telemetry["mean_positives"] > 1) == (loss == "fpl")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["ce", "fpl"])
@pytest.mark.parametrize("name", NAMES)
def test_every_term_reaches_every_weight(name, loss, autocast):
    method = make(name, loss=loss)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = method(make_batch_for(method), 0.0)
    for term_name, term in losses.terms.items():
        gradients = torch.autograd.grad(term, list(method.parameters()), retain_graph=True)
        assert all(g.isfinite().all() and g.count_nonzero() > 0 for g in gradients), term_name
    assert not any(value.requires_grad for value in losses.telemetry.values())
    assert method.networks[0].training


@pytest.mark.parametrize("name", NAMES)
def test_pseudo_labels_carry_no_gradient(name):
    """Weak views reach the losses of strong views through targets alone."""
    method = make(name, loss="fpl", feature_weight=0.0) if name == "unimatch" else make(name, loss="fpl")
    batch = make_batch_for(method)
    weak = [view._replace(image=view.image.clone().requires_grad_()) for view in batch.unlabelled]
    losses = method(batch._replace(unlabelled=tuple(weak)), 0.0).terms
    total = sum(term for key, term in losses.items() if key.startswith("loss_unsup"))
    gradients = torch.autograd.grad(total, [view.image for view in weak], allow_unused=True)
    assert gradients == (None, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_gate_that_nothing_passes_is_zero_with_finite_gradient(name):
    method = make(name, loss="ce", confidence_threshold=1.0)
    losses = method(make_batch_for(method), 0.0)
    unsup = sum(term for key, term in losses.terms.items() if key != "loss_sup")
    assert unsup == 0
    unsup.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in method.parameters())
    assert losses.telemetry["selected"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_images_without_a_valid_pixel_are_zero(name):
    method = make(name, loss="fpl", weighting="concave")
    batch = make_batch_for(method)
    views = tuple(view._replace(valid=torch.zeros_like(view.valid)) for view in batch.unlabelled)
    losses = method(batch._replace(unlabelled=views), 0.0)
    assert all(term == 0 for key, term in losses.terms.items() if key != "loss_sup")
    assert all(count == 0 for key, count in method.denominators(batch._replace(unlabelled=views)).items()
               if key != "loss_sup")  # fmt: skip


def test_pixels_are_counted_term_by_term():
    method = make("unimatch", loss="ce")
    batch = make_batch_for(method)
    u, partner = batch.unlabelled
    u = u._replace(valid=torch.rand(u.valid.shape) < 0.7)
    batch = batch._replace(unlabelled=(u, partner))
    counts = method.denominators(batch)
    mixed = [torch.where(mask, partner.valid, u.valid).sum() for mask in batch.strong_masks]
    assert counts == {
        "loss_sup": (batch.labelled.label != 255).sum(),
        "loss_unsup": mixed[0],
        "loss_unsup_2": mixed[1],
        "loss_features": u.valid.sum(),
    }
    assert method.denominators(batch).keys() == method(batch, 0.0).terms.keys()
    assert make("unimatch", ignore_padding=False).denominators(batch).keys() == {"loss_sup"}


def test_an_auxiliary_head_learns_on_labelled_images_alone():
    class Network(AuxNetwork):
        def forward_with_aux(self, image, *, factors=None):
            return super(AuxNetwork, self).forward(image, factors=factors), self.aux_head(self.layers[:3](image))

        def forward(self, image, **options):
            return super(AuxNetwork, self).forward(image, **options)

    for name in NAMES:
        method = make(name, network=Network, aux_weight=0.3)
        plain = copy.deepcopy(method)
        plain.networks[0].aux_head = None
        batch = make_batch_for(method)
        ours, without = (m(batch, 0.0).terms["loss_sup"] for m in (method, plain))
        together = torch.cat([batch.labelled.image, batch.unlabelled[0].image])
        copied = copy.deepcopy(plain).networks[0]
        aux = method.networks[0].aux_head(copied.layers[:3](together))[: len(batch.labelled.image)]
        expected = F.cross_entropy(upsample(aux), batch.labelled.label, ignore_index=255)
        torch.testing.assert_close(ours, without + 0.3 / 2 * expected, **CLOSE)


def test_one_class_everywhere():
    """A network that is certain of one class: no loss, no NaN."""
    for name in NAMES:
        method = make(name, loss="fpl", weighting="concave")
        with torch.no_grad():
            method.networks[0].layers[-1].weight.zero_()
            method.networks[0].layers[-1].bias.copy_(torch.tensor([1e4] + [0.0] * (C - 1)))
        losses = method(make_batch_for(method), 0.0)
        unsup = sum(term for key, term in losses.terms.items() if key != "loss_sup")
        assert unsup == 0
        unsup.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_dropped_channels_follow_the_seed_of_the_step():
    method = make("unimatch", loss="ce")
    batch = make_batch_for(method)
    once, again, other = (method(batch._replace(seed=seed), 0.0).terms["loss_features"] for seed in (5, 5, 6))
    assert once == again != other
    without = make("unimatch", loss="ce", feature_dropout=0.0)
    ours = [without(batch._replace(seed=seed), 0.0).terms["loss_features"] for seed in (5, 6)]
    torch.testing.assert_close(*ours, **CLOSE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_dropout": 1.0}, r"method.feature_dropout must be in \[0, 1\), got 1.0"),
        ({"strong_weight": -1.0}, "method.strong_weight must be >= 0, got -1.0"),
        ({"feature_weight": -1.0}, "method.feature_weight must be >= 0, got -1.0"),
        ({"grey_probability": 1.5}, r"method.grey_probability must be in \[0, 1\], got 1.5"),
        ({"jitter": (-0.1, 0.0, 0.0, 0.0)}, r"method.jitter must be >= 0, got \(-0.1"),
        ({"jitter": (0.1, 0.0, 0.0, 0.6)}, "method.jitter must be at most 0.5 for the hue"),
        ({"blur_sigma": (0.0, 1.0)}, "method.blur_sigma must be an ascending pair > 0, got"),
        ({"mix_area": (0.4, 0.1)}, r"method.mix_area must be an ascending pair in \(0, 1\], got"),
        ({"mix_aspect": (1.5, 3.0)}, "method.mix_aspect must be two factors around 1, .*, got"),
        (
            {"loss": "fpl", "confidence_threshold": 0.95},
            r"method.confidence_threshold must be below method.threshold 0.9 with method.loss fpl, which is the cross "
            r"entropy behind a higher gate \(0 leaves the gate out\), got 0.95",
        ),
    ],
)
def test_broken_rules(changes, message):
    with pytest.raises(ValueError, match=message):
        UniMatchConfig(**changes)
