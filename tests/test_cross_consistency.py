import copy

import pytest
import torch
from method_cases import CLOSE, C, literal_fpl, make_batch, make_method, upsample
from torch.nn import functional as F

from fpl_fast.trainer.methods import TrainingSet
from fpl_fast.trainer.methods.contours import erase_boxes, find_contours
from fpl_fast.trainer.methods.cross_consistency import CctConfig
from fpl_fast.trainer.methods.perturbations import adversarial_noise
from fpl_fast.trainer.methods.step_random import StepRandom

KINDS = ("dropout", "cutout", "context", "object", "salient", "noise", "adversarial")


def made(loss, **changes):
    return make_method(name="cct", loss=loss, engine="eager", weighting="concave", **changes).train()


def near(mask):
    """The value at every fourth pixel, where the features are."""
    return F.interpolate(mask.unsqueeze(1).float(), (4, 5), mode="nearest")


def literal_features(method, h, main, seed):
    """spec/methods.md section 3.2, decoder by decoder."""
    random, num = StepRandom(seed, h.device), len(h)
    objects = upsample(main).argmax(1) != 0
    for kind, layer in zip(method.decoders.kinds, method.decoders.layers, strict=True):
        if kind == "dropout":
            yield h * 2 * (random.rows(num, 8) >= 0.5).view(num, 8, 1, 1)
        elif kind == "cutout":
            contours = find_contours(objects)
            start = random.rows(num, 2, objects[0].numel() + 1)
            yield h * (1 - near(erase_boxes(contours, start, objects.shape[1:], min_points=50)))
        elif kind in ("context", "object"):
            yield h * near(objects if kind == "context" else ~objects)
        elif kind == "salient":
            gamma = 0.7 + 0.2 * random.common(1)
            yield h * torch.stack([image.mean(0) < gamma * image.mean(0).max() for image in h.detach()]).unsqueeze(1)
        elif kind == "noise":
            yield h + h * (0.6 * random.common(*h.shape[1:]) - 0.3)
        else:
            direction = random.rows(*h.shape) - 0.5
            yield h + adversarial_noise(h, layer, direction, xi=0.1, radius=2.0, num_images=num)


def literal_distance(loss, z, q, t):
    if loss == "mse":
        return F.mse_loss(z.softmax(1), q)
    if loss == "kl":
        return F.kl_div(z.log_softmax(1), q)
    m = (z.softmax(1) + q) / 2
    return (F.kl_div(z.log_softmax(1), m) + F.kl_div((q + 1e-5).log(), m)) / 2


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # a mean over classes, too, is meant
@pytest.mark.parametrize("loss", ["mse", "kl", "js", "ce", "fpl"])
def test_equals_the_literal_version(loss):
    method = made(loss, unsup_weight=3.0, adversarial_decoders=1, ramp_share=0.5)
    assert method.decoders.kinds == [kind for kind in KINDS for _ in range(1 if kind == "adversarial" else 2)]
    literal, batch = copy.deepcopy(method), make_batch(1)._replace(seed=5)
    losses = method(batch, 0.25)
    total = sum(losses.terms.values())
    total.backward()

    x, (u,) = batch.labelled, batch.unlabelled
    sup = F.cross_entropy(upsample(literal.network(x.image)), x.label, ignore_index=255)
    h = literal.network.layers[:-1](u.image)
    main = literal.network.layers[-1](h).detach()
    t = upsample(main)
    students = [
        upsample(layer(perturbed))
        for layer, perturbed in zip(literal.decoders.layers, literal_features(literal, h, main, 5), strict=True)
    ]
    if loss in ("mse", "kl", "js"):
        unsup = sum(literal_distance(loss, z, t.softmax(1), t) for z in students) / len(students)
    else:
        unsup = sum(F.cross_entropy(z, t.argmax(1)) for z in students) / len(students)
        if loss == "fpl":
            pairs = [[y.movedim(1, -1).reshape(-1, C) for y in (z, t)] for z in students]
            results = [literal_fpl(z, q, 0.9, "concave") for z, q in pairs]
            raw = sum((pixels * weights).mean() for pixels, weights in results) / len(students)
            unsup = raw * (unsup / raw).detach()
    expected = sup + 3 * torch.exp(torch.tensor(-1.25)) * unsup
    expected.backward()

    assert losses.terms["loss_unsup"] > 0
    torch.testing.assert_close(total, expected, **CLOSE)
    for (name, ours), theirs in zip(method.named_parameters(), literal.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}", **CLOSE)
    for ours, theirs in zip(method.buffers(), literal.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("loss", ["mse", "kl", "js", "ce", "fpl"])
def test_gradient_reaches_every_decoder_and_the_encoder_and_not_the_target(loss, autocast):
    method = made(loss, adversarial_decoders=2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = method(make_batch(1), 0.0).terms
    terms["loss_unsup"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("networks.0.layers.6"):
            assert parameter.grad is None, name
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.count_nonzero() > 0, name


def test_the_seed_of_the_step_decides():
    batch = make_batch(1)
    losses = [made("mse")(batch._replace(seed=seed), 0.0).terms["loss_unsup"] for seed in (3, 3, 4)]
    assert losses[0] == losses[1] != losses[2]


def test_supervision_may_be_annealed():
    """At first the pixels below a probability of 1 / C alone count, in the end nearly all."""
    method = make_method(name="cct", sup_loss="annealed", loss="mse").train()
    batch = make_batch(1)
    first, last = (method(batch, progress).terms["loss_sup"] for progress in (0.0, 0.9))
    assert first > 1.2 * last
    logits = upsample(method.network(batch.labelled.image))
    plain = F.cross_entropy(logits, batch.labelled.label, ignore_index=255, reduction="none")
    counted = (batch.labelled.label != 255) & ((-plain).exp() < 1 / C)
    torch.testing.assert_close(first, plain[counted].mean(), **CLOSE)


@pytest.mark.parametrize("loss", ["mse", "kl", "fpl"])
def test_padding_counts_unless_ignored(loss):
    batch = make_batch(1)
    (u,) = batch.unlabelled
    nothing = batch._replace(unlabelled=(u._replace(valid=torch.zeros_like(u.valid)),))
    terms = {
        (name, ignore): made(loss, ignore_padding=ignore)(b, 0.0).terms["loss_unsup"].item()
        for name, b in (("padded", batch), ("nothing", nothing))
        for ignore in (False, True)
    }
    assert terms["padded", False] == terms["nothing", False]
    assert terms["nothing", True] == 0
    assert 0 < terms["padded", True] != terms["padded", False]


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_only_sure_pixels_may_count(loss):
    """The loss is a mean over them: one pixel that is not sure changes nothing."""
    batch = make_batch(1)
    method = made(loss, confidence_threshold=0.6)
    losses = method(batch, 0.0)
    assert 0 < losses.telemetry["sure"] < 1
    (u,) = batch.unlabelled
    with torch.no_grad():
        sure = upsample(copy.deepcopy(method).network(u.image)).softmax(1).amax(1) > 0.6
    as_padding = made(loss, ignore_padding=True)
    same = as_padding(batch._replace(unlabelled=(u._replace(valid=sure),)), 0.0)
    torch.testing.assert_close(losses.terms["loss_unsup"], same.terms["loss_unsup"], **CLOSE)
    assert made(loss, confidence_threshold=1.0)(batch, 0.0).terms["loss_unsup"] == 0


def only(**decoders):
    return {f"{kind}_decoders": decoders.get(kind, 0) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_objects_trains(kind):
    """Everything is background: context sees nothing, and the loss stays finite."""
    method = made("mse", **only(**{kind: 1}))
    with torch.no_grad():
        method.network.classifier.bias[0] += 1e4
    loss = method(make_batch(1), 0.0).terms["loss_unsup"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("size", [(1, 1), (3, 9)])
def test_images_of_a_few_pixels_train(size):
    batch = make_batch(1)
    small = [
        view._replace(
            image=view.image[..., : size[0], : size[1]],
            valid=view.valid[..., : size[0], : size[1]],
            label=None if view.label is None else view.label[..., : size[0], : size[1]],
        )
        for view in (batch.labelled, *batch.unlabelled)
    ]
    losses = made("mse", adversarial_decoders=1)(batch._replace(labelled=small[0], unlabelled=(small[1],)), 0.0)
    assert all(term.isfinite() for term in losses.terms.values())


def test_what_is_background_is_a_choice():
    """With another background, context and object decoders change places."""
    method = made("mse", **only(context=1, object=1))
    h, main = torch.rand(2, 8, 4, 5), torch.zeros(2, C, 4, 5)
    main[:, 1, :, 3:] = 9
    main[:, 2, :, :3] = 9
    seen = []
    for layer in method.decoders.layers:
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].count_nonzero(dim=(0, 1, 2)).gt(0)))
    for background in ((1,), (2,)):
        method.decoders.background = torch.tensor([c in background for c in range(C)])
        method.decoders(h, main, (16, 20), StepRandom(0, h.device))
    assert torch.equal(seen[0], seen[3]) and torch.equal(seen[1], seen[2])
    assert torch.equal(seen[0], ~seen[1])


@pytest.mark.parametrize(
    ("background", "message"),
    [
        ((0, 6), r"method.background must hold classes 0 \.\.\. 5, got 6"),
        ((), r"method.background must hold some but not all of the 6 classes, got \(\); without such classes set"),
        ((0, 1, 2, 3, 4, 5), r"method.background must hold some but not all of the 6 classes"),
    ],
)
def test_impossible_background_stops_before_training(background, message):
    with pytest.raises(ValueError, match=message):
        make_method(name="cct", background=background)
    if not set(background) - set(range(C)):
        unguided = {"cutout_decoders": 0, "context_decoders": 0, "object_decoders": 0}
        make_method(name="cct", background=background, **unguided).prepare(TrainingSet(C, 9, 3))


def test_impossible_numbers():
    for settings, message in (
        ({"noise_decoders": -1}, "method.noise_decoders must be >= 0, got -1"),
        (only(), "at least one auxiliary decoder is needed: give one of method.dropout_decoders"),
        ({"adversarial_radius": 0.0}, "method.adversarial_radius must be > 0, got 0.0"),
        ({"annealed_end": 0.0}, r"method.annealed_end must be in \(0, 1\], got 0.0"),
        ({"ramp_share": 1.5}, r"method.ramp_share must be in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            CctConfig(**settings)
