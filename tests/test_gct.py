import copy
import dataclasses

import pytest
import torch
from lightning.fabric import Fabric
from lightning_utilities.core.apply_func import apply_to_collection
from method_cases import SIZE, C, literal_fpl, make_batch, make_method, upsample
from test_flaw_maps import public_blur
from torch.nn import functional as F
from trainer_runs import method_config, tiny_run

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods.gct import GctConfig
from fpl_fast.trainer.optim import build_optimizer
from fpl_fast.trainer.step import set_up_phases, train_step

CLOSE = {"rtol": 1e-4, "atol": 1e-7}  # float64, but for losses that read float32 logits


def made(loss="mse", **changes):
    """A method in float64, whose flaw maps have 2 x 2 cells."""
    settings = {"engine": "eager", "weighting": "concave", "ramp_share": 0.5, "detector_scale": 7} | changes
    return make_method(name="gct", loss=loss, **settings).train().double()


def batch_of(method):
    batch = make_batch(method.num_unlabelled_views)
    return apply_to_collection(batch, torch.Tensor, lambda t: t.double() if t.is_floating_point() else t)


def step(method, batch, progress, num_micro_batches=1, lr=0.01):
    """One step of both phases; returns its values and the gradients that moved the weights."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    config = OptimConfig(lr=lr, momentum=0.0, weight_decay=0.0)
    phases = set_up_phases(fabric, method)
    module, optimizer = fabric.setup(method, build_optimizer(method, config, fabric.device))
    return train_step(fabric, module, optimizer, batch, progress, num_micro_batches=num_micro_batches, phases=phases)


def full(networks, batch):
    """Probabilities of both networks, images one after the other, at full resolution."""
    return [torch.cat([upsample(n(v.image)) for v in (batch.labelled, *batch.unlabelled)]) for n in networks]


def literal_handled(flaws):
    """The handler of the public code, map by map."""
    maps = []
    for one in flaws:
        blurred = public_blur(one.clamp(min=0).unsqueeze(0), min(SIZE) // 16)[0]
        lowest, highest = blurred.min(), blurred.max()
        maps.append((blurred * float(highest > 0.1) - lowest) / (highest - lowest + 1e-9))
    return torch.stack(maps)


def literal_targets(networks, detector, batch, images):
    """Step 0, in passes of its own that move no weight: targets of both networks, and where both are bad."""
    networks, detector = copy.deepcopy(networks), copy.deepcopy(detector)
    with torch.no_grad():
        logits = full(networks, batch)
        left, right = (literal_handled(detector(images, z.softmax(1))) for z in logits)
    both_bad = (left > 0.6) & (right > 0.6)
    left, right = (torch.where(f > 0.6, torch.ones_like(f), f) for f in (left, right))
    own = [(right >= left).unsqueeze(1), (left >= right).unsqueeze(1)]
    return [torch.where(m, z, other) for m, z, other in zip(own, logits, reversed(logits), strict=True)], both_bad


def literal_unsupervised(loss, students, targets, counted):
    """Both directions, over the pixels that count."""
    rows = [[z.movedim(1, -1)[counted] for z in pair] for pair in zip(students, targets, strict=True)]
    if loss == "mse":
        return sum(((z.softmax(1) - t.softmax(1)) ** 2).mean() for z, t in rows)
    plain = sum(F.cross_entropy(z, t.argmax(1)) for z, t in rows)
    if loss == "ce":
        return plain
    raw = sum((pixels * weight).mean() for pixels, weight in (literal_fpl(z, t, 0.9, "concave") for z, t in rows))
    return raw * (plain / raw).detach()


def literal_step(method, batch, loss, progress, lr=0.01):
    """spec/methods.md section 3.3 as the code of CPS has it, with the weights that its two phases leave."""
    config, networks, detector, x = method.config, method.networks, method.detector, batch.labelled
    images = torch.cat([x.image, batch.unlabelled[0].image])
    valid = torch.cat([x.valid, batch.unlabelled[0].valid])
    counted = valid if config.ignore_padding else torch.ones_like(valid)
    targets, both_bad = literal_targets(networks, detector, batch, images)

    students = full(networks, batch)
    sup = sum(F.cross_entropy(z[: len(x.image)], x.label, ignore_index=255) for z in students)
    flaws = [detector(images, z.softmax(1)) for z in students]
    flaw = sum((both_bad[counted] * f[counted] ** 2).mean() for f in flaws)
    ramp = torch.exp(torch.tensor(-5.0) * (1 - min(progress / config.ramp_share, 1)) ** 2)
    unsup = config.unsup_weight * ramp * literal_unsupervised(loss, students, targets, counted)
    (sup + unsup + config.flaw_weight * flaw).backward()
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter -= lr * parameter.grad

    detector.requires_grad_(True)
    losses = []
    for network in networks:
        with torch.no_grad():
            p = full([network], batch)[0].softmax(1)
            one_hot = torch.stack([x.label == c for c in range(C)], 1).double()
            maps = public_blur(0.5 * (one_hot - p[: len(x.image)]).abs().sum(1), min(SIZE) // 8)
            maps = public_blur(F.max_pool2d(F.pad(maps, [1] * 4, mode="reflect"), 3, stride=1), min(SIZE) // 4)
            lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
            maps = (maps - lowest) / (highest - lowest + 1e-9)
        found = detector(images, p)[: len(x.image)]
        found.data.clamp_(min=0)  # in place, as the handler does: the gradient does not notice
        losses.append(10 * F.mse_loss(found, maps))
    detect = (losses[0] + losses[1]) / 2
    detect.backward()
    return {"loss_sup": sup, "loss_unsup": unsup, "loss_flaw": config.flaw_weight * flaw, "loss_detector": detect}


@pytest.mark.parametrize("ignore_padding", [False, True])
@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_a_step_equals_the_literal_version(loss, ignore_padding):
    method = made(loss, unsup_weight=3.0, flaw_weight=2.0, ignore_padding=ignore_padding)
    literal, batch = copy.deepcopy(method), batch_of(method)
    before = copy.deepcopy(method.detector)
    values = step(method, batch, 0.2)
    expected = literal_step(literal, batch, loss, 0.2)

    assert all(expected[name] > 0 for name in expected)
    assert 0 < values["both_bad"] < 0.9 and 0 < values["taught"] < 0.5
    for name, value in expected.items():
        assert values[name].item() == pytest.approx(value.item(), rel=1e-6), name
    assert values["loss"].item() == pytest.approx(sum(expected.values()).item(), rel=1e-6)
    for (name, ours), theirs in zip(method.named_parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
    for ours, theirs in zip(method.networks.parameters(), literal.networks.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    for ours, theirs in zip(method.networks.buffers(), literal.networks.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)

    for ours, theirs in zip(method.detector.parameters(), before.parameters(), strict=True):
        theirs.grad = ours.grad
    torch.optim.Adam(before.parameters(), lr=4e-4, betas=(0.9, 0.99)).step()
    for ours, theirs in zip(method.detector.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["mse", "fpl"])
def test_each_phase_reaches_its_own_weights(loss, autocast):
    method = made(loss).float()
    batch = make_batch(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = method(batch, 0.0).terms
    assert terms.keys() == {"loss_sup", "loss_unsup", "loss_flaw"}
    for name, term in terms.items():
        assert term > 0
        parameters = list(method.networks.parameters())
        for gradient in torch.autograd.grad(term, parameters, retain_graph=True):
            assert gradient.isfinite().all() and gradient.count_nonzero() > 0, name
    assert not any(p.requires_grad for p in method.detector.parameters())

    (phase,) = method.later_phases()
    phase.module.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (term,) = phase.losses(batch, 0.0).terms.values()
    term.backward()
    assert all(p.grad is None for p in method.networks.parameters())
    biases = {name for name, p in method.detector.named_parameters() if p.ndim == 1}
    for name, parameter in method.detector.named_parameters():
        assert parameter.grad.isfinite().all()
        if name not in biases:  # a bias before a normalisation has no effect
            assert parameter.grad.count_nonzero() > 0, name


def test_micro_batches_average_the_detector_gradient():
    """Without normalisations, whose statistics are of a micro-batch."""
    method = made("mse")
    for place, layer in enumerate(method.detector.layers):
        if not isinstance(layer, (torch.nn.Conv2d, torch.nn.LeakyReLU)):
            method.detector.layers[place] = torch.nn.Identity()
    for network in method.networks:
        for place, layer in enumerate(network.layers):
            if isinstance(layer, torch.nn.BatchNorm2d):
                network.layers[place] = torch.nn.Identity()
    whole, batch = copy.deepcopy(method), batch_of(method)
    batch = batch._replace(unlabelled=tuple(apply_to_collection(batch.unlabelled, torch.Tensor, lambda t: t[:2])))
    one, two = (step(m, batch, 0.3, num_micro_batches=num) for m, num in ((whole, 1), (method, 2)))
    torch.testing.assert_close(two["loss_detector"], one["loss_detector"])
    for ours, theirs in zip(method.detector.parameters(), whole.detector.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)


def test_the_weight_rises_over_the_first_part_of_the_run():
    method = made("mse", ramp_share=0.25)
    batch = batch_of(method)
    first, half, full_weight, later = (
        method(batch, progress).terms["loss_unsup"] for progress in (0, 0.125, 0.25, 0.9)
    )
    torch.testing.assert_close(torch.stack([first, half]) / later, torch.tensor([-5.0, -1.25]).exp().to(later.dtype))
    assert full_weight == later


def test_a_network_that_is_right_teaches_the_other():
    """Only pixels at which the other network has fewer flaws have a squared difference to their target."""
    method = made("mse", ramp_share=0.0, unsup_weight=1.0)
    batch = batch_of(method)
    losses = method(batch, 0.0)
    left, right = full(method.networks, batch)
    squares = (left.softmax(1) - right.softmax(1)).square().mean(1)
    assert 0 < losses.telemetry["taught"] < 0.5
    assert 0 < losses.terms["loss_unsup"] < squares.mean()


def test_networks_differ_and_the_first_is_evaluated():
    method = make_method(name="gct")
    first, second = (network.layers[0].weight for network in method.networks)
    assert not torch.equal(first, second)
    assert method.eval_network is method.networks[0]
    assert method.detector.layers[0].in_channels == 3 + C


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ramp_share": 1.5}, r"method.ramp_share must be in \[0, 1\], got 1.5"),
        ({"flaw_threshold": 0.0}, r"method.flaw_threshold must be in \(0, 1\], got 0.0"),
        ({"flaw_weight": -1.0}, "method.flaw_weight must be >= 0, got -1.0"),
        ({"detector_channels": 0}, "method.detector_channels must be >= 1, got 0"),
        ({"detector_lr": 0.0}, "method.detector_lr must be > 0, got 0.0"),
    ],
)
def test_impossible_numbers(settings, message):
    with pytest.raises(ValueError, match=message):
        GctConfig(**settings)


@pytest.mark.parametrize(("crop", "scale", "least"), [((59, 64), 1, 60), ((64, 19), 3, 20)])
def test_small_crops_are_refused_before_training(crop, scale, least):
    config = tiny_run(name="gct")
    augment = dataclasses.replace(config.augment, crop=crop)
    message = rf"augment.crop must be >= {least} pixels on either side with method.name gct, or method.detector_scale"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, augment=augment, method=method_config(name="gct", detector_scale=scale))
    dataclasses.replace(config, augment=augment, method=method_config(name="gct", detector_scale=scale + 1))
    dataclasses.replace(config, augment=augment, method=method_config(name="mean_teacher"))


def test_a_pair_of_networks_alone_has_no_later_phase():
    assert make_method(name="cps").later_phases() == []
